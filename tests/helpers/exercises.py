"""The exercises of the lessons: what is on the page, and how answers behave. `bank` has answers.

Each exercise has inputs that were not made by its check, so that a mutant of the solution can be told wrong or
equivalent without asking the check.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import itertools
import linecache
import re
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import checks
import numpy as np
import torch
from checks import lesson0
from torch import Tensor, nn

from proma_bench import project
from proma_bench.backward.factors import Dense
from tutorials import __main__ as tool

Wrong = tuple[Any, str]
"""An answer, and a part of what must be said about it."""


class Several(tuple):
    """The values that a check gets together."""


@dataclass(frozen=True)
class Exercise:
    """What is known about the answers to an exercise.

    Attributes:
        lesson: its number.
        name: of the check.
        inputs: draws the arguments of an answer; None where the answer is no function.
        right: right answers besides the solution.
        wrong: wrong answers besides the mutants of the solution.
        given: what the check gets before the answer.
        result: what of an answer's result counts.
        at_most: how many mutants are tried, of checks that take seconds.
        asks_more: whether the check asks for more than the inputs show, so an equivalent mutant may be wrong.
    """

    lesson: int
    name: str
    inputs: Callable[[Callable[..., Tensor]], tuple[Any, ...]] | None
    right: list[Any]
    wrong: list[Wrong] = field(default_factory=list)
    given: tuple[Any, ...] = ()
    result: Callable[[Any], Any] = lambda found: found
    at_most: int | None = None
    asks_more: bool = False

    def __str__(self) -> str:
        return f"{self.lesson}-{self.name}"

    def check(self, answer: Any) -> checks.Verdict:
        """The verdict."""
        judge = getattr(importlib.import_module(f"checks.lesson{self.lesson}"), self.name)
        return judge(*self.given, *(answer if isinstance(answer, Several) else (answer,)))


# ------------------------------------------------------------------------------------------------ on the page


def solutions() -> dict[tuple[int, str], str]:
    """By lesson and check, the solution on the page without the call of its check."""
    return {(lesson, name): code for lesson, source in _sources() for name, code in _checked(_folded(source))}


def stubs() -> dict[tuple[int, str], str]:
    """By lesson and check, the cell that the reader changes, likewise."""
    return {(lesson, name): code for lesson, source in _sources() for name, code in _checked(_code(source))}


def _sources() -> Iterator[tuple[int, Any]]:
    return ((int(source.stem[0]), tool.read_source(source)) for source in tool.lessons())


def _folded(notebook: Any) -> list[str]:
    return [code for cell in notebook.cells for code in tool.SOLUTION.findall(cell.source)]


def _code(notebook: Any) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def _checked(codes: list[str]) -> Iterator[tuple[str, str]]:
    for code in codes:
        body, _, last = code.strip().rpartition("\n")
        if found := re.fullmatch(r"check\.(\w+)\(.*\)", last):
            yield found[1], body


# ------------------------------------------------------------------------------------- names that answers may use


def defined_before(lesson: int, name: str) -> set[str]:
    """The names that the lesson's cells define, up to that of the exercise."""
    (notebook,) = (notebook for number, notebook in _sources() if number == lesson)
    found: set[str] = set()
    for code in _code(notebook):
        found |= _defined(ast.parse(code))
        if any(checked == name for checked, _ in _checked([code])):
            return found
    raise LookupError(name)


def free_names(code: str) -> set[str]:
    """The names that a cell takes from the cells before it."""
    tree = ast.parse(code)
    nodes = list(ast.walk(tree))
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    own = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    own |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return used - own - _imported(tree) - vars(builtins).keys()


def imported_in(code: str) -> set[str]:
    """The names that a cell imports."""
    return _imported(ast.parse(code))


def modules_of(answer: Any) -> set[str]:
    """The names of modules, such as `torch`, that an answer of the bank uses, on its own or by the bank's functions."""
    found: set[str] = set()
    functions, seen = [answer], set()
    while functions:
        function = functions.pop()
        if not isinstance(function, types.FunctionType) or function in seen or "bank" not in function.__module__:
            continue
        seen.add(function)
        names = {name for code in _codes(function.__code__) for name in code.co_names}
        values = {name: function.__globals__[name] for name in names & function.__globals__.keys()}
        found |= {name for name, value in values.items() if isinstance(value, types.ModuleType)}
        functions += [*values.values(), *(cell.cell_contents for cell in function.__closure__ or ())]
    return found - CHECKS


CHECKS = {f"lesson{number}" for number in range(9)}


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _imported(tree: ast.AST) -> set[str]:
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    return {(name.asname or name.name).split(".")[0] for node in imports for name in node.names}


def _defined(tree: ast.Module) -> set[str]:
    """At the top level of a cell: imports, functions, classes and whatever is assigned, in a loop for example, too."""
    found = _imported(tree)
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            found.add(statement.name)
        else:
            stored = (node for node in ast.walk(statement) if isinstance(node, ast.Name))
            found |= {node.id for node in stored if isinstance(node.ctx, ast.Store)}
    return found


# ------------------------------------------------------------------------------------------------ answers as cells

_files = itertools.count()


def answer_of(code: str) -> Any:
    """What a cell answers: its last function, or the values that it sets. A function has a source, as in Jupyter."""
    file = f"<cell {next(_files)}>"
    linecache.cache[file] = (len(code), None, code.splitlines(keepends=True), file)
    module = types.ModuleType("cell")
    known = {"torch": torch, "np": np, "nn": nn, "Dense": Dense, "project": project, "check": lesson0}
    vars(module).update(known, contexts=lesson0.CONTEXTS, register_rule=lambda layer: lambda rule: rule, Affine=Affine)
    exec(compile(code, file, "exec"), vars(module))
    if functions := [node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)]:
        return getattr(module, functions[-1].name)
    names = dict.fromkeys(node.targets[0].id for node in ast.parse(code).body if isinstance(node, ast.Assign))
    return Several(getattr(module, name) for name in names if name != "contexts")


def function_in(code: str) -> str:
    """The imports and the last function of a cell."""
    body = ast.parse(code).body
    kept = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n\n".join(map(ast.unparse, [*kept, [node for node in body if isinstance(node, ast.FunctionDef)][-1]]))


# ------------------------------------------------------------------------------------------------ behaviour


def behaves_alike(answer: Callable[..., Any], other: Callable[..., Any], exercise: Exercise, tries: int = 40) -> bool:
    """Whether two answers return the same on inputs that no check has drawn."""
    draw = checks.normal(20260101)
    problems = [exercise.inputs(draw) for _ in range(tries)]
    return all(_same(_outcome(answer, problem, exercise), _outcome(other, problem, exercise)) for problem in problems)


def _outcome(answer: Callable[..., Any], problem: tuple[Any, ...], exercise: Exercise) -> Any:
    torch.manual_seed(0)  # of answers that draw at random
    try:
        return exercise.result(answer(*map(checks._copied, problem)))
    except Exception as error:
        return error


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Exception) or isinstance(other, Exception):
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, Dense) and isinstance(other, Dense):
        return _same(one.seq_grads, other.seq_grads)
    if isinstance(one, Tensor | np.ndarray | float | int) and isinstance(other, Tensor | np.ndarray | float | int):
        one, other = (torch.as_tensor(value, dtype=torch.float64) for value in (one, other))
        return one.shape == other.shape and torch.allclose(one, other, rtol=1e-7, atol=1e-10)
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and one == other


class Affine(nn.Module):
    """The layer of lesson 4's exercise."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs, dtype=torch.float64))
        self.bias = nn.Parameter(torch.randn(outputs, dtype=torch.float64))

    def forward(self, rows: Tensor) -> Tensor:
        return rows @ self.weight + self.bias


def integers(draw: Callable[..., Tensor], below: int, *shape: int) -> Tensor:
    """Random integers from 0 up."""
    return (draw(*shape).abs() * 1e6).long() % below
