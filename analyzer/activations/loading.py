"""A model and its tokenizer from a local folder, through `transformers`, without foreign code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.errors import (
    CheckpointError,
    MissingExtra,
    UnsafePickle,
    UnsupportedFormat,
    UsageError,
    WorkbenchError,
)

OWN_ACTIVATIONS = (
    "save activations yourself; `python -m pydoc analyzer.activations.format` describes the file"
)
_CAUSAL = ("ForCausalLM", "LMHeadModel")
_TOKENIZER_FILES = ("tokenizer*", "vocab.*", "*.tiktoken", "spiece.model", "sentencepiece*.model")
_LONGEST_REASON = 200


def load_config(checkpoint: Checkpoint) -> Any:
    """The configuration of a text model saved as safetensors.

    Raises MissingExtra without `transformers`, UsageError for an adapter or a bare file,
    UnsafePickle for weights in a pickle, UnsupportedFormat for a model that reads more than text.
    """
    path = checkpoint.path
    if checkpoint.kind == "adapter":
        raise UsageError("an adapter", path=path, hint="pass the base model it was trained on")
    if not (path / "config.json").is_file():
        raise UsageError(
            "no config.json", path=path, hint="pass the folder of a model for transformers"
        )
    if (path / "adapter_config.json").is_file():
        raise UsageError(
            "an adapter lies beside the model", path=path, hint="move it to a folder of its own"
        )
    if checkpoint.format != "safetensors":
        raise UnsafePickle(
            "the weights are not safetensors: loading a pickle could run code",
            path=path,
            hint="save the model with save_pretrained",
        )
    try:
        from transformers import AutoConfig
    except ImportError:
        raise MissingExtra(
            "running the model needs transformers",
            hint="pip install 'spectral-workbench[calibration]'",
        ) from None
    with one_line(path, "transformers cannot read its configuration"):
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    text_only = not (hasattr(config, "vision_config") or hasattr(config, "audio_config"))
    if not text_only or not isinstance(getattr(config, "vocab_size", None), int):
        raise _not_text(path, config)
    return config


def load_model(path: Path, config: Any, device: str) -> Any:
    """The model without its head, in float32, for inference.

    Raises CheckpointError if `transformers` cannot load it or misses weights,
    UnsupportedFormat if it reads something other than tokens.
    """
    import torch
    import transformers

    causal = any(name.endswith(_CAUSAL) for name in config.architectures or ())
    kind: Any = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
    with one_line(path, "transformers cannot load it"), _quiet():
        model, found = kind.from_pretrained(
            path,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    # A pooler behind the last layer is often left out of a checkpoint, and nothing here needs it.
    if missing := sorted(name for name in found["missing_keys"] if "pooler" not in name):
        raise CheckpointError(
            f"{len(missing)} weights the model needs are absent, such as {missing[0]}",
            path=path,
            hint="config.json and weights are of different models",
        )
    if model.main_input_name != "input_ids":
        raise _not_text(path, config)
    model.config.use_cache = False
    with one_line(path, f"cannot be moved to {device}"):
        return model.base_model.eval().requires_grad_(False).to(device)


def load_tokenizer(path: Path) -> Any | None:
    """The folder's tokenizer, None if it holds none. Raises CheckpointError if it cannot load."""
    from transformers import AutoTokenizer

    if not any(next(path.glob(pattern), None) for pattern in _TOKENIZER_FILES):
        return None
    with one_line(path, "transformers cannot load its tokenizer"), _quiet():
        return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)


@contextmanager
def one_line(path: Path, what: str) -> Iterator[None]:
    """Raise whatever a library raises as a CheckpointError of one line."""
    try:
        yield
    except WorkbenchError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        raise CheckpointError(f"{what}: {reason[:_LONGEST_REASON]}", path=path) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars and reports of `transformers`, which concern the unused head."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _not_text(path: Path, config: Any) -> UnsupportedFormat:
    return UnsupportedFormat(
        f"a {config.model_type} model does not read text alone", path=path, hint=OWN_ACTIVATIONS
    )
