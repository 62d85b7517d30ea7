"""`proma-bench verify`: a user's projection against every promise, as a report."""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, cast

import torch
from rich.console import Console
from torch import Tensor

from proma_bench.console import say
from proma_bench.errors import RunError, UsageError
from proma_bench.testing import Finding, Projection, ProjectionProblem, examine_projection
from proma_bench.testing.checks import undisturbed
from proma_bench.testing.findings import failure

EXAMPLES = 200


def verify(name: str, exact: bool, console: Console) -> None:
    """Print one line per promise, and counterexamples.

    Raises:
        RunError: a promise is broken.
    """
    torch.set_num_threads(1)  # faster for small tensors
    fn = undisturbed(load_function(name))
    findings = examine_projection(fn, exact=exact, examples=EXAMPLES)
    for finding in findings:
        state = ("holds ", "green") if finding.holds else ("broken", "red")
        words = _one_line(finding.invariant.__doc__ if finding.holds else finding.failure)
        say(console, state, f"  {finding.name:<26}{words}")
    for problem, breaks in counterexamples(fn, findings):
        for line in ("", f"breaks {', '.join(breaks)}:", *describe(fn, problem).split("\n")):
            say(console, line)
    broken = sum(not finding.holds for finding in findings)
    kind = "an exact" if exact else "an inexact"
    if broken:
        raise RunError(f"{name} breaks {broken} of {len(findings)} promises of {kind} projection")
    say(console, "")
    say(console, f"{name} keeps all {len(findings)} promises of {kind} projection, on {EXAMPLES} inputs")


def load_function(name: str) -> Callable[..., Any]:
    """The function that ``package.module:function`` names.

    Raises:
        UsageError: there is no such function; the message has the nearest name.
    """
    module_name, _, function_name = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), function_name]):
        raise UsageError(f"a function is named package.module:function, got {name!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    module = _load_module(module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise _unknown(f"function in {module_name}", function_name, _functions(module))
    return cast(Callable[..., Any], function)


def _load_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # whatever a module does when it is imported
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{name}.".startswith(f"{missing}."):
            raise _unknown("module", missing, _modules_beside(missing)) from error
        raise UsageError(f"cannot import {name}: {type(error).__name__}: {error}") from error


def _functions(module: ModuleType) -> list[str]:
    """What the module defines; where that is nothing, what it imports."""
    public = {name: value for name, value in vars(module).items() if callable(value) and not name.startswith("_")}
    own = [name for name, value in public.items() if getattr(value, "__module__", None) == module.__name__]
    return own or list(public)


def _modules_beside(name: str) -> list[str]:
    parent, _, _ = name.rpartition(".")
    places = getattr(sys.modules.get(parent), "__path__", []) if parent else None
    return [f"{parent}.{module.name}".lstrip(".") for module in pkgutil.iter_modules(places)]


def _unknown(kind: str, name: str, known: list[str]) -> UsageError:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return UsageError(f"unknown {kind}: {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))


# ---------------------------------------------------------------------------------------------- counterexamples


def counterexamples(fn: Projection, findings: Sequence[Finding]) -> list[tuple[ProjectionProblem, list[str]]]:
    """The fewest counterexamples that show every broken promise, smallest first, each with what it breaks."""
    problems = [finding.counterexample for finding in findings if finding.counterexample]
    left = [finding for finding in findings if not finding.holds]
    shown = []
    for problem in sorted(problems, key=_size):
        breaks = [finding for finding in left if failure(fn, finding.invariant, problem)]
        left = [finding for finding in left if finding not in breaks]
        if breaks:
            shown.append((problem, [finding.name for finding in breaks]))
    return shown


def _size(problem: ProjectionProblem) -> int:
    return problem.seq_grads.numel()


def describe(fn: Projection, problem: ProjectionProblem) -> str:
    """The inputs and the result, with shapes."""
    try:
        result = _numbers(fn(problem.running, problem.seq_grads))
    except Exception as error:
        result = f"raises {type(error).__name__}: {error}"
    running, seq_grads = _numbers(problem.running), _numbers(problem.seq_grads)
    return f"  running    {running}\n  seq_grads  {seq_grads}\n  result     {result}"


def _numbers(tensor: Tensor) -> str:
    return f"{list(tensor.shape)}  {_rounded(tensor.tolist())}"


def _rounded(values: Any) -> str:
    if isinstance(values, list):
        return f"[{', '.join(map(_rounded, values))}]"
    return f"{values + 0.0:.6g}"  # no minus before a zero


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split())
