"""Gradients recorded while a model trains: subspaces, spectra, sketches and their noise.

Names are imported when they are first used: transformers and Lightning only with their callbacks.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analyzer.recorder.huggingface import AnalyzerCallback
    from analyzer.recorder.lightning import LightningRecorder
    from analyzer.recorder.recorder import Recorder
    from analyzer.recorder.records import RecordFile, list_records, open_record, read_record
    from analyzer.recorder.schema import (
        Arrays,
        Entry,
        Header,
        NoiseArrays,
        NoiseEntry,
        Record,
        Staleness,
    )

_HOME = {
    "AnalyzerCallback": "analyzer.recorder.huggingface",
    "Arrays": "analyzer.recorder.schema",
    "Entry": "analyzer.recorder.schema",
    "Header": "analyzer.recorder.schema",
    "LightningRecorder": "analyzer.recorder.lightning",
    "NoiseArrays": "analyzer.recorder.schema",
    "NoiseEntry": "analyzer.recorder.schema",
    "Record": "analyzer.recorder.schema",
    "RecordFile": "analyzer.recorder.records",
    "Recorder": "analyzer.recorder.recorder",
    "Staleness": "analyzer.recorder.schema",
    "list_records": "analyzer.recorder.records",
    "open_record": "analyzer.recorder.records",
    "read_record": "analyzer.recorder.records",
}

__all__ = [
    "AnalyzerCallback",
    "Arrays",
    "Entry",
    "Header",
    "LightningRecorder",
    "NoiseArrays",
    "NoiseEntry",
    "Record",
    "RecordFile",
    "Recorder",
    "Staleness",
    "list_records",
    "open_record",
    "read_record",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'analyzer.recorder' has no attribute '{name}'")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
