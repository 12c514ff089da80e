"""Orders of one checkpoint's units that bring its weights, or its activations, to another's.

Weight matching: S. Ainsworth, J. Hayase & S. Srinivasa, "Git Re-Basin", arXiv 2209.04836, ICLR
2023, algorithm 1, as in `theory.alignment`, on permutation groups of files: a tensor is read and
reordered when it is needed, so that one pair of tensors is in memory. Units that hold units of
their own (key heads with their query heads, experts with their hidden units) are matched on the
best match of what is inside, for every pair of them.
"""

from analyzer.models.manifold.align.activations import match_activations
from analyzer.models.manifold.align.aligned import Alignment, Distance, align
from analyzer.models.manifold.align.ascent import Matching, match_weights

__all__ = [
    "Alignment",
    "Distance",
    "Matching",
    "align",
    "match_activations",
    "match_weights",
]
