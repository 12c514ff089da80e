import copy
import pickle

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from analyzer.recorder.targets import find_targets
from analyzer.recorder.tokens import count_tokens


def counted(model):
    counter, removers = count_tokens(model, find_targets(model, None, None)[0], hooked=True)
    return counter, removers


def test_rows_of_all_forward_passes_since_the_last_step() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    counter, removers = counted(model)
    assert counter.take() is None
    for _ in range(2):
        model(torch.randn(3, 7, 6)).sum().backward()
    model.eval()
    with torch.no_grad():
        model(torch.randn(3, 7, 6))
    assert counter.take() == 42
    assert counter.take() is None
    for remove in removers:
        remove()
    model(torch.randn(3, 6))
    assert counter.take() is None


def test_two_passes_before_one_backward_both_count() -> None:
    model = nn.Sequential(nn.Linear(6, 5))
    counter, _ = counted(model)
    (model(torch.randn(3, 6)) - model(torch.randn(3, 6))).sum().backward()
    assert counter.take() == 6


def test_a_gradient_dropped_without_a_step_takes_its_rows_along() -> None:
    model = nn.Sequential(nn.Linear(6, 5))
    counter, _ = counted(model)
    for rows in (3, 8):
        model.zero_grad()
        model(torch.randn(rows, 6)).sum().backward()
    assert counter.take() == 8


def test_recomputation_does_not_count() -> None:
    for reentrant in (False, True):
        model = nn.Sequential(nn.Linear(6, 5), nn.Tanh())
        counter, _ = counted(model)
        x = torch.randn(3, 6, requires_grad=True)
        checkpoint(model, x, use_reentrant=reentrant).sum().backward()
        assert counter.take() == 3


def test_pixels_of_convolutions_and_ids_of_embeddings() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3))
    counter, _ = counted(model)
    model(torch.randn(2, 3, 6, 5))
    assert counter.take() == 2 * 30
    model = nn.Sequential(nn.Embedding(9, 4))
    target = find_targets(model, "weight", None)[0]
    counter, _ = count_tokens(model, target, hooked=True)
    model(torch.zeros(2, 5, dtype=torch.int64))
    assert counter.take() == 10


def test_compiled_models_are_left_alone() -> None:
    model = torch.compile(nn.Sequential(nn.Linear(6, 5)))
    counter, removers = counted(model)
    assert removers == [] and counter.take() is None


def test_a_hooked_model_can_be_copied_and_pickled() -> None:
    model = nn.Sequential(nn.Linear(6, 5))
    counter, _ = counted(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        twin(torch.randn(4, 6))
    assert counter.take() is None
