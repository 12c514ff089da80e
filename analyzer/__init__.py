"""Spectral analysis of neural-network checkpoints: the public Python interface.

Names are imported when they are first used, so that `import analyzer` costs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from analyzer.lazy import lazy_names

if TYPE_CHECKING:
    from analyzer.analyses.emergence import Emergence, gradient_emergence
    from analyzer.analyses.intruders import Intruders, intruder_dimensions
    from analyzer.analyses.limits import HeadLimits, lora_limits
    from analyzer.analyses.tails import TailFit, fit_tail
    from analyzer.checkpoints.checkpoint import Checkpoint, open_checkpoint
    from analyzer.checkpoints.discover import Collection, discover
    from analyzer.errors import WorkbenchError
    from analyzer.models.funbat.fit import fit_funbat
    from analyzer.models.manifold.fit import fit_manifold
    from analyzer.recorder import AnalyzerCallback, LightningRecorder, Recorder
    from analyzer.scanning import ScanSummary, scan
    from analyzer.scanning.options import Options
    from analyzer.spectral import BaseSVD, LowRankUpdate, low_rank_svd, svd_topk, svdvals
    from analyzer.store.reading import Store, connect

_HOME = {
    "AnalyzerCallback": "analyzer.recorder",
    "BaseSVD": "analyzer.spectral",
    "Checkpoint": "analyzer.checkpoints.checkpoint",
    "Collection": "analyzer.checkpoints.discover",
    "Emergence": "analyzer.analyses.emergence",
    "HeadLimits": "analyzer.analyses.limits",
    "Intruders": "analyzer.analyses.intruders",
    "LightningRecorder": "analyzer.recorder",
    "LowRankUpdate": "analyzer.spectral",
    "Options": "analyzer.scanning.options",
    "Recorder": "analyzer.recorder",
    "ScanSummary": "analyzer.scanning",
    "Store": "analyzer.store.reading",
    "TailFit": "analyzer.analyses.tails",
    "WorkbenchError": "analyzer.errors",
    "connect": "analyzer.store.reading",
    "discover": "analyzer.checkpoints.discover",
    "fit_funbat": "analyzer.models.funbat.fit",
    "fit_manifold": "analyzer.models.manifold.fit",
    "fit_tail": "analyzer.analyses.tails",
    "gradient_emergence": "analyzer.analyses.emergence",
    "intruder_dimensions": "analyzer.analyses.intruders",
    "lora_limits": "analyzer.analyses.limits",
    "low_rank_svd": "analyzer.spectral",
    "open_checkpoint": "analyzer.checkpoints.checkpoint",
    "scan": "analyzer.scanning",
    "svd_topk": "analyzer.spectral",
    "svdvals": "analyzer.spectral",
}

__all__ = [
    "AnalyzerCallback",
    "BaseSVD",
    "Checkpoint",
    "Collection",
    "Emergence",
    "HeadLimits",
    "Intruders",
    "LightningRecorder",
    "LowRankUpdate",
    "Options",
    "Recorder",
    "ScanSummary",
    "Store",
    "TailFit",
    "WorkbenchError",
    "connect",
    "discover",
    "fit_funbat",
    "fit_manifold",
    "fit_tail",
    "gradient_emergence",
    "intruder_dimensions",
    "lora_limits",
    "low_rank_svd",
    "open_checkpoint",
    "scan",
    "svd_topk",
    "svdvals",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
