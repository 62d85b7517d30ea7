"""Layers whose weight is computed from others: normalised, pruned, parametrised; before attaching, and after."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from trust import WAYS, X2, Batch, Case, X, double, outcome, score

from proma_bench import Proma


def old_weight_norm(layer: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and used
        nn.utils.weight_norm(layer)


def old_spectral_norm(layer: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.spectral_norm(layer)


WRAPPERS: dict[str, Callable[[nn.Module], object]] = {
    "weight_norm": old_weight_norm,
    "spectral_norm": old_spectral_norm,
    "parametrizations.weight_norm": parametrizations.weight_norm,
    "parametrizations.spectral_norm": parametrizations.spectral_norm,
    "prune": lambda layer: prune.l1_unstructured(layer, "weight", 0.4),
    "prune.bias": lambda layer: prune.random_unstructured(layer, "bias", 0.4),
    "parametrize": lambda layer: nn.utils.parametrize.register_parametrization(layer, "weight", nn.Softplus()),
}


def mlp() -> Any:
    return double(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)))


def wrap_once(kind: str, model: Any) -> None:
    """A module with a computed weight cannot be copied, so that the copy is wrapped by itself."""
    if not getattr(model, "wrapped", False):
        torch.manual_seed(0)
        WRAPPERS[kind](model[0])
        model.wrapped = True


def batches_of(kind: str, wrapped_at: int) -> list[Batch]:
    def wrap(model: Any) -> None:
        wrap_once(kind, model)

    def use(rows: Tensor) -> Callable[[Any], Tensor]:
        return lambda model: score(model(rows))

    found = [Batch(use(X)), Batch(use(X2)), Batch(use(X))]
    return [batch._replace(before=wrap) if number == wrapped_at else batch for number, batch in enumerate(found)]


@pytest.mark.parametrize("uncovered", [False, True], ids=["default", "uncovered"])
@pytest.mark.parametrize("kind", WRAPPERS)
@pytest.mark.parametrize("way", WAYS)
def test_wrapped_before_attaching(way: str, kind: str, uncovered: bool) -> None:
    def attach(model: Any, config: Any, **options: Any) -> list[Proma]:
        wrap_once(kind, model)
        return [Proma(model, config, **options)]

    options = {"uncovered": "autograd"} if uncovered else {}
    found = outcome(Case(mlp(), batches_of(kind, 0), attach=attach), way, **options)
    assert found == "right" or not uncovered


@pytest.mark.parametrize("wrapped_at", [0, 1], ids=["at once", "later"])
@pytest.mark.parametrize("kind", WRAPPERS)
@pytest.mark.parametrize("way", WAYS)
def test_wrapped_after_attaching(way: str, kind: str, wrapped_at: int) -> None:
    outcome(Case(mlp(), batches_of(kind, wrapped_at)), way)
