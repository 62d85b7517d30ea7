"""`proma-bench verify`: a user's projection or update rule against every promise, as a report."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from proma_bench import named
from proma_bench.console import say
from proma_bench.errors import RunError, UsageError
from proma_bench.foreign import FAILURES, described
from proma_bench.projection.updates import AnyRule, RuleError, UpdateRule, as_rule
from proma_bench.testing import Finding, Projection, ProjectionProblem, examine_projection, examine_rule
from proma_bench.testing.checks import undisturbed
from proma_bench.testing.findings import failure
from proma_bench.testing.rules import SOUND_RULE_INVARIANTS, rule_failure, rule_update

EXAMPLES = 200


def verify(name: str, exact: bool, console: Console) -> None:
    """Print one line per promise, and counterexamples.

    Raises:
        UsageError: there is no such function, or it takes other arguments.
        RunError: a promise is broken; of an update rule, one that every rule must keep.
    """
    torch.set_num_threads(1)  # faster for small tensors
    function = load_function(name)
    if is_rule(function):
        _verify_rule(name, function, console)
        return
    fn = undisturbed(function)
    findings = examine_projection(fn, exact=exact, examples=EXAMPLES)
    _show(findings, "broken", console)
    for problem, breaks in counterexamples(findings, functools.partial(failure, fn)):
        _show_problem(f"breaks {', '.join(breaks)}:", describe(fn, problem), console)
    broken = sum(not finding.holds for finding in findings)
    kind = "an exact" if exact else "an inexact"
    if broken:
        raise RunError(f"{name} breaks {broken} of {len(findings)} promises of {kind} projection")
    say(console, "")
    say(console, f"{name} keeps all {len(findings)} promises of {kind} projection, on {EXAMPLES} inputs")


def is_rule(function: Callable[..., Any]) -> bool:
    """Whether it takes Gram matrix, overlaps and advantages rather than a running gradient and sequence gradients."""
    if isinstance(function, UpdateRule):
        return True
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # what is written in C may have no signature
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(one.kind in positional and one.default is one.empty for one in parameters) == 3


def _verify_rule(name: str, rule: Callable[..., Any], console: Console) -> None:
    """What every rule must keep is called broken, the rest tells what kind of rule it is."""
    try:
        as_rule(rule)
    except RuleError as error:
        raise UsageError(str(error)) from None
    findings = examine_rule(rule, examples=EXAMPLES)
    sound = [finding for finding in findings if finding.invariant in SOUND_RULE_INVARIANTS]
    others = [finding for finding in findings if finding not in sound]
    _show(sound, "broken", console)
    _show(others, "not so", console)
    for problem, breaks in counterexamples(sound, functools.partial(rule_failure, rule)):
        _show_problem(f"breaks {', '.join(breaks)}:", describe_rule(rule, problem), console)
    if broken := sum(not finding.holds for finding in sound):
        raise RunError(f"{name} breaks {broken} of the {len(sound)} promises that every update rule must keep")
    kept = sum(finding.holds for finding in others)
    say(console, "")
    say(
        console,
        f"{name} keeps all {len(sound)} promises of an update rule, and {kept} of {len(others)} that a rule may have, "
        f"on {EXAMPLES} inputs",
    )


def _show(findings: Sequence[Finding], otherwise: str, console: Console) -> None:
    for finding in findings:
        state = ("holds ", "green") if finding.holds else (otherwise, "red" if otherwise == "broken" else "yellow")
        words = _one_line(finding.invariant.__doc__ if finding.holds else finding.failure)
        say(console, state, f"  {finding.name:<26}{words}")


def _show_problem(heading: str, description: str, console: Console) -> None:
    for line in ("", heading, *description.split("\n")):
        say(console, line)


def load_function(name: str) -> Callable[..., Any]:
    """The function of a name (see `proma_bench.named`); of a class of update rules, the rule with its defaults.

    Raises:
        UsageError: there is no such function; the message has the nearest name.
    """
    function = named.load(name).function
    if isinstance(function, type):
        try:
            function = function()
        except FAILURES as error:
            raise UsageError(f"{name} cannot be made without arguments: {described(error)}") from error
    return function


# ---------------------------------------------------------------------------------------------- counterexamples


def counterexamples(
    findings: Sequence[Finding], failure: Callable[[Any, ProjectionProblem], str | None]
) -> list[tuple[ProjectionProblem, list[str]]]:
    """The fewest counterexamples that show every broken promise, smallest first, each with what it breaks.

    Args:
        findings: one for each promise.
        failure: how a problem breaks a promise, in words; None if it does not.
    """
    problems = [finding.counterexample for finding in findings if finding.counterexample]
    left = [finding for finding in findings if not finding.holds]
    shown = []
    for problem in sorted(problems, key=_size):
        breaks = [finding for finding in left if failure(finding.invariant, problem)]
        left = [finding for finding in left if finding not in breaks]
        if breaks:
            shown.append((problem, [finding.name for finding in breaks]))
    return shown


def _size(problem: ProjectionProblem) -> int:
    return problem.seq_grads.numel()


def describe(fn: Projection, problem: ProjectionProblem) -> str:
    """The inputs and the result, with shapes."""
    result = _result(lambda: _numbers(fn(problem.running, problem.seq_grads)))
    running, seq_grads = _numbers(problem.running), _numbers(problem.seq_grads)
    return f"  running    {running}\n  seq_grads  {seq_grads}\n  result     {result}"


def describe_rule(rule: AnyRule, problem: ProjectionProblem) -> str:
    """The inputs and the coefficients, with shapes."""
    running, seq_grads, advantages = map(_numbers, problem)
    result = _result(lambda: _numbers(rule_update(rule, problem).coefficients))
    inputs = f"  running       {running}\n  seq_grads     {seq_grads}\n  advantages    {advantages}"
    return f"{inputs}\n  coefficients  {result}"


def _result(call: Callable[[], str]) -> str:
    try:
        return call()
    except FAILURES as error:
        return f"raises {described(error)}"


def _numbers(tensor: Tensor) -> str:
    return f"{list(tensor.shape)}  {_rounded(tensor.tolist())}"


def _rounded(values: Any) -> str:
    if isinstance(values, list):
        return f"[{', '.join(map(_rounded, values))}]"
    return f"{values + 0.0:.6g}"  # no minus before a zero


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split())
