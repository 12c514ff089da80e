"""The demo collection: real checkpoints that other libraries load, made once, completed if cut."""

import json
import math
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from analyzer.checkpoints.checkpoint import open_checkpoint
from analyzer.checkpoints.optimizer_state import open_optimizer
from analyzer.demo import make_demo
from analyzer.demo.corpus import random_windows, read_corpus
from analyzer.demo.model import Llama, Shape, add_lora
from analyzer.demo.runs import TUNINGS, saved_steps
from analyzer.demo.training import BATCH, CLIP_NORM, loss_of
from analyzer.errors import UsageError
from analyzer.recorder.records import list_records, open_record

STEPS = 8
LAST = f"checkpoint-{STEPS // 4}"
RANKS = {name: tuning.rank for name, tuning in TUNINGS.items() if tuning.rank is not None}


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo(tmp_path_factory.mktemp("made") / "demo", steps=STEPS)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def tokens() -> torch.Tensor:
    return next(random_windows(read_corpus().tuning.held_out, 1, 2, Shape().context - 1, seed=1))


def base_model(collection: Path) -> Llama:
    model = Llama(Shape())
    model.load_state_dict(load_file(collection / "base" / "model.safetensors"))
    return model


@pytest.mark.parametrize("name", ["base", f"full/{LAST}"])
def test_transformers_gives_the_same_logits(collection: Path, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.LlamaForCausalLM.from_pretrained(collection / name)
    ours = Llama(Shape())
    ours.load_state_dict(load_file(collection / name / "model.safetensors"))
    with torch.no_grad():
        torch.testing.assert_close(
            ours(tokens()), theirs(tokens()).logits, atol=1e-4, rtol=0, check_stride=False
        )


@pytest.mark.parametrize("name", RANKS)
def test_peft_loads_every_adapter(collection: Path, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    base = transformers.LlamaForCausalLM.from_pretrained(collection / "base")
    tuned = peft.PeftModel.from_pretrained(base, collection / name / LAST)
    assert tuned.peft_config["default"].r == RANKS[name]

    ours = base_model(collection)
    add_lora(ours, RANKS[name], 2 * RANKS[name])
    factors = load_file(collection / name / LAST / "adapter_model.safetensors")
    found = ours.load_state_dict(
        {key.removeprefix("base_model.model."): value for key, value in factors.items()},
        strict=False,
    )
    assert not found.unexpected_keys and not any("lora" in key for key in found.missing_keys)
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens()), tuned(tokens()).logits, atol=1e-4, rtol=0)

    merged = tuned.merge_and_unload().state_dict()
    weights = load_file(collection / "base" / "model.safetensors")
    projections = [key for key in weights if ".self_attn." in key or ".mlp." in key]
    assert len(projections) == 7 * Shape().layers == len(factors) // 2
    for key in projections:
        module = "base_model.model." + key.removesuffix(".weight")
        b, a = factors[f"{module}.lora_B.weight"], factors[f"{module}.lora_A.weight"]
        delta = 2 * b.double() @ a.double()  # alpha / r = 2
        assert delta.abs().max() > 1e-6
        torch.testing.assert_close(
            merged[key].double(), weights[key].double() + delta, atol=1e-6, rtol=0
        )


def test_trajectories_carry_their_step_and_real_losses(collection: Path) -> None:
    transformers = pytest.importorskip("transformers")
    for name in TUNINGS:
        steps = [int(p.name.split("-")[1]) for p in (collection / name).glob("checkpoint-*")]
        assert sorted(steps) == [1, 2]
        for step in steps:
            path = collection / name / f"checkpoint-{step}" / "trainer_state.json"
            state = transformers.TrainerState.load_from_json(str(path))
            assert state.global_step == step
            assert [e["step"] for e in state.log_history if "loss" in e] == [*range(1, step + 1)]
    log = json.loads((collection / "base" / "trainer_state.json").read_text())["log_history"]
    assert log[0]["loss"] == pytest.approx(math.log(256), abs=0.3)  # nothing is known yet
    assert log[-1]["eval_pretraining_loss"] < 4.5


def test_readme_reports_the_measured_losses(collection: Path) -> None:
    text = (collection / "README.md").read_text()
    for path in (collection / "base", *(collection / name / LAST for name in TUNINGS)):
        log = json.loads((path / "trainer_state.json").read_text())["log_history"]
        pretraining, tuning = log[-1]["eval_pretraining_loss"], log[-1]["eval_tuning_loss"]
        assert f"| {pretraining:.3f} | {tuning:.3f} |" in text


@pytest.mark.parametrize(("run", "steps"), [("base", STEPS), ("full", STEPS // 4)])
def test_gradients_are_recorded(collection: Path, run: str, steps: int) -> None:
    records = [open_record(path) for path in list_records(collection / run)]
    assert [record.header.step for record in records] == [*range(steps)]
    for record in records:
        names = {(entry.batch, entry.name) for entry in record.header.entries}
        assert len(names) == 2 * 7 * Shape().layers  # the minibatch and a fixed batch
        assert len(record.header.noise) == 7 * Shape().layers


def test_a_record_is_the_gradient_of_its_step(collection: Path) -> None:
    corpus = read_corpus()
    torch.manual_seed(0)
    model = Llama(Shape())
    window = next(random_windows(corpus.pretraining.train, 1, BATCH, Shape().context, seed=0))
    loss_of(model, window).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
    record = open_record(list_records(collection / "base")[0])
    entries = {entry.name: entry for entry in record.header.entries if entry.batch == "train"}
    for name, parameter in model.named_parameters():
        if name in entries:
            assert parameter.grad is not None
            sigma = torch.linalg.svdvals(parameter.grad.double())
            assert entries[name].fro == pytest.approx(float(sigma.norm()), rel=1e-4)
            arrays = record.arrays(entries[name])
            assert arrays is not None
            assert arrays.sigma[0] == pytest.approx(float(sigma[0]), rel=1e-2)


def test_the_optimizer_is_saved_as_the_trainer_does(collection: Path) -> None:
    state = open_optimizer(open_checkpoint(collection / "full" / LAST))
    assert state is not None
    assert {p.step for p in state.parameters} == {STEPS // 4}
    weights = load_file(collection / "full" / LAST / "model.safetensors")
    assert {p.name: p.shape for p in state.parameters} == {
        name: tuple(tensor.shape) for name, tensor in weights.items()
    }


def test_finished_demo_is_reused(collection: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in collection.rglob("*")}
    assert make_demo(collection, steps=STEPS, progress=fail) == collection
    assert {p: p.stat().st_mtime_ns for p in collection.rglob("*")} == before


def fail(phase: str, step: int, total: int) -> None:
    pytest.fail(f"{phase} was trained again")


def stop_at(phase: str, step: int) -> Callable[[str, int, int], None]:
    def progress(at_phase: str, at_step: int, total: int) -> None:
        if (at_phase, at_step) == (phase, step):
            raise KeyboardInterrupt

    return progress


def test_interrupted_demo_is_completed_to_the_same_bytes(collection: Path, tmp_path: Path) -> None:
    random_state, threads = torch.get_rng_state(), torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        make_demo(tmp_path / "demo", steps=STEPS, progress=stop_at("lora-r1", 2))
    assert not (tmp_path / "demo" / "README.md").exists()
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "demo").rglob("checkpoint-*/*")}
    assert len(kept) == 2 * 4 + 3  # full twice, one adapter

    torn = tmp_path / "demo" / "lora-r1" / f".{LAST}.partial"
    torn.mkdir()
    (torn / "adapter_model.safetensors").write_bytes(b"half")

    phases: list[str] = []
    make_demo(tmp_path / "demo", steps=STEPS, progress=lambda phase, *_: phases.append(phase))
    assert set(phases) == {"lora-r1", "lora-r8", "lora-r64"}
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert files(tmp_path / "demo") == files(collection)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.get_num_threads() == threads


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("mine", "file"):
        with pytest.raises(UsageError, match=name):
            make_demo(tmp_path / name, steps=STEPS)
    assert files(tmp_path) == {"mine/thesis.tex": b"x", "file": b"x"}


@pytest.mark.parametrize("settings", [{"steps": STEPS + 1}, {"steps": STEPS, "seed": 1}])
def test_other_settings_are_refused(collection: Path, settings: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="other settings"):
        make_demo(collection, **settings, progress=fail)


def test_foreign_marker_is_refused(tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text("[torn")
    with pytest.raises(UsageError):
        make_demo(tmp_path, steps=STEPS, progress=fail)
    assert files(tmp_path) == {"demo.json": b"[torn"}


def test_no_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        make_demo(tmp_path / "demo", steps=0)
    assert not (tmp_path / "demo").exists()


def test_slices_are_whole_files_and_held_out_files_are_not_trained_on() -> None:
    corpus, stdlib = read_corpus(), Path(sysconfig.get_paths()["stdlib"])
    for split, folder in ((corpus.pretraining, stdlib), (corpus.tuning, stdlib / "encodings")):
        names = sorted(p.name for p in folder.glob("*.py"))
        held_out = b"".join((folder / name).read_bytes() for name in names[9::10])
        total = sum((folder / name).stat().st_size for name in names)
        assert bytes(split.held_out.numpy()) == held_out
        assert len(split.train) == total - len(held_out)


@pytest.mark.parametrize("steps", [*range(1, 40), 75, 1000])
def test_trajectory_ends_with_the_last_step(steps: int) -> None:
    grid = saved_steps(steps)
    assert grid[-1] == steps and grid[0] >= 1 and len(grid) <= 5
    assert grid == sorted(set(grid))
