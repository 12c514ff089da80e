"""`analyzer manifold`: channel orders, continuous weights, alignment, merging, geometry."""

from __future__ import annotations

import click

from analyzer.cli.manifold.align import align
from analyzer.cli.manifold.embed import embed
from analyzer.cli.manifold.fit import fit
from analyzer.cli.manifold.heads import heads
from analyzer.cli.manifold.merge import merge
from analyzer.cli.manifold.path import path
from analyzer.cli.manifold.sample import sample
from analyzer.cli.manifold.scan import scan


@click.group()
def manifold() -> None:
    """Weight manifolds (NeuMeta, arXiv 2410.11878) and the geometry of checkpoints."""


for command in (scan, fit, heads, sample, align, merge, path, embed):
    manifold.add_command(command)
