"""Weight files beside a checkpoint: adapters of their own, and what is left alone."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from analyzer.checkpoints.discover import Collection, discover


def names(collection: Collection) -> list[str]:
    return [checkpoint.name for checkpoint in collection.checkpoints]


def kohya(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    stem = "lora_te_layers_0_q_proj"
    factors = {f"{stem}.lora_down.weight": torch.ones(1, 3), f"{stem}.alpha": torch.tensor(1.0)}
    save_file({**factors, f"{stem}.lora_up.weight": torch.ones(3, 1)}, path)
    return path


def test_an_adapter_beside_a_model_is_a_checkpoint_of_its_own(
    tmp_path: Path, write_model, write_adapter
) -> None:
    folder = write_model(tmp_path / "mymodel")
    kohya(folder / "my_lora.safetensors")
    kohya(folder / "loras" / "other.safetensors")
    write_adapter(folder)
    write_model(tmp_path / "tuned" / "checkpoint-1")
    write_model(tmp_path / "other")
    found = discover(tmp_path)
    assert found.base is not None and found.base.name == "mymodel"
    kinds = {c.name: c.kind for c in found.checkpoints}
    assert kinds == {
        "mymodel": "base", "mymodel/adapter_model.safetensors": "adapter", "other": "full",
        "mymodel/loras/other.safetensors": "adapter", "mymodel/my_lora.safetensors": "adapter",
        "tuned/checkpoint-1": "full",
    }  # fmt: skip
    (peft,) = [c for c in found.checkpoints if c.name.endswith("adapter_model.safetensors")]
    assert peft.config["base_model_name_or_path"] == "org/base-model"
    assert folder / "adapter_config.json" in peft.files
    assert all(c.warnings == () for c in found.checkpoints) and found.refusals == ()
    assert "mymodel/my_lora.safetensors" not in names(discover(tmp_path, exclude=["*/my_lora*"]))
    assert names(discover(folder)) == [
        "mymodel", "adapter_model.safetensors", "loras/other.safetensors", "my_lora.safetensors",
    ]  # fmt: skip


def test_steps_of_an_adapter_beside_its_model(tmp_path: Path, write_model) -> None:
    folder = write_model(tmp_path / "mymodel")
    for step in (100, 200):
        kohya(folder / f"step-{step}.safetensors")
    found = discover(folder)
    assert found.base is not None and found.base.name == "mymodel"
    assert [c.step for c in found.trajectories["mymodel"]] == [100, 200]


def test_another_base_wins_over_the_model_beside_an_adapter(
    tmp_path: Path, write_model, write_adapter
) -> None:
    write_adapter(write_model(tmp_path / "merged"), base="org/start")
    write_model(tmp_path / "start")
    base = discover(tmp_path).base
    assert base is not None and base.name == "start"


def test_an_adapter_beside_a_broken_model_is_still_found(
    tmp_path: Path, write_model, write_adapter
) -> None:
    folder = write_adapter(write_model(tmp_path / "m"))
    (folder / "model.safetensors").write_bytes(b"")
    kohya(folder / "my_lora.safetensors")
    found = discover(tmp_path)
    assert names(found) == ["m/adapter_model.safetensors", "m/my_lora.safetensors"]
    assert [r.path.name for r in found.refusals] == ["model.safetensors"]


def test_a_broken_adapter_beside_a_model_is_refused(
    tmp_path: Path, write_model, write_adapter
) -> None:
    folder = write_adapter(write_model(tmp_path / "m"))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    found = discover(tmp_path)
    assert names(found) == ["m"]
    assert [r.path.name for r in found.refusals] == ["adapter_model.safetensors"]


def test_steps_saved_beside_the_last_one_of_an_mlx_adapter(tmp_path: Path, write_model) -> None:
    write_model(tmp_path / "base")
    (tmp_path / "mlx").mkdir()
    stem = "layers.0.q_proj.lora_"
    for name in ("adapters.safetensors", "0000100_adapters.safetensors"):
        save_file(
            {f"{stem}a": torch.ones(3, 1), f"{stem}b": torch.ones(1, 3)}, tmp_path / "mlx" / name
        )
    (tmp_path / "mlx" / "adapter_config.json").write_text('{"lora_parameters": {"scale": 3.0}}')
    found = discover(tmp_path)
    assert names(found) == ["base", "mlx", "mlx/0000100_adapters.safetensors"]
    assert all(c.config["lora_parameters"] == {"scale": 3.0} for c in found.checkpoints[1:])


def test_weights_that_are_not_read_are_named(tmp_path: Path, write_model) -> None:
    folder = write_model(tmp_path / "model")
    weights = {"layers.0.q_proj.weight": torch.ones(3, 3)}
    torch.save(weights, folder / "pytorch_model.bin")
    torch.save(weights, folder / "pytorch_model-00001-of-00001.bin")
    for name in ("tf_model.h5", "flax_model.msgpack", "optimizer.pt", "training_args.bin"):
        (folder / name).write_bytes(b"\x80")
    assert discover(tmp_path).checkpoints[0].warnings == ()
    save_file(weights, folder / "model.fp16.safetensors")
    (told,) = discover(tmp_path).checkpoints[0].warnings
    assert told == "also holds model.fp16.safetensors, which is not read: pass it by name"
    assert discover(tmp_path, exclude=["*.fp16.*"]).checkpoints[0].warnings == ()
    torch.save(weights, folder / "consolidated.00.pth")
    (folder / "broken.safetensors").write_bytes(b"")
    save_file(weights, folder / "model-00001-of-00001.safetensors")
    (told,) = discover(tmp_path).checkpoints[0].warnings
    assert told == (
        "also holds broken.safetensors, model-00001-of-00001.safetensors, model.fp16.safetensors, "
        "consolidated.00.pth, which are not read: pass them by name"
    )
    torch.save(weights, folder / "more.pt")
    (told,) = discover(tmp_path).checkpoints[0].warnings
    assert "consolidated.00.pth and 1 more, which" in told
