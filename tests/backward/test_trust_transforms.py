"""Layers inside of other machinery: function transforms, compiled scripts, checkpoints, loops over single rows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from trust import ADVANTAGES, REFUSALS, X2, Batch, Case, X, assert_outcome, double, score

from proma_bench import Proma


def mlp() -> Any:
    return double(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.LayerNorm(5), nn.Linear(5, 3)))


def use(function: Callable[[Any, Tensor], Tensor]) -> list[Batch]:
    return [Batch(lambda model, rows=rows: function(model, rows)) for rows in (X, X2, X)]


def scaled(model: Any, rows: Tensor) -> Tensor:
    return score(functional_call(model, {name: 2 * value for name, value in model.named_parameters()}, rows))


USES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "vmap": lambda model, rows: score(vmap(model)(rows)),
    "gradient of an energy": lambda model, rows: score(vmap(grad(lambda row: model(row).sum()))(rows)),
    "derivative in a direction": lambda model, rows: score(jvp(model, (rows,), (rows.flip(1),))[1]),
    "functional_call": scaled,
    "one vector after another": lambda model, rows: torch.stack([model(row).sin().sum() for row in rows]),
    "one row after another": lambda model, rows: torch.cat([score(model(row.unsqueeze(0))) for row in rows]),
}


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # by torch itself, for derivatives in a direction
@pytest.mark.parametrize("way", USES)
def test_called_in_another_way(way: str) -> None:
    assert_outcome(Case(mlp(), use(USES[way]), "right"), "backward")


@pytest.mark.parametrize("compiled", ["script", "trace"])
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_compiled_by_torch_jit(compiled: str) -> None:
    def gradients(model: Any) -> list[Tensor]:
        with Proma(model) as proma:
            for rows in (X, X2, X):
                proma.backward(score(model(rows)), ADVANTAGES)
        return [parameter.grad for parameter in model.parameters()]

    model = torch.jit.script(mlp()) if compiled == "script" else torch.jit.trace(mlp(), X)
    for one, other in zip(gradients(model), gradients(mlp()), strict=True):
        torch.testing.assert_close(one, other)


class Scaled(nn.Module):
    """Parameters that are used directly, inside of a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.shift, self.head = nn.Parameter(torch.ones(6)), nn.Parameter(torch.ones(6)), nn.Linear(6, 3)

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(checkpoint(lambda rows: rows * self.gain.exp() + self.shift, rows, use_reentrant=False))


@pytest.mark.parametrize("uncovered", [False, True], ids=["default", "uncovered"])
def test_parameters_inside_of_a_checkpoint(uncovered: bool) -> None:
    case = Case(double(Scaled()), use(lambda model, rows: score(model(rows))), "raised", "right")
    assert_outcome(case, "backward", uncovered)


def _saving(_: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    is_saved = operation == torch.ops.aten.addmm.default
    return CheckpointPolicy.MUST_SAVE if is_saved else CheckpointPolicy.PREFER_RECOMPUTE


@pytest.mark.parametrize("check", [True, False])
def test_a_selective_checkpoint_works_without_the_check_of_rows(check: bool) -> None:
    """It can be differentiated once only, and says so in a way that does not help."""
    model, plain = mlp(), mlp()
    contexts = functools.partial(create_selective_checkpoint_contexts, _saving)
    with Proma(model, check=check) as proma:
        log_probs = score(checkpoint(model, X, use_reentrant=False, context_fn=contexts))
        if check:
            with pytest.raises(ValueError, match="check=False"):
                proma.backward(log_probs, ADVANTAGES)
            assert all(parameter.grad is None for parameter in model.parameters())
            return
        proma.backward(log_probs, ADVANTAGES)
    (-(ADVANTAGES * score(plain(X))).sum()).backward()
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=["strided", "jagged"])
def test_nested_tensors_are_refused_by_name(layout: torch.layout) -> None:
    model = mlp()
    nested = torch.nested.nested_tensor([X[:3], X[:1]], layout=layout)
    with Proma(model), pytest.raises(REFUSALS, match=r"'0'.*nested.*sequence_ids"):
        model[0](nested)
