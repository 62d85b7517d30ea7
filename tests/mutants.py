"""A sample of the mutants of a file, each against the tests of the library: ``python -m tests.mutants FILE...``

Cosmic Ray makes the mutants, as ``cosmic-ray.toml`` says; statements that are left out are added here. Each is tried in
a fork of one process that has imported everything slow, in a copy of the tree. Exit status 1 if one survives.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import fnmatch
import importlib
import os
import random
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator, operator_names
from hypothesis import Phase, settings
from parso.python.tree import Keyword

ROOT = Path(__file__).parents[1]
SLOW = "beartype jaxtyping numpy pytest reasoning_gym torch transformers torch.utils.checkpoint"  # to import


class LeaveOutStatement(Operator):
    """A statement does nothing."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        if node.type == "simple_stmt" and node.children[0].type in ("expr_stmt", "atom_expr", "keyword", "return_stmt"):
            yield node.children[0].start_pos, node.children[0].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        first = node.children[0]
        node.children[0] = Keyword("pass", first.start_pos, first.get_first_leaf().prefix)
        return node

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


def mutants(source: str, excluded: list[str]) -> dict[tuple[bool, int, int], list[str]]:
    """The different mutants, as sources, by the place that is changed."""
    pattern = re.compile("|".join(excluded))
    operators = [get_operator(name)() for name in operator_names() if not pattern.match(name)]
    tree = get_ast(source)
    found: dict[tuple[bool, int, int], list[str]] = {}
    known = {meaning(source)}
    for operator in [*operators, LeaveOutStatement()]:
        places = [start for node in ast_nodes(tree) for start, _ in operator.mutation_positions(node)]
        for occurrence, place in enumerate(places):
            mutant = mutate_code(source, operator, occurrence)
            if mutant is not None and (key := meaning(mutant)) not in known and key is not None:
                known.add(key)
                found.setdefault((type(operator) is LeaveOutStatement, *place), []).append(mutant)
    return found


def meaning(source: str) -> str | None:
    """The program without annotations and docstrings; None where it is none."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
        elif isinstance(node, ast.Raise):
            node.exc = getattr(node.exc, "func", node.exc)  # the message is left alone
    return ast.dump(tree)


def killed(target: Path, source: str, command: list[str], limit: float, *, quiet: bool = True) -> bool:
    """Whether the tests fail on this source in place of the target's, or take longer than the limit."""
    kept = target.read_text()
    target.write_text(source)
    try:
        child = os.fork()
        if child == 0:
            run_tests(command, limit, quiet)
        return os.waitpid(child, 0)[1] != 0
    finally:
        target.write_text(kept)


def run_tests(command: list[str], limit: float, quiet: bool) -> None:
    """Run pytest, and end the process."""
    status = 1
    signal.setitimer(signal.ITIMER_REAL, limit)  # its default is to end the process
    if quiet:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
    try:
        arguments = ["-W", "ignore:Module already imported", *command]
        status = int(importlib.import_module("pytest").main(arguments, plugins=[WithoutShrinking()]))
    finally:
        sys.stdout.flush()
        os._exit(status)


class WithoutShrinking:
    """Hypothesis does not make a failing example smaller: that it fails is all that is asked."""

    def pytest_configure(self) -> None:
        settings.register_profile("mutants", phases=[Phase.explicit, Phase.generate])  # what else is set stays
        settings.load_profile("mutants")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE", help="default: all that cosmic-ray.toml names")
    parser.add_argument("--sample", type=int, default=20, help="mutants of each file, at different places; 0 is all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--tests", help="what pytest is told instead of the test-command in cosmic-ray.toml")
    options = parser.parse_args()
    config = tomllib.loads((ROOT / "cosmic-ray.toml").read_text())["cosmic-ray"]
    files = [Path(name).resolve().relative_to(ROOT) for name in options.files] or [
        path.relative_to(ROOT)
        for folder in config["module-path"]
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not any(fnmatch.fnmatch(str(path), pattern) for pattern in config["excluded-modules"])
    ]
    command = shlex.split(config["test-command"])[3:] if options.tests is None else shlex.split(options.tests)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "tree"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "results", "build", "dist"))
        os.chdir(copy)
        sys.path[:0] = [str(copy)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in SLOW.split():
                importlib.import_module(name)
        began = time.monotonic()
        first = copy / files[0]
        if killed(first, first.read_text(), command, 3600, quiet=False):
            sys.exit("the tests fail on the tree as it is")
        limit = 30 + 3 * (time.monotonic() - began)
        print(f"the tests take {time.monotonic() - began:.0f} s", flush=True)
        sys.dont_write_bytecode = True  # it is compared by the second and the size, and mutants are quick and alike
        survivors = [try_file(copy, file, options, config, command, limit) for file in files]
    sys.exit(int(any(survivors)))


def try_file(copy: Path, file: Path, options: Any, config: Any, command: list[str], limit: float) -> int:
    """Try the sample of one file; print its survivors, and how many there are."""
    source = (copy / file).read_text()
    found = mutants(source, config["filters"]["operators-filter"]["exclude-operators"])
    generator = random.Random(f"{options.seed} {file}")
    everything = [mutant for place in sorted(found) for mutant in found[place]]
    places = generator.sample(sorted(found), min(options.sample, len(found)))
    chosen = [generator.choice(found[place]) for place in places] if options.sample else everything
    survivors = 0
    for mutant in chosen:
        if not killed(copy / file, mutant, command, limit):
            survivors += 1
            lines = difflib.unified_diff(source.splitlines(), mutant.splitlines(), str(file), "survives", "", "", 1, "")
            print("\n".join(lines), flush=True)
    print(f"{file}: {len(chosen)} of {len(everything)} mutants tried, {survivors} survive", flush=True)
    return survivors


if __name__ == "__main__":
    main()
