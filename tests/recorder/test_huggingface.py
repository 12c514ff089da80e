"""The callback in a real Trainer."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from analyzer import AnalyzerCallback
from analyzer.errors import UsageError
from analyzer.recorder import list_records, read_record

LENGTH, BATCH, VOCAB = 10, 2, 32


def windows(seed: int, count: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(0, VOCAB, (count, LENGTH), generator=generator)
    return [{"input_ids": row, "labels": row} for row in rows]


def together(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


def trained(folder: Path, callback: AnalyzerCallback | None):
    """A tiny Llama after four optimizer steps of two micro-batches each, clipped."""
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB, hidden_size=16, intermediate_size=40, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=LENGTH,
        )
    )  # fmt: skip
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=4, per_device_train_batch_size=BATCH, save_steps=2,
        gradient_accumulation_steps=2, max_grad_norm=0.05, report_to=[], use_cpu=True,
        disable_tqdm=True, learning_rate=1e-2,
    )  # fmt: skip
    callbacks = [callback] if callback else []
    trainer = Trainer(model, arguments, train_dataset=windows(1, 64), callbacks=callbacks)
    trainer.train()
    return model


def test_records_of_a_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    probes = [together(windows(seed, BATCH)) for seed in (7, 8, 9)]
    with_it = trained(tmp_path / "on", AnalyzerCallback(every=2, rank=4, probe_batches=probes))
    without = trained(tmp_path / "off", None)
    for (name, one), two in zip(with_it.named_parameters(), without.parameters(), strict=True):
        assert torch.equal(one, two), name
    records = [read_record(path) for path in list_records(tmp_path / "on")]
    assert [r.header.step for r in records] == [0, 2]
    for record in records:
        header = record.header
        assert header.clip_state == "after_clipping" and header.accum == 2
        train = [e for e in header.entries if e.batch == "train"]
        assert len(train) == 7 and all(e.name.startswith("model.layers.0") for e in train)
        assert all(e.fro is not None and e.fro > 0 for e in train)
        # clipped to 0.05 over all parameters together
        assert np.sqrt(sum(e.fro**2 for e in train if e.fro)) <= 0.05 * (1 + 1e-5)
        assert {e.n_tokens for e in train} == {2 * BATCH * LENGTH}
        assert {e.batch for e in header.entries} == {"train", "probe"}
        assert len(header.noise) == 7


def test_other_numbers_of_probes_are_refused() -> None:
    with pytest.raises(UsageError, match="2 probe batches"):
        AnalyzerCallback(probe_batches=[{}, {}])
