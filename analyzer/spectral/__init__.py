"""The spectral engine: singular values and vectors with an error bound, usable on any array."""

from analyzer.spectral.backend import CPU, Backend
from analyzer.spectral.base_svd import BaseSVD
from analyzer.spectral.clusters import clusters
from analyzer.spectral.count_sketch import count_sketch
from analyzer.spectral.devices import get_backend
from analyzer.spectral.frequent_directions import FrequentDirections
from analyzer.spectral.gram import batched_svdvals, svdvals
from analyzer.spectral.low_rank import low_rank_svd
from analyzer.spectral.results import LowRankSVD, Spectrum, TopK, UpdatedTopK
from analyzer.spectral.topk import svd_topk
from analyzer.spectral.update import LowRankUpdate
from analyzer.spectral.warm_start import LeadingSubspace, leading_subspace

__all__ = [
    "CPU",
    "Backend",
    "BaseSVD",
    "FrequentDirections",
    "LeadingSubspace",
    "LowRankSVD",
    "LowRankUpdate",
    "Spectrum",
    "TopK",
    "UpdatedTopK",
    "batched_svdvals",
    "clusters",
    "count_sketch",
    "get_backend",
    "leading_subspace",
    "low_rank_svd",
    "svd_topk",
    "svdvals",
]
