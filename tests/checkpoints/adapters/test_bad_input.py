"""Adapters that cannot be read, or only in part, and what is said about them."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzer.checkpoints.adapters import match_targets, open_adapter, scaling_at, target_update
from analyzer.checkpoints.adapters.keys import parse_key
from analyzer.checkpoints.adapters.patterns import path_matches
from analyzer.errors import AdapterError, NonFinite, ShapeMismatch, WorkbenchError

LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}


def pair(module: str, r: int = 2, rows: int = 5, cols: int = 3) -> dict[str, torch.Tensor]:
    return {
        f"base_model.model.{module}.lora_A.weight": torch.ones(r, cols),
        f"base_model.model.{module}.lora_B.weight": torch.ones(rows, r),
    }


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "PROMPT_TUNING"}, "prompt learning"),
        ({"peft_type": "PREFIX_TUNING"}, "prompt learning"),
        ({"peft_type": "P_TUNING"}, "prompt learning"),
        ({"peft_type": "OFT"}, "not supported"),
        ({"peft_type": "BOFT"}, "not supported"),
        ({"peft_type": "HRA"}, "not supported"),
        ({"peft_type": "FANCY\n\x1b[31m"}, "unknown peft_type"),
        ({"peft_type": 7}, "unknown peft_type"),
        ({**LORA, "lora_alpha": "16"}, "is not a number"),
        ({**LORA, "lora_alpha": float("nan")}, "is not a number"),
        ({**LORA, "rank_pattern": [1]}, "is not a mapping"),
        ({**LORA, "rank_pattern": {"(": 1}}, "no regular expression"),
        ({**LORA, "alpha_pattern": {"(a+)+x": 1}}, "take for ever"),
    ],
)
def test_refused_configurations(files, config, message):
    with pytest.raises(AdapterError, match=message) as caught:
        open_adapter(files(pair("fc"), config))
    assert "\x1b" not in str(caught.value) and "\n" not in str(caught.value)


def test_every_peft_type_is_decided():
    from peft import PeftType

    from analyzer.checkpoints.adapters.methods import PROMPT_LEARNING, READABLE, UNREADABLE

    decided = {*READABLE, *PROMPT_LEARNING, *UNREADABLE}
    assert {member.value for member in PeftType} <= decided


def test_no_adapter_tensors_lists_what_is_there(files):
    with pytest.raises(AdapterError, match=r"no adapter tensors among fc\.weight"):
        open_adapter(files({"fc.weight": torch.ones(2, 2)}))


def test_several_adapters_in_one_file(files):
    data = {"fc.lora_A.one.weight": torch.ones(2, 3), "fc.lora_A.two.weight": torch.ones(2, 3)}
    with pytest.raises(AdapterError, match="several adapters: one, two"):
        open_adapter(files(data, LORA))


def test_an_adapter_name_left_in_the_keys_is_dropped(files):
    data = {name.replace(".weight", ".mine.weight"): t for name, t in pair("a.fc").items()}
    [target] = open_adapter(files(data, LORA)).targets
    assert (target.module, target.name, target.status) == ("a.fc", "a.fc.weight", "ok")


def test_the_same_factor_twice(files):
    data = pair("fc") | {"base_model.model.fc.lora_A.default.weight": torch.ones(2, 3)}
    with pytest.raises(AdapterError, match="a second time"):
        open_adapter(files(data, LORA))


def test_one_unpaired_module_does_not_stop_the_others(files):
    data = pair("fc1") | pair("fc2")
    del data["base_model.model.fc1.lora_B.weight"]
    by_name = {t.module: t for t in open_adapter(files(data, LORA)).targets}
    assert by_name["fc1"].status == "refused" and "unpaired" in by_name["fc1"].detail
    assert by_name["fc2"].status == "ok"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"lora_B.weight": torch.ones(5, 3)}, "ranks differ"),
        ({"lora_A.weight": torch.ones(0)}, "one shard"),
        ({"lora_A.weight": torch.tensor(1.0)}, "one shard"),
        ({"lora_A.weight": torch.ones(6)}, "one shard"),
        ({"lora_diag": torch.ones(2)}, "no method that is supported"),
    ],
)
def test_factors_that_do_not_fit(files, change, why):
    data = pair("fc") | {f"base_model.model.fc.{name}": t for name, t in change.items()}
    [target] = open_adapter(files(data, LORA)).targets
    assert target.status == "refused" and why in target.detail


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ({"init_lora_weights": "pissa_niter_16"}, "pissa_niter_16"),
        ({"init_lora_weights": "corda"}, "initial adapter"),
        ({"init_lora_weights": "lora_ga"}, "initial adapter"),
        ({"init_lora_weights": "loftq"}, "initial adapter"),
        ({"init_lora_weights": "something_new"}, "something_new"),
        ({"use_dora": True}, "magnitude"),
        ({"use_qalora": True}, "QA-LoRA"),
        ({"layer_replication": [[0, 4], [2, 6]]}, "renumbers"),
    ],
)
def test_settings_under_which_the_product_is_not_the_change(files, infos, setting, why):
    adapter = open_adapter(files(pair("fc"), LORA | setting))
    [target] = adapter.targets
    assert target.status == "refused" and why in target.detail
    [info] = infos({"fc.weight": torch.ones(5, 3)})["fc.weight"]
    with pytest.raises(AdapterError, match=r"fc\.weight"):
        target_update(adapter, target, info, torch.ones(5, 3))


def test_residual_base_stored_beside_the_factors(files, infos):
    residual = torch.full((5, 3), 7.0)
    data = pair("fc") | {"base_model.model.fc.base_layer.weight": residual}
    adapter = open_adapter(files(data, LORA | {"init_lora_weights": "corda"}))
    [info] = infos({"fc.weight": torch.ones(5, 3)})["fc.weight"]
    change = target_update(adapter, adapter.targets[0], info, torch.ones(5, 3))
    assert (change.W == 7 + 2 * 2).all()


def test_shape_mismatch_names_tensor_and_both_shapes(files, infos):
    adapter = open_adapter(files(pair("fc"), LORA))
    [info] = infos({"fc.weight": torch.ones(6, 3)})["fc.weight"]
    with pytest.raises(ShapeMismatch, match=r"fc\.weight: .*5×3.*6×3"):
        target_update(adapter, adapter.targets[0], info, torch.ones(6, 3))


def test_a_grown_vocabulary_is_a_shape_mismatch(files, infos):
    data = pair("fc") | {"base_model.model.embed.weight": torch.ones(9, 4)}
    adapter = open_adapter(files(data, LORA))
    [info] = infos({"embed.weight": torch.ones(8, 4)})["embed.weight"]
    target = next(t for t in adapter.targets if t.kind == "saved")
    with pytest.raises(ShapeMismatch, match=r"embed\.weight: .*9×4.*8×4"):
        target_update(adapter, target, info, torch.ones(8, 4))


def test_non_finite_factors_are_named(files, infos):
    data = pair("fc")
    data["base_model.model.fc.lora_B.weight"][1, 0] = float("inf")
    adapter = open_adapter(files(data, LORA))
    [info] = infos({"fc.weight": torch.ones(5, 3)})["fc.weight"]
    with pytest.raises(NonFinite, match=r"fc\.lora_B\.weight: 0 NaN and 1 infinite"):
        target_update(adapter, adapter.targets[0], info, torch.ones(5, 3))


def test_a_method_that_needs_the_base_says_so(files, infos):
    data = {"base_model.model.fc.ia3_l": torch.ones(5, 1)}
    adapter = open_adapter(files(data, {"peft_type": "IA3"}))
    [info] = infos({"fc.weight": torch.ones(5, 3)})["fc.weight"]
    with pytest.raises(AdapterError, match="needs the base matrix"):
        target_update(adapter, adapter.targets[0], info, None)


def test_targets_the_base_lacks_are_paired_with_none(files, infos):
    adapter = open_adapter(files(pair("a.fc1") | pair("a.gone"), LORA))
    state = {"bert.a.fc1.weight": torch.ones(5, 3), "bert.a.x.weight": torch.ones(5, 3)}
    matrices = [info for group in infos(state).values() for info in group]
    found = {t.module: i and i.name for t, i in match_targets(adapter, matrices)}
    assert found == {"a.fc1": "bert.a.fc1.weight", "a.gone": None}


def test_half_precision_factors(files, infos):
    data = {name: t.bfloat16() for name, t in pair("fc").items()}
    adapter = open_adapter(files(data, LORA))
    [info] = infos({"fc.weight": torch.ones(5, 3)})["fc.weight"]
    change = target_update(adapter, adapter.targets[0], info, torch.ones(5, 3).half())
    assert (change.P @ change.Q.T == 4).all()


def test_parameters_of_equal_shape_cannot_be_told_apart(files, infos):
    config = LORA | {"target_parameters": ["experts.w1", "experts.w3"]}
    adapter = open_adapter(files(pair("experts", r=4), config))
    state = {f"experts.{name}": torch.ones(2, 5, 3) for name in ("w1", "w3")}
    [(target, info)] = match_targets(adapter, [m for g in infos(state).values() for m in g])
    assert info is None and target.status == "refused" and "several parameters" in target.detail


def test_experts_missing_from_the_base_are_noticed(files, infos):
    """Two experts of rank 2 in the adapter, one expert stored in the base."""
    data = pair("experts", r=4)
    adapter = open_adapter(files(data, LORA | {"target_parameters": ["experts.down_proj"]}))
    state = {"m.experts.0.down_proj.weight": ONES(5, 3), "m.x.weight": ONES(5, 3)}
    matrices = [m for group in infos(state).values() for m in group]
    [(target, info)] = match_targets(adapter, matrices)
    assert info is not None and info.tensor == "m.experts.0.down_proj.weight"
    with pytest.raises(AdapterError, match="rank 4 for the 1 experts"):
        target_update(adapter, target, info, ONES(5, 3))


def test_the_initial_adapter_must_hold_the_module(files, infos):
    config = LORA | {"init_lora_weights": "corda"}
    adapter = open_adapter(files(pair("fc"), config), initial=files(pair("other"), config))
    [info] = infos({"fc.weight": torch.ones(5, 3)})["fc.weight"]
    with pytest.raises(AdapterError, match="initial adapter does not hold"):
        target_update(adapter, adapter.targets[0], info, torch.ones(5, 3))


ONES = torch.ones


@pytest.mark.parametrize(
    ("parts", "peft_type", "error", "why"),
    [
        ({"hada_w1_a": ONES(5, 1), "hada_w1_b": ONES(1, 3), "hada_w2_a": ONES(1, 1),
          "hada_w2_b": ONES(1, 3)}, "LOHA", AdapterError, "differ in shape"),
        ({"hada_w1_a": ONES(5, 2), "hada_w1_b": ONES(1, 3), "hada_w2_a": ONES(5, 1),
          "hada_w2_b": ONES(1, 3)}, "LOHA", AdapterError, "do not fit together"),
        ({"lokr_w1": ONES(5, 1), "lokr_w2": ONES(1, 2)}, "LOKR", ShapeMismatch, "5×2"),
        ({"ia3_l": ONES(1, 4)}, "IA3", ShapeMismatch, "1×4"),
        ({"ia3_l": ONES(5, 2)}, "IA3", AdapterError, "do not fit together"),
        ({"vera_lambda_b": ONES(5), "vera_lambda_d": ONES(3)}, "VERA", AdapterError, "rank 3"),
        ({"vera_lambda_b": ONES(9), "vera_lambda_d": ONES(2)}, "VERA", AdapterError, "smaller"),
        ({"lora_A": ONES(2, 3), "lora_B": ONES(5, 2), "lora_E": ONES(1, 1)}, "ADALORA",
         AdapterError, "ranks differ"),
        ({"lora_A.weight": ONES(2, 3), "lora_B.weight": ONES(5, 2),
          "lora_magnitude_vector": ONES(4)}, "LORA", ShapeMismatch, "4"),
        ({"lora_down.weight": ONES(2, 3), "lora_up.weight": ONES(5, 2), "alpha": ONES(2)}, None,
         AdapterError, "single number"),
        ({"lora_A": ONES(2, 3, 1), "lora_E": ONES(2, 1), "lora_B": ONES(5, 2)}, "ADALORA",
         None, ""),
    ],
)  # fmt: skip
def test_factors_whose_shapes_do_not_fit(files, infos, parts, peft_type, error, why):
    data = {f"fc.{part}": value for part, value in parts.items()}
    data |= {"vera_A": ONES(2, 4), "vera_B": ONES(7, 2)} if peft_type == "VERA" else {}
    adapter = open_adapter(files(data, {"peft_type": peft_type} if peft_type else {}))
    [info] = infos({"fc.weight": ONES(5, 3)})["fc.weight"]
    if error is None:
        target_update(adapter, adapter.targets[0], info, ONES(5, 3))
        return
    with pytest.raises(error, match=why):
        target_update(adapter, adapter.targets[0], info, ONES(5, 3))


def test_the_base_must_be_the_matrix_described(files, infos):
    adapter = open_adapter(files(pair("fc"), LORA))
    [info] = infos({"fc.weight": ONES(5, 3)})["fc.weight"]
    with pytest.raises(ShapeMismatch, match="3×5"):
        target_update(adapter, adapter.targets[0], info, ONES(3, 5))


def test_an_old_adalora_file_keeps_its_rank_number(files):
    data = {"fc.lora_A": ONES(2, 3), "fc.lora_B": ONES(5, 2), "fc.lora_E": ONES(2, 1),
            "fc.ranknum": torch.tensor([4.0])}  # fmt: skip
    adapter = open_adapter(files(data, {"peft_type": "ADALORA", "init_r": 9, "lora_alpha": 3}))
    assert adapter.targets[0].scaling is None
    assert scaling_at(adapter, adapter.targets[0]) == 3 / (4 + 1e-5)


@pytest.mark.parametrize(
    ("config", "warning"),
    [
        ({}, "no peft_type"),
        (LORA | {"alora_invocation_tokens": [3]}, "invocation tokens"),
        (LORA | {"r": 5}, "configuration 5"),
    ],
)
def test_warnings(files, config, warning):
    [line] = open_adapter(files(pair("fc"), config)).warnings
    assert warning in line


@pytest.mark.parametrize("module", ["t", "a.fc", "experts.up"])
def test_saved_weights_take_the_orientation_of_the_base(files, infos, module):
    W = torch.arange(12.0).reshape((2, 3, 2) if module == "experts.up" else (4, 3))
    data = pair("other") | {f"base_model.model.{module}.weight": W}
    adapter = open_adapter(files(data, LORA))
    base = infos({f"{module}.weight": torch.zeros_like(W)}, lambda name: True)
    pairs = match_targets(adapter, base[f"{module}.weight"])
    found = [(target, info) for target, info in pairs if info is not None]
    assert len(found) == (2 if module == "experts.up" else 1)
    for target, info in found:
        stored = W if info.index is None else W[info.index]
        assert (stored.T.numpy() == target_update(adapter, target, info, None).W).all()


PARTS = [
    "lora_A.weight", "lora_B.weight", "lora_embedding_A", "lora_embedding_B", "lora_E", "ranknum",
    "lora_magnitude_vector", "lora_a", "lora_b", "m", "alpha", "dora_scale", "lora_mid.weight",
    "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "lokr_w1",
    "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2", "ia3_l",
    "vera_lambda_b", "vera_lambda_d", "weight", "base_layer.weight", "lora_odd",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    parts=st.dictionaries(
        st.sampled_from(PARTS), st.lists(st.integers(0, 4), max_size=4), min_size=1, max_size=7
    ),
    peft_type=st.sampled_from(["LORA", "ADALORA", "LOHA", "LOKR", "IA3", "VERA", None]),
    initialiser=st.sampled_from([True, "pissa", "olora", "loftq"]),
    base=st.sampled_from([(4, 4), (4, 3), (2, 3, 4), (4, 3, 2, 1)]),
    transposed=st.booleans(),
)
def test_any_mixture_of_factors_is_read_or_refused(
    files, infos, parts, peft_type, initialiser, base, transposed
):
    data = {f"experts.fc.{part}": torch.ones(shape) for part, shape in parts.items()}
    data |= {"vera_A": torch.ones(2, 4), "vera_B": torch.ones(4, 2)}
    config = {"peft_type": peft_type, "r": 2, "init_lora_weights": initialiser}
    matrices = infos({"experts.fc.weight": torch.ones(base)}, lambda name: transposed)
    try:
        adapter = open_adapter(files(data, config))
        for target, info in match_targets(adapter, matrices["experts.fc.weight"]):
            if info is not None:
                W0 = torch.ones(info.rows, info.cols)
                change = target_update(adapter, target, info, W0)
                W = change.W if hasattr(change, "W") else change.P @ change.Q.T
                assert W.shape == (info.rows, info.cols) and W.dtype == "float64"
    except WorkbenchError:
        pass


@given(st.text(st.sampled_from("abm.loraAB_weightdnup0 \n{}()")))
def test_any_key_is_parsed(name):
    assert parse_key(name).part


@pytest.mark.parametrize("pattern", ["(a*)*b", "(a|a)+(a|a)+.*.*.*b", "a{9}" * 9])
def test_hostile_patterns_are_quick(pattern):
    start = time.process_time()
    with pytest.raises(AdapterError):
        path_matches(pattern, "a" * 200)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("fc2", "layers.0.fc2", True), ("fc2", "layers.0.xfc2", False), ("fc2", "fc2", True),
        ("0.fc2", "layers.0.fc2", True), ("^layers.0.fc2", "layers.0.fc2", True),
        (r"layers\.\d+\.fc.", "m.layers.11.fc1", True), ("layers", "layers.0.fc2", False),
        ("a|b", "x.b", True),
    ],
)  # fmt: skip
def test_patterns_match_as_peft_matches(pattern, path, expected):
    from peft.utils.other import get_pattern_key

    assert path_matches(pattern, path) is expected
    assert (get_pattern_key([pattern], path) == pattern) is (expected or pattern == path)


def test_opening_does_not_import_torch_or_peft():
    code = (
        "import sys, analyzer.checkpoints.adapters\n"
        "assert not {'torch', 'peft'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
