"""Several checkpoints merged into one that is written to disk.

Linear and spherical interpolation, the mean on the sphere (`theory.paths`), sequential merging by
orthogonal projection (`theory.opcm`) and averages of aligned checkpoints (N. Saadati et al.,
"DIMAT", CVPR 2024). All compute in float64, a tensor at a time, and save every tensor under the
name, in the dtype and in the order of the reference: the base, else the first checkpoint. Floating
buffers, such as the running statistics of batch norms, are averaged linearly by every method;
integers are the reference's.
"""

from analyzer.models.manifold.merging.dimat import merge_dimat
from analyzer.models.manifold.merging.linear import (
    merge_karcher,
    merge_lerp,
    merge_slerp,
    spherical,
)
from analyzer.models.manifold.merging.opcm import merge_opcm
from analyzer.models.manifold.merging.result import Merged
from analyzer.models.manifold.merging.sources import Ingredients, ingredients

__all__ = [
    "Ingredients",
    "Merged",
    "ingredients",
    "merge_dimat",
    "merge_karcher",
    "merge_lerp",
    "merge_opcm",
    "merge_slerp",
    "spherical",
]
