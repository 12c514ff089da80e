"""Bucketed position biases against T5's own."""

from typing import Any

import numpy as np
import pytest
import torch

from theory.lora_limits.relative_bias import distance_buckets, relative_bias


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (8, 20), (16, 100)])
def test_equals_t5(buckets: int, max_distance: int, two_sided: bool) -> None:
    transformers: Any = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.T5Config(
        d_model=16, d_kv=8, num_heads=2, relative_attention_num_buckets=buckets,
        relative_attention_max_distance=max_distance, is_decoder=not two_sided,
    )  # fmt: skip
    module = transformers.models.t5.modeling_t5.T5Attention(
        config, has_relative_attention_bias=True, layer_idx=0
    )
    with torch.no_grad():
        theirs = module.compute_bias(300, 300)[0].double().numpy()
    learned = module.relative_attention_bias.weight.detach().double().numpy()
    at = np.arange(300)
    for head in range(2):
        ours = relative_bias(learned[:, head], max_distance, two_sided=two_sided)(at, at)
        np.testing.assert_allclose(ours, theirs[head], rtol=1e-12)


def test_tables_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="1 buckets"):
        relative_bias([1.0, 2.0], 10, two_sided=True)
    with pytest.raises(ValueError, match="do not reach"):
        distance_buckets(np.arange(3), 32, 16)
