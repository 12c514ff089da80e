"""Weights as the output of small networks of their coordinates, one network a tensor (NeuMeta).

X. Yang & X. Wang, "Neural Metamorphosis", arXiv 2410.11878, ECCV 2024. As published but for two
things. A noisy tensor index no longer picks the network and a noisy size no longer divides its
output: both come from the exact coordinates (`published_routing` restores the old behaviour for
comparison). Phases of the encoding are reduced in float64.
"""

from analyzer.models.manifold.inr.design import Design, design_for, resized_shapes
from analyzer.models.manifold.inr.evaluation import Evaluation, evaluate
from analyzer.models.manifold.inr.generation import generate, sample
from analyzer.models.manifold.inr.network import ResidualMLP, WeightNetwork
from analyzer.models.manifold.inr.reconstruction import ImplicitFit, fit_implicit
from analyzer.models.manifold.inr.saving import load_network, save_network
from analyzer.models.manifold.inr.training import (
    ImplicitTraining,
    TrainingSettings,
    train_implicit,
)

__all__ = [
    "Design",
    "Evaluation",
    "ImplicitFit",
    "ImplicitTraining",
    "ResidualMLP",
    "TrainingSettings",
    "WeightNetwork",
    "design_for",
    "evaluate",
    "fit_implicit",
    "generate",
    "load_network",
    "resized_shapes",
    "sample",
    "save_network",
    "train_implicit",
]
