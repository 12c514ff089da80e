"""From a folder of checkpoints to rows in the store."""

from analyzer.scanning.pool import Progress
from analyzer.scanning.run import ScanSummary, scan

__all__ = ["Progress", "ScanSummary", "scan"]
