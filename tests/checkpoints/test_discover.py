"""Collections: what is found, how it is named, which is the base, what is refused."""

import json
import os
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from analyzer.checkpoints.discover import Collection, discover
from analyzer.checkpoints.steps import run_and_step, step_of
from analyzer.errors import CheckpointError, NothingToScan, UsageError, WorkbenchError


def names(collection: Collection) -> list[str]:
    return [checkpoint.name for checkpoint in collection.checkpoints]


def test_a_folder_of_everything(tmp_path: Path, write_model, write_adapter) -> None:
    write_model(tmp_path / "base")
    write_model(tmp_path / "full" / "checkpoint-300")
    for step in (300, 30, 1000):
        write_adapter(tmp_path / "lora-r8" / f"checkpoint-{step}")
    write_adapter(tmp_path / "lora-r64")
    for side in ("README.md", "training.json", "analyzer.duckdb", "plot.png", "run.py"):
        (tmp_path / side).write_text("side file")
    (tmp_path / ".cache").mkdir()
    write_model(tmp_path / ".cache" / "model")
    (tmp_path / "base" / "1_Pooling").mkdir()
    (tmp_path / "base" / "1_Pooling" / "config.json").write_text("{}")
    found = discover(tmp_path)
    assert names(found) == [
        "base", "full/checkpoint-300", "lora-r64",
        "lora-r8/checkpoint-30", "lora-r8/checkpoint-300", "lora-r8/checkpoint-1000",
    ]  # fmt: skip
    assert found.base is found.checkpoints[0] and found.checkpoints[0].kind == "base"
    assert [c.kind for c in found.checkpoints[1:]] == ["full"] + 4 * ["adapter"]
    steps = {run: [c.step for c in members] for run, members in found.trajectories.items()}
    assert steps == {"full": [300], "lora-r8": [30, 300, 1000]}
    assert found.refusals == ()
    assert found.pairs() == [(found.base, tuned) for tuned in found.checkpoints[1:]]


def test_one_checkpoint_is_a_collection_of_its_own(
    tmp_path: Path, write_model, write_adapter
) -> None:
    folder = write_model(tmp_path / "model")
    for path, name in ((folder, "model"), (folder / "model.safetensors", "model.safetensors")):
        found = discover(path)
        assert names(found) == [name] and found.base is found.checkpoints[0]
    found = discover(write_adapter(tmp_path / "style"))
    assert names(found) == ["style"] and found.base is None and found.pairs() == []


def test_the_name_of_the_working_directory_is_used_for_a_dot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_model
) -> None:
    monkeypatch.chdir(write_model(tmp_path / "model"))
    assert names(discover(".")) == ["model"]


def test_loose_files_are_checkpoints(tmp_path: Path) -> None:
    for step in (200, 100):
        torch.save({"w": torch.ones(2, 2)}, tmp_path / f"step_{step}.pt")
    save_file({"w": torch.ones(2, 2)}, tmp_path / "base.safetensors")
    torch.save({"state": {0: {"exp_avg": torch.ones(2)}}}, tmp_path / "optimizer.pt")
    found = discover(tmp_path)
    assert names(found) == ["base.safetensors", "step_100.pt", "step_200.pt"]
    assert found.base is not None and found.base.name == "base.safetensors"
    assert list(found.trajectories) == [tmp_path.name]


def test_a_run_folder_holds_its_result_beside_its_steps(tmp_path: Path, write_model) -> None:
    run = write_model(tmp_path / "run")
    for step in (1, 2):
        write_model(run / f"checkpoint-{step}")
    (run / "checkpoint-2" / "trainer_state.json").write_text('{"global_step": 2}')
    found = discover(run)
    assert names(found) == ["run", "checkpoint-1", "checkpoint-2"]
    assert found.base is None  # the run's result is not what the run started from
    assert [c.step for c in found.trajectories["run"]] == [1, 2]
    found = discover(run, base=write_model(tmp_path / "elsewhere"))
    assert names(found) == ["elsewhere", "run", "checkpoint-1", "checkpoint-2"]


def test_the_trainer_knows_the_step_better_than_the_name(tmp_path: Path, write_adapter) -> None:
    write_adapter(tmp_path / "run" / "checkpoint-1")
    (tmp_path / "run" / "checkpoint-1" / "trainer_state.json").write_text('{"global_step": 77}')
    assert discover(tmp_path).checkpoints[0].step == 77


def test_inner_parts_of_a_checkpoint_are_not_checkpoints(
    tmp_path: Path, write_model, write_adapter
) -> None:
    folder = write_model(tmp_path / "base")
    write_model(folder / "2_Dense")
    (folder / "original").mkdir()
    torch.save({"w": torch.ones(2, 2)}, folder / "original" / "consolidated.00.pth")
    (folder / "global_step5").mkdir()
    (folder / "global_step5" / "mp_rank_00_model_states.pt").write_bytes(b"x")
    write_adapter(folder / "style")
    write_model(folder / "tuned")
    found = discover(tmp_path)
    assert names(found) == ["base", "base/style", "base/tuned"] and found.refusals == ()


BASES = {
    "named base": (["base", "other"], [], "base"),
    "nested base": (["models/base", "other"], [], "models/base"),
    "named by an adapter": (["x", "base-model"], ["a"], "base-model"),
    "only full": (["x"], ["a"], "x"),
    "only full outside a run": (["x", "r/checkpoint-1", "r/checkpoint-2"], [], "x"),
    "only full, in a run": (["r/checkpoint-1"], ["a"], "r/checkpoint-1"),
    "none": ([], ["a"], None),
    "a run alone": (["r/checkpoint-1", "r/checkpoint-2"], [], None),
}


@pytest.mark.parametrize("case", BASES)
def test_the_base_is_found(case: str, tmp_path: Path, write_model, write_adapter) -> None:
    folders, adapters, want = BASES[case]
    for name in folders:
        write_model(tmp_path / name)
    for name in adapters:
        write_adapter(tmp_path / name)
    base = discover(tmp_path).base
    assert (base.name if base else None) == want


def test_the_base_that_fine_tunes_name(tmp_path: Path, write_model) -> None:
    write_model(tmp_path / "gpt", _name_or_path="org/gpt")
    write_model(tmp_path / "tuned", _name_or_path="/home/me/gpt/")
    base = discover(tmp_path).base
    assert base is not None and base.name == "gpt"


def test_the_base_in_a_cache_of_the_hub(tmp_path: Path, write_model, write_adapter) -> None:
    write_model(tmp_path / "models--org--base-model" / "snapshots" / "0123")
    write_model(tmp_path / "models--org--other" / "snapshots" / "4567")
    write_adapter(tmp_path / "a")
    base = discover(tmp_path).base
    assert base is not None and base.name == "models--org--base-model/snapshots/0123"


@pytest.mark.parametrize(
    ("folders", "adapters"),
    [(["x", "y"], []), (["a/base", "b/base"], []), (["x", "y"], ["a"])],
)
def test_several_possible_bases_are_a_question(
    folders: list[str], adapters: list[str], tmp_path: Path, write_model, write_adapter
) -> None:
    for name in folders:
        write_model(tmp_path / name)
    for name in adapters:
        write_adapter(tmp_path / name, base="unknown/model")
    with pytest.raises(UsageError, match="--base") as caught:
        discover(tmp_path)
    assert all(name in str(caught.value) for name in folders) and caught.value.exit_code == 2
    base = discover(tmp_path, base=tmp_path / folders[1]).base
    assert base is not None and base.name == folders[1]


def test_a_given_base(tmp_path: Path, write_model, write_adapter) -> None:
    write_model(tmp_path / "in" / "x")
    write_model(tmp_path / "in" / "y")
    write_adapter(tmp_path / "in" / "a")
    outside = write_model(tmp_path / "out" / "x")
    found = discover(tmp_path / "in", base=outside)
    assert found.base is not None and found.base.path == outside
    assert len(set(names(found))) == 4
    inside = discover(tmp_path / "in", base=tmp_path / "in" / "x" / "model.safetensors")
    assert inside.base is not None and inside.base.name == "x" and len(inside.checkpoints) == 3
    with pytest.raises(UsageError, match="adapter"):
        discover(tmp_path / "in", base=tmp_path / "in" / "a")
    with pytest.raises(UsageError):
        discover(tmp_path / "in", base=tmp_path / "nowhere")
    (tmp_path / "bad.bin").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError):
        discover(tmp_path / "in", base=tmp_path / "bad.bin")


def test_include_and_exclude(tmp_path: Path, write_model, write_adapter) -> None:
    write_model(tmp_path / "base")
    for run in ("lora-a", "lora-b"):
        for step in (1, 2):
            write_adapter(tmp_path / run / f"checkpoint-{step}")
    (tmp_path / "broken.bin").write_bytes(b"")
    assert names(discover(tmp_path, include=["lora-a"])) == [
        "base", "lora-a/checkpoint-1", "lora-a/checkpoint-2",
    ]  # fmt: skip
    found = discover(tmp_path, exclude=["*/checkpoint-1", "lora-b", "*.bin"])
    assert names(found) == ["base", "lora-a/checkpoint-2"] and found.refusals == ()
    assert len(discover(tmp_path, exclude=["lora-b"]).refusals) == 1
    assert names(discover(tmp_path, include=["base"])) == ["base"]
    with pytest.raises(NothingToScan, match="lora-c"):
        discover(tmp_path, include=["lora-c"])


def test_what_cannot_be_read_is_refused_and_the_rest_goes_on(tmp_path: Path, write_model) -> None:
    write_model(tmp_path / "base")
    bad = write_model(tmp_path / "truncated") / "model.safetensors"
    bad.write_bytes(bad.read_bytes()[:-4])
    (tmp_path / "quantised.gguf").write_bytes(b"GGUF")
    (tmp_path / "dcp").mkdir()
    (tmp_path / "dcp" / "__0_0.distcp").write_bytes(b"x")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    found = discover(tmp_path)
    assert names(found) == ["base"]
    refused = {os.path.relpath(r.path, tmp_path): r for r in found.refusals}
    assert set(refused) == {"truncated/model.safetensors", "quantised.gguf", "dcp", "adapter"}
    assert all(r.reason and r.hint for r in refused.values())


def test_links_that_lead_nowhere_are_told(tmp_path: Path, write_model, write_adapter) -> None:
    write_model(tmp_path / "base")
    gone = tmp_path / "gone"
    (tmp_path / "linked.safetensors").symlink_to(gone)
    (tmp_path / "checkpoint-5").symlink_to(gone)
    (tmp_path / "README.md").symlink_to(gone)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "model.safetensors").symlink_to("../blobs/0123")
    sharded = write_model(tmp_path / "sharded")
    shard = "model-00001-of-00001.safetensors"
    (sharded / "model.safetensors").unlink()
    (sharded / shard).symlink_to(gone)
    index = json.dumps({"weight_map": {"layers.0.q_proj.weight": shard}})
    (sharded / "model.safetensors.index.json").write_text(index)
    refused = {os.path.relpath(r.path, tmp_path): r.reason for r in discover(tmp_path).refusals}
    nowhere = f"a link to {gone}, which does not exist"
    assert refused == {
        "linked.safetensors": nowhere, "checkpoint-5": nowhere, f"sharded/{shard}": nowhere,
        "cache/model.safetensors": "a link to ../blobs/0123, which does not exist",
    }  # fmt: skip
    for act in (discover, lambda path: discover(tmp_path, base=path)):
        with pytest.raises(WorkbenchError, match=r"a link to .*gone, which does not exist"):
            act(tmp_path / "linked.safetensors")
    style = write_adapter(tmp_path / "style")
    (style / "adapter_config.json").unlink()
    (style / "adapter_config.json").symlink_to(gone)
    reasons = {r.path.name: r.reason for r in discover(tmp_path).refusals}
    assert reasons["style"] == f"adapter_config.json is {nowhere}"


def test_a_refused_name_that_is_no_text_is_printable(tmp_path: Path, write_model) -> None:
    write_model(tmp_path / "base")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.safetensors")).write_bytes(b"")
    (refusal,) = discover(tmp_path).refusals
    str(refusal.path).encode()


def test_nothing_to_scan(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        discover(tmp_path / "nowhere")
    with pytest.raises(NothingToScan, match="no checkpoints"):
        discover(tmp_path)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(NothingToScan, match="GGUF") as caught:
        discover(tmp_path)
    assert caught.value.exit_code == 5


def test_links_and_circles(tmp_path: Path, write_model) -> None:
    store = write_model(tmp_path / "store" / "base")
    root = tmp_path / "root"
    root.mkdir()
    (root / "linked").symlink_to(store, target_is_directory=True)
    (root / "circle").symlink_to(root, target_is_directory=True)
    assert names(discover(root)) == ["linked"]


def test_file_names_that_are_no_text(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/\xff.safetensors"
    save_file({"w": torch.ones(2, 2)}, tmp_path / "w.safetensors")
    os.rename(tmp_path / "w.safetensors", raw)
    (name,) = names(discover(tmp_path))
    name.encode()


@pytest.mark.parametrize(
    ("name", "run", "step"),
    [
        ("lora-r8/checkpoint-300", "lora-r8", 300), ("checkpoint-300", "root", 300),
        ("step-12", "root", 12), ("step_12.pt", "root", 12), ("run/global_step40", "run", 40),
        ("run/epoch=3-step=1200.ckpt", "run", 1200), ("model-step-5.pt", "model", 5),
        ("a/checkpoint-5/style", "a/style", 5), ("pythia/step143000", "pythia", 143000),
        ("iter_0000100", "root", 100), ("lora-r8", None, None), ("stepwise", None, None),
        ("footstep3", None, None), ("model-00001-of-00002.safetensors", None, None),
    ],
)  # fmt: skip
def test_runs_and_steps(name: str, run: str | None, step: int | None) -> None:
    assert run_and_step(name, "root") == (run, step)
    if "style" not in name:
        assert step_of(name.rpartition("/")[2]) == step


def test_a_hundred_checkpoints_are_listed_in_well_under_a_second(tmp_path: Path) -> None:
    tensors = {f"layers.{n}.q_proj.weight": torch.ones(1, 1) for n in range(100)}
    for step in range(100):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        save_file(tensors, folder / "model.safetensors")
        (folder / "config.json").write_text("{}")
    start = time.process_time()
    assert len(discover(tmp_path).checkpoints) == 100
    assert time.process_time() - start < 0.8
