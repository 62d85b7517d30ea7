"""What trainers share: the gradient is the oracle's, and a loss or an order of calls that is wrong is refused."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from oracle import Micro, assert_gradients, oracle_gradients
from rule_oracles import isopo, literal_gradients
from torch import Tensor, nn

from proma_bench.integrations.adapter import TrainerAdapter, check_loss, packed_sequence_ids, sequence_advantages
from proma_bench.projection.config import ProjectionConfig
from proma_bench.projection.named import rule_named
from proma_bench.projection.rules.isopo import Isopo
from proma_bench.projection.rules.shrink import Shrink

TOKENS = 5
ADVANTAGES = torch.tensor([1.0, -2.0, 0.5, 0.5], dtype=torch.float64)


def policy() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 7)).double()


def microbatch(number: int) -> tuple[Tensor, Tensor]:
    """Tokens [B, T + 1] and the mask [B, T] of what was answered: sequences of unequal length."""
    tokens = torch.randint(7, (4, TOKENS + 1), generator=torch.Generator().manual_seed(number))
    return tokens, torch.arange(TOKENS) < torch.tensor([5, 2, 4, 3]).unsqueeze(1)


def log_probs_of(module: nn.Module, tokens: Tensor) -> Tensor:
    result: Tensor = module(tokens[:, :-1]).log_softmax(dim=-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)
    return result


def log_prob_of_one(module: nn.Module, number: int, i: int) -> Tensor:
    tokens, mask = microbatch(number)
    return (log_probs_of(module, tokens[i : i + 1]) * mask[i : i + 1]).sum()


def micros() -> list[Micro]:
    def micro(number: int) -> Micro:
        return Micro(lambda module, i: log_prob_of_one(module, number, i), ADVANTAGES)

    return [micro(number) for number in range(3)]


def train(adapter: TrainerAdapter, module: nn.Module) -> None:
    for number in range(3):
        tokens, mask = microbatch(number)
        with adapter.backward_pass():
            log_probs = log_probs_of(module, tokens)
            loss = -(log_probs * mask).sum()
            adapter.hand_over(loss, log_probs, ADVANTAGES)
            loss.backward()


def test_gradients_are_the_oracles_by_the_name_of_a_method() -> None:
    module = policy()
    adapter = TrainerAdapter(module, "exact")
    train(adapter, module)
    assert_gradients(module, oracle_gradients(policy(), micros(), ProjectionConfig("exact")), 1e-10)
    summary = adapter.summary()
    assert 0 < summary["removed_ratio"] < 1 and 0 <= summary["clamped"] <= 1
    assert adapter.summary()["removed_ratio"] == 0  # it was forgotten
    adapter.remove()
    TrainerAdapter(module)  # nothing is attached any more


def test_gradients_are_the_oracles_by_the_name_of_another_rule() -> None:
    module = policy()
    train(TrainerAdapter(module, "isopo"), module)
    assert_gradients(module, literal_gradients(policy(), micros(), isopo(1.0)), 1e-10)


# ------------------------------------------------------------------------------------------------ the order of calls


def test_a_backward_pass_without_advantages_is_an_error() -> None:
    module = policy()
    adapter = TrainerAdapter(module)
    with pytest.raises(RuntimeError, match="no advantages were handed over"), adapter.backward_pass():
        (-log_probs_of(module, microbatch(0)[0]).sum()).backward()


def test_an_error_of_the_trainer_is_not_covered_up() -> None:
    adapter = TrainerAdapter(policy())
    with pytest.raises(KeyError), adapter.backward_pass():
        raise KeyError("the trainer's own")


def test_advantages_are_handed_over_once_and_in_a_backward_pass() -> None:
    module = policy()
    adapter = TrainerAdapter(module)
    log_probs = log_probs_of(module, microbatch(0)[0])
    with pytest.raises(RuntimeError, match=r"outside of backward_pass\(\)"):
        adapter.hand_over(-log_probs.sum(), log_probs, ADVANTAGES)
    with adapter.backward_pass():
        adapter.hand_over(-log_probs.sum(), log_probs, ADVANTAGES)
        with pytest.raises(RuntimeError, match="twice in one backward pass"):
            adapter.hand_over(-log_probs.sum(), log_probs, ADVANTAGES)
        (-log_probs.sum()).backward()


# ------------------------------------------------------------------------------------------------------- the loss

Loss = Callable[[Tensor, Tensor], Tensor]
LENGTHS = torch.tensor([5.0, 2.0, 4.0, 3.0])
MASK = microbatch(0)[1]


def ratio_of(log_probs: Tensor) -> Tensor:
    return (log_probs - log_probs.detach()).exp()


def penalty(log_probs: Tensor) -> Tensor:
    """k3, with a reference that is not the policy."""
    gap = 0.1 * torch.arange(TOKENS) - (log_probs - log_probs.detach())
    return (gap.exp() - gap - 1).mean()


RIGHT: dict[str, Loss] = {
    "sum": lambda log_probs, a: -(log_probs * MASK).sum(),
    "mean of tokens": lambda log_probs, a: -(log_probs * MASK).sum() / MASK.sum(),
    "mean of sequences": lambda log_probs, a: -((log_probs * MASK).sum(1) / LENGTHS).mean(),
    "scaled": lambda log_probs, a: -(log_probs * MASK).sum() * 65536,
}
WRONG: dict[str, tuple[Loss, str]] = {
    "advantages": (lambda log_probs, a: -(a[:, None] * log_probs * MASK).sum(), "as if it had the advantages in it"),
    "plus, not minus": (lambda log_probs, a: (log_probs * MASK).sum(), "weighs log-probs negatively"),
    "ratios, all advantages above zero": (
        lambda log_probs, a: -(a.abs()[:, None] * ratio_of(log_probs) * MASK).sum(),
        "another term, or a likelihood ratio",
    ),
    "a KL penalty": (
        lambda log_probs, a: -(log_probs * MASK).sum() + 0.01 * penalty(log_probs),
        "another term, or a likelihood ratio",
    ),
    "an entropy bonus": (
        lambda log_probs, a: -(log_probs * MASK).sum() + 0.01 * log_probs.new_ones(()),  # computed from the logits
        "another term, or a likelihood ratio",
    ),
    "something else": (lambda log_probs, a: torch.ones((), requires_grad=True) * 2, "does not depend on these"),
}


def handed_over(loss: Loss, dtype: torch.dtype) -> None:
    module = policy().to(dtype)
    log_probs = log_probs_of(module, microbatch(0)[0])
    check_loss(loss(log_probs, ADVANTAGES.to(dtype)), log_probs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", RIGHT)
def test_a_sum_with_constant_weights_is_right(name: str, dtype: torch.dtype) -> None:
    handed_over(RIGHT[name], dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", WRONG)
def test_another_loss_is_refused(name: str, dtype: torch.dtype) -> None:
    loss, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        handed_over(loss, dtype)


def test_log_probs_without_a_graph_are_refused() -> None:
    with pytest.raises(ValueError, match="does not depend on these log_probs"):
        check_loss(torch.ones((), requires_grad=True), torch.zeros(4))


def test_what_is_refused_has_changed_no_gradient() -> None:
    module = policy()
    adapter = TrainerAdapter(module)
    log_probs = log_probs_of(module, microbatch(0)[0])
    loss = WRONG["advantages"][0](log_probs, ADVANTAGES)
    with pytest.raises(ValueError, match="advantages"), adapter.backward_pass():
        adapter.hand_over(loss, log_probs, ADVANTAGES)
    assert all(parameter.grad is None for parameter in module.parameters())


# ------------------------------------------------------------------------------------------- advantages and sequences


def test_the_advantage_of_a_sequence_is_that_of_its_tokens() -> None:
    mask = torch.tensor([[True, False], [True, True], [False, False]])
    advantages = torch.tensor([[3.0, 9.0], [-1.0, -1.0], [5.0, 5.0]])
    assert sequence_advantages(advantages, mask).tolist() == [3.0, -1.0, 0.0]


def test_advantages_of_tokens_are_refused() -> None:
    advantages = torch.tensor([[3.0, 3.0], [1.0, 2.0]])
    with pytest.raises(ValueError, match=r"tokens of sequences \[1\] differ"):
        sequence_advantages(advantages, torch.ones(2, 2, dtype=torch.bool))


def test_the_tokens_of_packed_sequences() -> None:
    assert packed_sequence_ids(torch.tensor([2, 1, 3]), padding=2).tolist() == [[0, 0, 1, 2, 2, 2, 2, 2]]


# ------------------------------------------------------------------------------------------------------ rules by name


def test_rules_by_their_names() -> None:
    strict = ProjectionConfig(max_removed=0.1)
    assert rule_named("exact", strict) == ProjectionConfig("exact", max_removed=0.1)
    assert rule_named("shrink", strict) == Shrink(strict)
    assert rule_named("isopo", strict, {"regularisation": 2.0}) == Isopo(2.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("isopoo",), r"'isopoo' is none of exact, .*, and no update rule \(.*isopo"),
        (("isopo", None, {"sweeps": 3}), r"isopo has no setting 'sweeps' \(it has: regularisation\)"),
        (("exact", None, {"sweeps": 3}), r"exact has no setting 'sweeps' \(it has: none\)"),
        (("shrink", None, {"projection": 3}), r"shrink has no setting 'projection'"),
        (("isopo", None, {"regularisation": -1.0}), r"isopo: regularisation must be a finite number above 0"),
    ],
)
def test_a_name_or_a_setting_that_is_not_there(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rule_named(*arguments)


# ------------------------------------------------------------------------------------------- a trainer of one's own


class Trainer:
    """A framework's: it has the loop to itself, and calls the methods below, which others may override."""

    def __init__(self, module: nn.Module, projection: str) -> None:
        self.model, self.args = module, SimpleNamespace(projection=projection)
        self.logged: list[dict[str, Any]] = []

    def train(self) -> None:
        self.on_train_start()
        for number in range(3):
            tokens, mask = microbatch(number)
            advantages = ADVANTAGES[:, None] * mask
            self.training_step({"tokens": tokens, "mask": mask, "advantages": advantages, "tokens_of_the_step": 42})
        self.on_optimizer_step()
        self.on_train_end()

    def training_step(self, batch: dict[str, Any]) -> Tensor:
        loss = self.compute_loss(log_probs_of(self.model, batch["tokens"]), batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def compute_loss(self, log_probs: Tensor, batch: dict[str, Any]) -> Tensor:
        return -(batch["advantages"] * log_probs).mean()

    def log(self, entry: dict[str, Any]) -> None:
        self.logged.append(entry)

    def on_train_start(self) -> None: ...
    def on_optimizer_step(self) -> None: ...
    def on_train_end(self) -> None: ...


def test_the_trainer_of_the_docs(monkeypatch: pytest.MonkeyPatch) -> None:
    framework = ModuleType("some_framework")
    framework.Trainer = Trainer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "some_framework", framework)
    page = (Path(__file__).parents[2] / "docs/other_trainers.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/other_trainers.md", "exec"), names)
    trainer = names["ProjectedTrainer"](policy(), "exact")
    trainer.train()
    wanted = oracle_gradients(policy(), micros(), ProjectionConfig("exact"))
    assert_gradients(trainer.model, {name: gradient / 42 for name, gradient in wanted.items()}, 1e-10)
    assert 0 < trainer.logged[0]["removed_ratio"] < 1
