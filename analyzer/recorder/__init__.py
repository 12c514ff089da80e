"""Gradients recorded while a model trains: subspaces, spectra, sketches and their noise.

Names are imported when they are first used: transformers and Lightning only with their callbacks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from analyzer.lazy import lazy_names

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

__getattr__, __dir__ = lazy_names(__name__, _HOME)
