"""Tuned names find their base names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzer.checkpoints.matching import match_names

BASE = ["embeddings.word.weight", "encoder.layer.0.output.dense.weight", "encoder.layer.1.q.weight"]


def test_equal_names_match() -> None:
    assert match_names(BASE, BASE) == {name: name for name in BASE}


def test_one_model_prefix_is_forgiven_in_both_directions() -> None:
    tuned = [f"bert.{name}" for name in BASE] + ["classifier.weight"]
    want = dict(zip(tuned, BASE, strict=False))
    assert match_names(BASE, tuned) == want
    assert match_names(tuned, BASE) == {short: long for long, short in want.items()}


def test_wrappers_are_forgiven() -> None:
    tuned = ["base_model.model.encoder.layer.1.q.base_layer.weight"]
    assert match_names(BASE, tuned) == {tuned[0]: BASE[2]}


def test_missing_and_extra_names_are_left_out() -> None:
    assert match_names(BASE, ["encoder.layer.2.q.weight"]) == {}


def test_a_prefix_never_swaps_stacks() -> None:
    base = ["encoder.layers.0.fc1.weight", "decoder.layers.0.fc1.weight"]
    tuned = [f"model.{name}" for name in base]
    assert match_names(base, tuned) == dict(zip(tuned, base, strict=True))


LLAMA = [f"layers.{n}.mlp.{leaf}.weight" for n in range(3) for leaf in ("up_proj", "down_proj")]


def test_prefixes_are_exchanged_and_heads_stay() -> None:
    base = [f"model.{name}" for name in LLAMA] + ["lm_head.weight"]
    for prefix in ("model.language_model.", "language_model.model.", ""):
        tuned = [prefix + name for name in LLAMA] + ["lm_head.weight", "score.weight"]
        want = dict(zip(tuned, base, strict=False))
        assert match_names(base, tuned) == want
        assert match_names(tuned, base) == {new: old for old, new in want.items()}


@pytest.mark.parametrize(
    "wrapped",
    ["model.layers.1.mlp.up_proj.weight", "base_model.model.model.layers.1.mlp.up_proj.weight"],
)
@pytest.mark.parametrize("prefix", ["layers.", "transformer.h.", "language_model.model.layers.",
                                    "encoder.layer."])  # fmt: skip
def test_a_single_name_is_found_by_its_end(prefix: str, wrapped: str) -> None:
    base = [name.replace("layers.", prefix, 1) for name in LLAMA] + ["lm_head.weight"]
    want = f"{prefix}1.mlp.up_proj.weight"
    assert match_names(base, [wrapped]) == {wrapped: want}
    assert match_names(base, [wrapped, "lm_head.weight"])[wrapped] == want


@pytest.mark.parametrize(
    ("base", "tuned"),
    [
        (["encoder.layers.0.q.weight", "decoder.layers.0.q.weight"], "model.layers.0.q.weight"),
        (["decoder.layers.0.q.weight"], "encoder.layers.0.q.weight"),
        (["model.layers.0.q.weight", "model.layers.1.q.weight"], "model.layers.2.q.weight"),
        (["pooler.dense.weight", "cls.dense.weight"], "classifier.dense.weight"),
        (["pooler.dense.weight"], "classifier.dense.weight"),
        (["vision.score.weight"], "score.weight"),
        (["norm.weight"], "score.weight"),
    ],
)
def test_an_end_that_proves_nothing_matches_nothing(base: list[str], tuned: str) -> None:
    assert match_names(base, [tuned]) == {}


def test_one_stack_is_never_taken_for_another() -> None:
    encoder, decoder = ([f"{stack}.{name}" for name in LLAMA] for stack in ("encoder", "decoder"))
    assert match_names(encoder, decoder) == {}
    assert match_names(encoder + decoder, decoder) == {name: name for name in decoder}


def test_saved_copies_win_over_originals() -> None:
    copy = "base_model.model.score.modules_to_save.default.weight"
    original = "base_model.model.score.original_module.weight"
    assert match_names(["score.weight"], [original, copy]) == {copy: "score.weight"}


names = st.lists(
    st.lists(
        st.sampled_from(["model", "bert", "layers", "0", "1", "q", "w"]), min_size=1, max_size=5
    ),
    max_size=12,
)


@given(base=names, tuned=names)
def test_no_base_name_is_taken_twice(base: list[list[str]], tuned: list[list[str]]) -> None:
    base_names, tuned_names = (list({".".join(n) for n in side}) for side in (base, tuned))
    found = match_names(base_names, tuned_names)
    assert set(found) <= set(tuned_names) and set(found.values()) <= set(base_names)
    assert len(set(found.values())) == len(found)
    assert all(found[name] == name for name in set(base_names) & set(found))
