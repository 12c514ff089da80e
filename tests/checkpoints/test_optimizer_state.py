"""Optimizer files beside checkpoints: what they hold, what is refused, and that nothing runs."""

from __future__ import annotations

import os
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers as hf
from safetensors.numpy import save_file

from analyzer.checkpoints.checkpoint import open_checkpoint
from analyzer.checkpoints.folder import is_weight_file
from analyzer.checkpoints.optimizer_state import OptimizerState, open_optimizer
from analyzer.errors import CheckpointError, CorruptFile, UnsupportedFormat

SHAPES = {"self_attn.q_proj": (8, 8), "mlp.up_proj": (12, 8), "mlp.down_proj": (8, 12)}
NAMES = [f"model.layers.{layer}.{part}.weight" for layer in (0, 1) for part in SHAPES]
ALL_SHAPES = [*SHAPES.values(), *SHAPES.values()]
GALORE = "galore_torch.galore_projector"


class Marker:
    """Writes a file when unpickled by a reader that calls what it is told to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint whose file is sorted by name: the module order has to be restored."""
    folder = tmp_path / "checkpoint-7"
    folder.mkdir()
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in zip(NAMES, ALL_SHAPES, strict=True)
    }
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture
def projector_class() -> Iterator[type]:
    """GaLore's class as its package has it; the module is gone when the file is read."""
    module = types.ModuleType(GALORE)

    class GaLoreProjector:
        def __init__(self, matrix: Any, proj_type: str, rank: int) -> None:
            self.rank, self.verbose, self.update_proj_gap = rank, False, 200
            self.scale, self.proj_type, self.ortho_matrix = 0.25, proj_type, matrix

    GaLoreProjector.__module__, GaLoreProjector.__qualname__ = GALORE, "GaLoreProjector"
    module.GaLoreProjector = GaLoreProjector  # type: ignore[attr-defined]
    sys.modules["galore_torch"] = types.ModuleType("galore_torch")
    sys.modules[GALORE] = module
    yield GaLoreProjector
    for name in ("galore_torch", GALORE):
        sys.modules.pop(name, None)


def adam(shapes: list[tuple[int, ...]] = ALL_SHAPES, **more: Any) -> dict[str, Any]:
    """A state_dict of AdamW after 7 steps."""
    torch.manual_seed(1)
    states = {
        i: {"step": torch.tensor(7.0), "exp_avg": torch.randn(shape),
            "exp_avg_sq": torch.rand(shape), **more}
        for i, shape in enumerate(shapes)
    }  # fmt: skip
    group = {
        "lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1,
        "params": list(range(len(shapes))),
    }  # fmt: skip
    return {"state": states, "param_groups": [group]}


def saved(folder: Path, state: Any, name: str = "optimizer.pt", **options: Any) -> OptimizerState:
    torch.save(state, folder / name, **options)
    found = open_optimizer(open_checkpoint(folder))
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["optimizer.pt", "optimizer.bin"])
@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
def test_moments_and_settings(name: str, options: dict[str, Any], folder: Path) -> None:
    state = adam()
    found = saved(folder, state, name, **options)
    assert (found.kind, found.path, found.warnings) == ("adam", folder / name, ())
    assert [p.name for p in found.parameters] == NAMES
    for number, parameter in enumerate(found.parameters):
        assert torch.equal(parameter.exp_avg(), state["state"][number]["exp_avg"])
        assert torch.equal(parameter.exp_avg_sq(), state["state"][number]["exp_avg_sq"])
        assert (parameter.rows, parameter.cols) == parameter.shape == ALL_SHAPES[number]
        settings = (parameter.beta1, parameter.beta2, parameter.eps, parameter.lr)
        assert (*settings, parameter.weight_decay) == (0.9, 0.95, 1e-8, 1e-3, 0.1)
        assert parameter.step == 7 and parameter.projected is None
        with pytest.raises(ValueError, match="has no projector"):
            parameter.projector()


def test_without_an_optimizer_there_is_none(folder: Path) -> None:
    assert open_optimizer(open_checkpoint(folder)) is None


def test_an_optimizer_beside_several_loose_files_belongs_to_none(folder: Path) -> None:
    torch.save(adam(), folder / "optimizer.pt")
    weights = folder / "model.safetensors"
    found = open_optimizer(open_checkpoint(weights))
    assert found is not None and len(found.parameters) == len(NAMES)
    (folder / "other.safetensors").write_bytes(weights.read_bytes())
    assert open_optimizer(open_checkpoint(weights)) is None


def test_numbers_in_tensors_and_numbers_that_are_absent(folder: Path) -> None:
    state = adam()
    group = state["param_groups"][0]
    group["lr"] = torch.tensor(0.5)
    del group["betas"]
    group["eps"] = float("nan")
    group["weight_decay"] = 10**400
    for entry in state["state"].values():
        entry["step"] = 3
    del state["state"][0]["step"]
    first, second, *_ = saved(folder, state).parameters
    assert (first.step, second.step, first.lr) == (None, 3, 0.5)
    assert (first.beta1, first.beta2, first.eps, first.weight_decay) == (None,) * 4


def test_bfloat16_moments_keep_their_dtype(folder: Path) -> None:
    state = adam()
    for entry in state["state"].values():
        entry["exp_avg"] = entry["exp_avg"].bfloat16()
    found = saved(folder, state).parameters[2]
    assert torch.equal(found.exp_avg(), state["state"][2]["exp_avg"])


def test_moments_are_read_when_asked_for(folder: Path) -> None:
    found = saved(folder, adam())
    os.truncate(found.path, 100)
    with pytest.raises(CorruptFile, match=r"q_proj\.weight exp_avg.*scan again"):
        found.parameters[0].exp_avg()


def test_parameters_given_by_name(folder: Path) -> None:
    order = [3, 0, 5, 1, 4, 2]
    state = adam([ALL_SHAPES[i] for i in order])
    state["param_groups"][0]["param_names"] = [f"module._orig_mod.{NAMES[i]}" for i in order]
    assert [p.name for p in saved(folder, state).parameters] == [NAMES[i] for i in order]
    # As FSDP gathers it: names in the place of numbers.
    by_name = {NAMES[i]: state["state"][place] for place, i in enumerate(order)}
    groups = [{"params": list(by_name), "betas": (0.9, 0.999)}]
    found = saved(folder, {"state": by_name, "param_groups": groups})
    assert all(torch.equal(p.exp_avg(), by_name[p.name]["exp_avg"]) for p in found.parameters)


def test_a_named_parameter_without_a_tensor_is_left_out_with_a_warning(folder: Path) -> None:
    state = adam([*ALL_SHAPES, (4, 4)])
    state["param_groups"][0]["param_names"] = [*NAMES, "model.extra.weight"]
    found = saved(folder, state)
    assert [p.name for p in found.parameters] == NAMES
    assert found.warnings == ("1 parameters of the optimizer have no tensor: model.extra.weight",)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
def test_a_truncated_file_is_named(keep: float, options: dict[str, Any], folder: Path) -> None:
    path = folder / "optimizer.pt"
    torch.save(adam(), path, **options)
    os.truncate(path, int(keep * path.stat().st_size))
    with pytest.raises(CorruptFile) as caught:
        open_optimizer(open_checkpoint(folder))
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda s: s["state"].update({99: s["state"][0]}), "a parameter that is in no group"),
        (lambda s: s["state"].update({10**5000: s["state"][0]}), "a parameter that is in no group"),
        (lambda s: s["param_groups"][0]["params"].append(10**5000), "without a list"),
        (lambda s: s["param_groups"][0]["params"].append(0), "a parameter that occurs twice"),
        (lambda s: s["param_groups"][0].update(params=None), "a group without a list"),
        (lambda s: s["param_groups"][0].update(param_names=["a"]), "param_names do not fit"),
        (lambda s: s["state"][1].update(exp_avg=torch.ones(2, 2)), r"moments of \(2, 2\) and"),
        (lambda s: s["state"].update({1: [1, 2]}), "not a dictionary"),
        (lambda s: s["state"][1].update(step=torch.tensor(-1.0)), r"a step of -1\.0"),
        (lambda s: s["state"][1].update(step=1.5), r"a step of 1\.5"),
    ],
)
def test_contradictions_are_refused(
    change: Callable[[Any], None], why: str, folder: Path
) -> None:  # fmt: skip
    state = adam()
    change(state)
    with pytest.raises(CorruptFile, match=why):
        saved(folder, state)


def test_other_optimizers_are_refused(folder: Path) -> None:
    state = adam()
    eight_bit = {"state1": torch.zeros(8, 8, dtype=torch.uint8), "qmap1": torch.zeros(256)}
    state["state"][0] = {"step": 7, **eight_bit, "state2": eight_bit["state1"]}
    with pytest.raises(UnsupportedFormat, match="8-bit state: parameter 0 keeps state1 as uint8"):
        saved(folder, state)
    state["state"][0] = {"momentum_buffer": torch.zeros(8, 8), 10**5000: 1}
    with pytest.raises(UnsupportedFormat, match=r"not the state of Adam.*momentum_buffer"):
        saved(folder, state)
    with pytest.raises(UnsupportedFormat, match="lacks state and param_groups"):
        saved(folder, {"weights": torch.ones(2)})
    (folder / "optimizer.pt").write_bytes(pickle.dumps(adam(), protocol=2))
    with pytest.raises(CheckpointError, match="plain Python pickle"):
        open_optimizer(open_checkpoint(folder))


def test_32_bit_states_of_bitsandbytes(folder: Path) -> None:
    state = adam()
    want = {number: dict(entry) for number, entry in state["state"].items()}
    for entry in state["state"].values():
        entry["state1"], entry["state2"] = entry.pop("exp_avg"), entry.pop("exp_avg_sq")
    for number, parameter in enumerate(saved(folder, state).parameters):
        assert torch.equal(parameter.exp_avg(), want[number]["exp_avg"])
        assert torch.equal(parameter.exp_avg_sq(), want[number]["exp_avg_sq"])


def projected(cls: type, proj_type: str, rank: int) -> tuple[dict[str, Any], list[Any]]:
    """State of GaLore's AdamW, its projectors as galore-torch makes them, and these."""
    state = adam()
    matrices = []
    for entry, (rows, cols) in zip(state["state"].values(), ALL_SHAPES, strict=True):
        P, Qt = torch.randn(rows, rank), torch.randn(rank, cols)
        G = torch.randn(rows, cols)
        tall = rows >= cols
        right = proj_type == "right" or (proj_type == "std" and tall)
        right = right or (proj_type == "reverse_std" and not tall)
        if proj_type == "full":
            matrix, low = [P, Qt], P.T @ G @ Qt.T
        else:
            matrix, low = (Qt, G @ Qt.T) if right else (P, P.T @ G)
        entry |= {"step": 7, "exp_avg": low, "exp_avg_sq": low**2}
        entry["projector"] = cls(matrix, proj_type, rank)
        matrices.append(matrix)
    state["param_groups"][0] |= {"rank": rank, "proj_type": proj_type}
    return state, matrices


@pytest.mark.parametrize("rank", [4, 8])
@pytest.mark.parametrize("proj_type", ["std", "reverse_std", "left", "right", "full"])
def test_the_projector_of_galore_is_read_without_its_class(
    proj_type: str, rank: int, projector_class: type, folder: Path
) -> None:
    state, matrices = projected(projector_class, proj_type, rank)
    torch.save(state, folder / "optimizer.pt")
    for name in ("galore_torch", GALORE):
        del sys.modules[name]
    found = open_optimizer(open_checkpoint(folder))
    assert GALORE not in sys.modules
    assert found is not None and (found.kind, found.warnings) == ("galore_adam", ())
    assert [p.name for p in found.parameters] == NAMES
    for number, parameter in enumerate(found.parameters):
        low, matrix = state["state"][number]["exp_avg"], matrices[number]
        assert torch.equal(parameter.exp_avg(), low) and parameter.shape == ALL_SHAPES[number]
        projection = parameter.projected
        assert projection is not None
        assert (projection.rank, projection.update_proj_gap, projection.scale) == (rank, 200, 0.25)
        assert projection.proj_type == proj_type
        if projection.side == "full":
            P, Qt = parameter.projector("left"), parameter.projector("right")
            assert torch.equal(P, matrix[0]) and torch.equal(Qt, matrix[1])
            assert (P @ low @ Qt).shape == parameter.shape
            continue
        assert torch.equal(parameter.projector(), matrix)
        back = low @ matrix if projection.side == "right" else matrix @ low
        assert back.shape == parameter.shape


def test_projected_and_other_parameters_in_two_groups(
    projector_class: type, folder: Path
) -> None:  # fmt: skip
    state, _ = projected(projector_class, "std", 4)
    first = state["param_groups"][0]
    head = {"step": 7, "exp_avg": torch.ones(30, 8), "exp_avg_sq": torch.ones(30, 8)}
    state["state"] = {0: head} | {i + 1: entry for i, entry in state["state"].items()}
    state["param_groups"] = [{"params": [0]}, first | {"params": [1, 2, 3, 4, 5, 6]}]
    tensors = {t.name: open_checkpoint(folder).read(t.name).numpy().copy()
               for t in open_checkpoint(folder).tensors()}  # fmt: skip
    save_file(tensors | {"lm_head.weight": np.ones((30, 8))}, folder / "model.safetensors")
    found = saved(folder, state)
    assert [p.name for p in found.parameters] == ["lm_head.weight", *NAMES]
    assert found.parameters[0].projected is None and found.parameters[1].projected is not None


@pytest.mark.parametrize("spoil", ["matrix", "rank", "kind", "missing"])
def test_a_projector_that_does_not_fit_is_refused(
    spoil: str, projector_class: type, folder: Path
) -> None:
    state, _ = projected(projector_class, "std", 4)
    projector = state["state"][1]["projector"]
    if spoil == "matrix":
        projector.ortho_matrix = torch.ones(3, 3, 3)
    elif spoil == "rank":
        projector.ortho_matrix = torch.ones(5, 8)
    elif spoil == "kind":
        projector.proj_type = "left"
    else:
        projector.ortho_matrix = None
    with pytest.raises(CorruptFile, match=r"parameter 1 has moments of .* do not fit its"):
        saved(folder, state)


def test_code_in_the_place_of_a_projector_never_runs(
    projector_class: type, folder: Path, tmp_path: Path
) -> None:
    marker, proof = tmp_path / "ran", tmp_path / "proof"
    state, _ = projected(projector_class, "std", 4)
    state["state"][1]["projector"] = Marker(marker)
    with pytest.raises(UnsupportedFormat, match="parameter 1 has a projector that is not GaLore's"):
        saved(folder, state)
    state, _ = projected(projector_class, "std", 4)
    state["state"][1]["projector"].ortho_matrix = Marker(marker)
    with pytest.raises(CorruptFile, match="do not fit its"):
        saved(folder, state)
    # Beside usable state it is passed over with a warning.
    found = saved(folder, adam(extra=Marker(marker)))
    assert len(found.parameters) == len(NAMES)
    assert any("asks to call" in line and ".system" in line for line in found.warnings)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Marker(proof)))
    assert proof.exists()  # the object does run where it may


@pytest.mark.parametrize("named", [True, False])
def test_factors_of_an_adapter(named: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "vocab_size": 40, "num_hidden_layers": 2}
    config = hf.LlamaConfig(**sizes, hidden_size=16, intermediate_size=24, num_key_value_heads=1)
    targets = ["q_proj", "v_proj", "o_proj", "down_proj"]
    lora = peft.LoraConfig(r=2, target_modules=targets)
    model: Any = peft.get_peft_model(hf.LlamaForCausalLM(config), lora)  # type: ignore[arg-type]
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    for _, parameter in trained:
        parameter.data.normal_()
        parameter.grad = parameter.detach().clone()
    optimizer = torch.optim.AdamW(trained if named else [p for _, p in trained], lr=0.0)
    optimizer.step()
    model.save_pretrained(tmp_path)
    found = saved(tmp_path, optimizer.state_dict())
    checkpoint = open_checkpoint(tmp_path)
    assert {p.name for p in found.parameters} == {t.name for t in checkpoint.tensors()}
    for parameter in found.parameters:
        torch.testing.assert_close(parameter.exp_avg(), 0.1 * checkpoint.read(parameter.name))


def test_an_adapter_that_cannot_be_mapped_has_no_parameters(
    save_lora: Callable[..., Path], tmp_path: Path
) -> None:
    folder = save_lora(tmp_path / "lora")
    found = saved(folder, adam([(3, 3)]))
    assert found.parameters == () and "ambiguous parameter order" in found.warnings[0]


def test_training_state_is_not_weights() -> None:
    state = ["optimizer.pt", "optimizer.bin", "scheduler.pt", "gradients.safetensors", "grads.pt"]
    state += ["gradients.pt", "gradient.bin", "grads.safetensors", "gradients.bin"]
    assert not any(map(is_weight_file, state))
    assert is_weight_file("gradual.pt") and is_weight_file("grad-cam-model.safetensors")
