"""`analyzer capture`."""

from __future__ import annotations

from pathlib import Path

import click

from analyzer.cli.progress import list_messages, progress_bar


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("text", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Safetensors file."
)
@click.option(
    "--length",
    type=click.IntRange(2),
    help="Tokens a sequence [the model's context, at most 512].",
)
@click.option(
    "--max-tokens", type=click.IntRange(2), default=2048, show_default=True, help="Tokens in all."
)
@click.option("--device", default="cpu", show_default=True, help="auto, cpu, cuda or cuda:N.")
def capture(
    model: Path, text: Path, output: Path, length: int | None, max_tokens: int, device: str
) -> int:
    """Run MODEL on the text file TEXT and save what its attention layers were given.

    MODEL is a local folder of a text model for transformers, saved as safetensors. The file holds
    the input of every query projection, after the norm layer in front of it.
    """
    from analyzer.activations.capture import capture as capture_text
    from analyzer.activations.format import write_activations
    from analyzer.scanning.limits.calibration import read_text
    from analyzer.scanning.pool import Progress

    content = read_text(text)
    _refuse_unwritable(output)
    with progress_bar(False) as report:
        captured = capture_text(
            model,
            content,
            length=length,
            max_tokens=max_tokens,
            device=device,
            progress=lambda done, total: report(Progress(done / total, "reading the text")),
        )
    write_activations(output, captured.tensors, None, captured.metadata)
    list_messages("skipped", captured.skipped)
    size = output.stat().st_size / 1e6
    click.echo(
        f"{len(captured.tensors)} modules, {captured.n_samples} × {captured.length} tokens,"
        f" {size:.1f} MB → {output}",
        err=True,
    )
    return 3 if captured.skipped else 0


def _refuse_unwritable(output: Path) -> None:
    """Before the model runs rather than after."""
    from analyzer.errors import UsageError

    if output.suffix == ".npy":
        raise UsageError("one .npy holds one module", path=output, hint="use .safetensors")
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise UsageError(
            "cannot be written", path=output, hint="name a file in a folder that exists"
        )
