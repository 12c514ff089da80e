"""Element counts against published values and against arrays that a step really keeps."""

import numpy as np
import pytest

from theory.galore_step import GaLoreSettings, galore_step
from theory.low_rank_memory import MemoryElements, matrix_elements, memory, total_elements

# LLaMA of the GaLore paper: hidden, intermediate, layers, rank; vocabulary 32000, untied
CONFIGS = {
    "60M": (512, 1376, 8, 128),
    "130M": (768, 2048, 12, 256),
    "350M": (1024, 2736, 24, 256),
    "1B": (2048, 5461, 24, 512),
}


def optimizer_gb(name, method, convention="exact", unit="GB"):
    width, hidden, layers, rank = CONFIGS[name]
    matrices = [*[(width, width)] * 4, (hidden, width), (hidden, width), (width, hidden)] * layers
    rest = [(32000, width)] * 2 + [(width,)] * (2 * layers + 1)
    elements = total_elements(matrices, rank, method, convention, full_state=rest)
    return memory(elements, weight_bytes=0, optimizer_bytes=2, unit=unit)


@pytest.mark.parametrize(
    ("rows", "cols", "rank", "galore", "lora"),
    [
        (4096, 4096, 1024, 12582912, 16777216),
        (4096, 11008, 1024, 26738688, 30932992),
        (11008, 4096, 1024, 26738688, 30932992),
        (512, 1376, 128, 417792, 483328),
    ],
)
def test_elements_of_one_matrix(rows, cols, rank, galore, lora):
    assert matrix_elements(rows, cols, rank, "galore").optimizer == galore
    assert matrix_elements(rows, cols, rank, "fira").optimizer == galore + 1
    assert matrix_elements(rows, cols, rank, "lora") == MemoryElements(
        rows * cols + lora // 2, lora, lora // 2
    )
    assert matrix_elements(rows, cols, rank, "full") == MemoryElements(
        rows * cols, 2 * rows * cols, rows * cols
    )
    assert matrix_elements(rows, cols, rank, "galore", "paper").optimizer == 3 * lora // 4


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)])
def test_count_is_what_a_step_keeps(shape):
    rng = np.random.default_rng(0)
    G = rng.standard_normal(shape)
    state = galore_step(G, G, None, GaLoreSettings(rank=3)).state
    P = state.projector
    kept = [state.exp_avg, state.exp_avg_sq, *[x for x in (P.left, P.right) if x is not None]]
    assert matrix_elements(*shape, 3, "galore").optimizer == sum(x.size for x in kept)


@pytest.mark.parametrize(
    ("name", "exact"), [("60M", 0.164), ("130M", 0.343), ("350M", 0.653), ("1B", 2.085)]
)
def test_exact_galore_states_of_published_configs(name, exact):
    assert optimizer_gb(name, "galore") == pytest.approx(exact, abs=5e-4)


def test_table_of_the_paper_mixes_units_and_scales_lora():
    # optimizer states as printed: the units differ from row to row
    assert optimizer_gb("60M", "full") == pytest.approx(0.23, abs=5e-3)
    assert optimizer_gb("350M", "full", unit="GiB") == pytest.approx(1.37, abs=5e-3)
    printed_galore = {"60M": 0.13, "130M": 0.28, "350M": 0.54, "1B": 1.78}
    for name, value in printed_galore.items():
        assert optimizer_gb(name, "galore", "paper") == pytest.approx(value, rel=0.035)
        assert optimizer_gb(name, "galore", "paper") == pytest.approx(
            0.75 * optimizer_gb(name, "lora")
        )


def test_totals_add_up():
    matrices, rest = [(8, 4), (5, 5)], [(10, 4), (4,)]
    for method in ("full", "lora", "galore", "fira"):
        parts = [matrix_elements(m, n, 2, method) for m, n in matrices]
        total = total_elements(matrices, 2, method, full_state=rest)
        assert total.weights == 44 + sum(p.weights for p in parts)
        assert total.optimizer == 88 + sum(p.optimizer for p in parts)
        assert total.gradient == 44 + sum(p.gradient for p in parts)
    assert total_elements(matrices, 2, "fira", "paper").optimizer == 66 + 2


def test_units_and_dtypes():
    elements = MemoryElements(weights=10**9, optimizer=2 * 10**9, gradient=0)
    assert memory(elements, weight_bytes=2, optimizer_bytes=1, unit="GB") == 4.0
    assert memory(elements, weight_bytes=2, optimizer_bytes=1, unit="GiB") == 4e9 / 2**30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, 8, 5, "galore"), "1..4 for a 4 x 8 matrix, got 5"),
        ((4, 8, 0, "lora"), "1..4 for a 4 x 8 matrix, got 0"),
        ((0, 8, 1, "full"), "at least 1, got 0 x 8"),
        ((4, 8, 1, "adam"), "got 'adam'"),
        ((4, 8, 1, "galore", "table"), "got 'table'"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        matrix_elements(*arguments)
