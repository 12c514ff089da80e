"""Text → sequences of equally many tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analyzer.activations.loading import load_tokenizer, one_line
from analyzer.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

BYTES = 256
DEFAULT_LENGTH = 512


def sequences(
    path: Path, config: Any, text: str, length: int | None, max_tokens: int
) -> NDArray[np.int64]:
    """Token ids (N, L) of `text` with L = `length`, by default the model's context or 512 if less.

    At most `max_tokens` tokens, consecutive pieces of the text, each with the special tokens its
    tokenizer adds; a rest shorter than L is dropped, a text shorter than L is one sequence. A model
    of 256 tokens without a tokenizer reads UTF-8 bytes. Raises UsageError if there are fewer than
    two tokens, no tokenizer, or L does not suit the model.
    """
    context: int | None = getattr(config, "max_position_embeddings", None)
    if length is None:
        length = min(context or DEFAULT_LENGTH, DEFAULT_LENGTH)
    elif context and length > context:
        raise UsageError(f"sequences of {length} tokens", path=path, hint=f"it reads {context}")
    length = min(length, max_tokens)
    if length < 2:
        raise UsageError("sequences of fewer than 2 tokens", hint="attention needs 2 or more")
    ids = np.array(_pieces(path, config, text, length), dtype=np.int64)
    if ids.shape[1] < 2:
        raise UsageError("the text has fewer than 2 tokens", hint="pass a longer text")
    ids = ids[: max_tokens // ids.shape[1]]
    if ids.max() >= config.vocab_size:
        raise UsageError(
            f"the tokenizer gives token {ids.max()}, the model knows {config.vocab_size}",
            path=path,
            hint="the tokenizer is of another model",
        )
    return ids


def _pieces(path: Path, config: Any, text: str, length: int) -> list[list[int]]:
    """All pieces of `length` tokens; the only one if the text is too short for that."""
    tokenizer = load_tokenizer(path)
    if tokenizer is None:
        if config.vocab_size != BYTES:
            raise UsageError(
                "no tokenizer", path=path, hint="put tokenizer.json beside the weights"
            )
        pieces = _cut(list(text.encode()), length)
    else:
        room = length - tokenizer.num_special_tokens_to_add()
        if room < 1:
            raise UsageError(
                f"sequences of {length} tokens hold no text beside the special tokens",
                path=path,
                hint="pass a larger length",
            )
        with one_line(path, "the tokenizer fails on the text"):
            pieces = _tokenized(tokenizer, text, length, room)
    return [piece for piece in pieces if len(piece) == length] or pieces[:1] or [[]]


def _tokenized(tokenizer: Any, text: str, length: int, room: int) -> list[list[int]]:
    """Pieces with special tokens, of `length` tokens and `room` without them."""
    if tokenizer.is_fast:
        pieces = tokenizer(text, truncation=True, max_length=length, return_overflowing_tokens=True)
        return pieces["input_ids"]
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return [tokenizer.build_inputs_with_special_tokens(piece) for piece in _cut(ids, room)]


def _cut(ids: list[int], length: int) -> list[list[int]]:
    return [ids[start : start + length] for start in range(0, len(ids), length)]
