"""What an update rule promises, one function per promise; and all of them tried on many hostile inputs.

Each takes a rule (see `proma_bench.projection.updates.UpdateRule`) and a problem with gradients that are written out,
and raises AssertionError in words. Any rule must keep the first three, `SOUND_RULE_INVARIANTS`. The others say what
kind of rule it is: ISOPO changes the first microbatch of a step, and PCGrad depends on the order of sequences.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from hypothesis import given
from torch import Tensor

from proma_bench.projection.updates import AnyRule, Update, as_rule, extras_of, memory_size
from proma_bench.testing.checks import search
from proma_bench.testing.findings import Finding, findings, in_words
from proma_bench.testing.strategies import ProjectionProblem, projection_problems

RuleInvariant = Callable[[AnyRule, ProjectionProblem], None]

TOLERANCE = 2e-7
"""Relative to all parts of a step: a norm that is found as a root of x'Kx loses half of its digits by cancellation."""


def rule_update(rule: AnyRule, problem: ProjectionProblem) -> Update:
    """What the rule gives for this problem."""
    (update,) = _updates(rule, [problem])
    return update


def rule_step(rule: AnyRule, problem: ProjectionProblem) -> Tensor:
    """The running gradient after the step, ``kept A + sum_i u_i S_i``, in float64."""
    update = rule_update(rule, problem)
    added: Tensor = torch.tensordot(update.coefficients, problem.seq_grads.double(), dims=1)
    return update.kept * problem.running.double() + added


# ------------------------------------------------------------------------------------- what every rule must keep


def assert_rule_finite(rule: AnyRule, problem: ProjectionProblem) -> None:
    """Finite inputs give a finite step, however long, dependent or zero the gradients are."""
    if not rule_step(rule, problem).isfinite().all():
        raise AssertionError("not finite: the step has entries that are NaN or infinite, from finite inputs")


def assert_rule_repeatable(rule: AnyRule, problem: ProjectionProblem) -> None:
    """The same inputs give the same result again: a rule is a pure function."""
    once, again = rule_step(rule, problem), rule_step(rule, problem)
    if not torch.equal(once, again):
        raise AssertionError(f"not repeatable: a second call differs by {_norm(once - again):.3g}")


def assert_rule_batched(rule: AnyRule, problem: ProjectionProblem) -> None:
    """Parameter tensors are independent: a leading axis gives what one call for each of its problems gives."""
    other = ProjectionProblem(2 * problem.running, problem.seq_grads.flip(0), problem.advantages)
    together = _updates(rule, [problem, other])
    for one, update in zip((problem, other), together, strict=True):
        alone = rule_update(rule, one)
        difference = _step(update, one) - _step(alone, one)
        _require(difference, one, "not batched: tensors that are solved together differ from one at a time", alone)


# ---------------------------------------------------------------------------------------- what kind of rule it is


def assert_rule_first_microbatch_is_plain(rule: AnyRule, problem: ProjectionProblem) -> None:
    """Where there is no running gradient, the step is the plain policy gradient."""
    first = problem._replace(running=torch.zeros_like(problem.running))
    plain = torch.tensordot(problem.advantages.double(), problem.seq_grads.double(), dims=1)
    _require(rule_step(rule, first) - plain, first, "first microbatch not plain: it differs from the policy gradient")


def assert_rule_scale_equivariant(rule: AnyRule, problem: ProjectionProblem) -> None:
    """When all gradients are multiplied by one number, so is the step: coefficients stay the same."""
    scale = 2.0**10  # exact
    scaled = problem._replace(running=scale * problem.running, seq_grads=scale * problem.seq_grads)
    difference = rule_step(rule, scaled) / scale - rule_step(rule, problem)
    _require(difference, problem, f"not scale equivariant: with all gradients times {scale:g}, the step is another")


def assert_rule_permutation_equivariant(rule: AnyRule, problem: ProjectionProblem) -> None:
    """The order of the sequences in a microbatch does not matter."""
    turned = problem._replace(seq_grads=problem.seq_grads.flip(0), advantages=problem.advantages.flip(0))
    difference = rule_step(rule, turned) - rule_step(rule, problem)
    _require(difference, problem, "not permutation equivariant: in reverse order, the step is another")


def assert_rule_norm_not_increased(rule: AnyRule, problem: ProjectionProblem) -> None:
    """Where all advantages are zero, the step never makes the running gradient longer."""
    idle = problem._replace(advantages=torch.zeros_like(problem.advantages))
    excess = _norm(rule_step(rule, idle)) - _norm(problem.running)
    _require(torch.tensor(max(excess, 0.0)), idle, "norm increased: without advantages, the running gradient grows")


SOUND_RULE_INVARIANTS: tuple[RuleInvariant, ...] = (assert_rule_finite, assert_rule_repeatable, assert_rule_batched)

RULE_INVARIANTS: tuple[RuleInvariant, ...] = (
    *SOUND_RULE_INVARIANTS,
    assert_rule_first_microbatch_is_plain,
    assert_rule_scale_equivariant,
    assert_rule_permutation_equivariant,
    assert_rule_norm_not_increased,
)


# ------------------------------------------------------------------------------------------------- all of them


def check_rule(
    rule: AnyRule, *, invariants: tuple[RuleInvariant, ...] = SOUND_RULE_INVARIANTS, examples: int = 200
) -> None:
    """Raise AssertionError at the first promise that the rule breaks, with a small input that shows it.

    Args:
        rule: the rule.
        invariants: what to ask; what every rule must keep unless told otherwise.
        examples: how many inputs; they are the same every time.

    Raises:
        AssertionError: a promise is broken.
        RuleError: what the rule returns is no update at all.
    """

    @search(max_examples=examples)
    @given(projection_problems(balanced=True))
    def every_promise_is_kept(problem: ProjectionProblem) -> None:
        for invariant in invariants:
            invariant(rule, problem)

    every_promise_is_kept()


def examine_rule(rule: AnyRule, *, examples: int = 200) -> list[Finding]:
    """Try each of `RULE_INVARIANTS` on each of ``examples`` inputs, and reduce what breaks one.

    Args:
        rule: the rule. An exception in it breaks the promise that was tried.
        examples: how many inputs; they are the same every time.

    Returns:
        One finding per promise.
    """
    asked = {invariant: functools.partial(rule_failure, rule, invariant) for invariant in RULE_INVARIANTS}
    return findings(asked, projection_problems(balanced=True), examples)


def rule_failure(rule: AnyRule, invariant: RuleInvariant, problem: ProjectionProblem) -> str | None:
    """How the rule breaks a promise on this input, in words; None if it keeps it."""
    return in_words(lambda: invariant(rule, problem))


# ------------------------------------------------------------------------------------------------------ helpers


def _updates(rule: AnyRule, problems: list[ProjectionProblem]) -> list[Update]:
    """One call for several tensors of one shape."""
    rule = as_rule(rule)
    rows = torch.stack([problem.seq_grads.double().reshape(len(problem.seq_grads), -1) for problem in problems])
    running = torch.stack([problem.running.double().flatten() for problem in problems])
    advantages = torch.stack([problem.advantages.double() for problem in problems])
    norms = torch.linalg.vector_norm(running, dim=1)
    known = {"running_norm": norms, "memory": norms.new_zeros(len(problems), memory_size(rule))}
    extras = {name: known[name] for name in extras_of(rule)}
    result = rule(rows @ rows.mT, (rows @ running.unsqueeze(-1)).squeeze(-1), advantages, **extras)
    update = result if isinstance(result, Update) else Update(result)
    kept = torch.as_tensor(update.kept, dtype=norms.dtype).expand(len(problems))
    return [Update(*pair) for pair in zip(update.coefficients, kept, strict=True)]


def _step(update: Update, problem: ProjectionProblem) -> Tensor:
    added: Tensor = torch.tensordot(update.coefficients, problem.seq_grads.double(), dims=1)
    return update.kept * problem.running.double() + added


def _require(difference: Tensor, problem: ProjectionProblem, failure: str, update: Update | None = None) -> None:
    rows = problem.seq_grads.double().reshape(len(problem.seq_grads), -1)
    weights = problem.advantages.double().abs() + (0.0 if update is None else update.coefficients.abs())
    size = _norm(problem.running) + float(weights @ torch.linalg.vector_norm(rows, dim=1))
    measured, allowed = _norm(difference), TOLERANCE * size
    if not measured <= allowed:  # so written that NaN fails
        raise AssertionError(f"{failure}: measured {measured:.3g}, allowed {allowed:.3g} (all parts of it: {size:.3g})")


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.double()))
