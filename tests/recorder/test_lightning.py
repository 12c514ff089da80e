"""The Lightning callback, driven as Lightning drives it, over a stand-in for the package."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType, SimpleNamespace

import pytest
import torch

from analyzer.errors import MissingExtra
from analyzer.recorder import list_records, read_record


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """The callback's module is imported anew, and forgotten afterwards."""
    monkeypatch.delitem(sys.modules, "analyzer.recorder.lightning", raising=False)


def test_records_before_each_step(
    tmp_path, monkeypatch, fresh, make_net, net_loss, net_batch
) -> None:
    package = ModuleType("lightning.pytorch")
    package.Callback = type("Callback", (), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lightning", ModuleType("lightning"))
    monkeypatch.setitem(sys.modules, "lightning.pytorch", package)
    callback = import_module("analyzer.recorder.lightning").LightningRecorder(tmp_path, every=2)
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = SimpleNamespace(
        optimizers=[optimizer], default_root_dir="unused", accumulate_grad_batches=1, global_step=0
    )
    callback.on_train_start(trainer, model)
    norms = []
    for step in range(4):
        trainer.global_step = step
        net_loss(model, net_batch(step)).backward()
        callback.on_before_optimizer_step(trainer, model, optimizer)
        norms.append(float(model.layers[0].weight.grad.norm()))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        optimizer.step()
        optimizer.zero_grad()
    callback.on_train_end(trainer, model)
    records = [read_record(path) for path in list_records(tmp_path)]
    assert [record.header.step for record in records] == [0, 2]
    for record in records:
        assert record.header.clip_state == "before_clipping"
        (entry,) = [e for e in record.header.entries if e.name == "layers.0.weight"]
        assert entry.fro == pytest.approx(norms[record.header.step], rel=1e-5)


def test_without_lightning_the_package_is_named(monkeypatch, fresh) -> None:
    for name in ("lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match="pip install lightning"):
        import_module("analyzer.recorder.lightning")
