"""The command line. Everything slow to import is imported where it is used, so that help starts at once."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

import tyro
from rich.console import Console

from proma_bench.console import make_console, say
from proma_bench.errors import RunError, UsageError, require_known
from proma_bench.learning.config import RunConfig
from proma_bench.learning.methods import all_methods, method_named
from proma_bench.plugins import load_plugins
from proma_bench.tiers import TIERS

Config = TypeVar("Config", bound=RunConfig)

NARROWEST = 20
"""Columns: in very few, tyro's help never ends."""
_TIER_HELP = f"The tier: {', '.join(TIERS)}. `proma-bench run TIER --help` lists its options."


def _default(text: str) -> object:
    """Say in the help what leaving the option out means."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {text})")


@dataclass(frozen=True)
class RunOptions(Generic[Config]):
    """Train one policy."""

    config: tyro.conf.OmitArgPrefixes[Config]
    out: Annotated[Path | None, _default("runs/TIER[/ENV]/METHOD/lr-RATE/seed-N")] = None
    """Directory of the run."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Continue the run that the directory holds from its last checkpoint; with larger --steps, a finished run, too.

    The results are those of a run that had the larger number from the start, but for one more score in the former last
    step, which is always validated.
    """
    strict: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """With --resume: refuse other versions of Python, torch and so on than the run was started with."""
    ablate: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Instead of one run, PROMA with one setting changed at a time, and the other methods, in one table."""
    seeds: Annotated[int | None, _default("3")] = None
    """With --ablate: seeds of each variant, from --seed on."""
    evaluate: Literal["validation", "test"] = "validation"
    """test: when the run is finished, score it on the test set as well, which is read for nothing else (test.json)."""
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    """Also send the metrics there; its package must be installed."""

    def __call__(self, console: Console) -> None:
        import torch

        from proma_bench.experiments.run import train_with_progress
        from proma_bench.experiments.trackers import Tracker

        if self.ablate:
            self._ablate(console)
            return
        if self.seeds is not None:
            raise UsageError("--seeds is for --ablate; one run has one --seed, and `proma-bench ladder` has several")
        config = self.config
        if self.evaluate == "test" and not config.has_test_set:
            raise UsageError("--evaluate test is for GSM8K, the only task with a test set")
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        method = method_named(config.method).folder
        default = Path("runs", config.title, method, f"lr-{config.learning_rate:g}", f"seed-{config.seed}")
        path = self.out or default
        with Tracker(self.tracker, config, path) as tracker:
            train_with_progress(path, config, self.resume, console, tracker.log, self.strict)
        if self.evaluate == "test":
            from proma_bench.experiments.test_set import score_test_set

            scores = score_test_set(path, config)
            say(console, "test set: " + ", ".join(f"{name} {score:.3f}" for name, score in scores.items()))

    def _ablate(self, console: Console) -> None:
        from proma_bench.experiments.ablation import ablate
        from proma_bench.experiments.workers import available_cores

        seeds = 3 if self.seeds is None else self.seeds
        if seeds < 1:
            raise UsageError(f"seeds must be at least 1, got {seeds}")
        if self.evaluate == "test" or self.tracker != "none" or self.strict:
            raise UsageError("--evaluate, --tracker and --strict are for a single run, not for --ablate")
        if self.config.method != "proma":
            raise UsageError(
                f"--ablate varies PROMA and compares it with other methods; leave out --method {self.config.method}"
            )
        root = self.out or Path("runs", "ablation", self.config.title)
        ablate(self.config, seeds, root, available_cores(), console)


@dataclass(frozen=True)
class RunCommand:
    """Train one policy on one tier."""

    tier: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TIER", help=_TIER_HELP)]

    def __call__(self, console: Console) -> None:
        require_known("tier", self.tier, TIERS)


@dataclass(frozen=True)
class LadderCommand:
    """Run every method on every tier, seed by seed, and compare them. Finished runs are not repeated."""

    tiers: Annotated[str | None, _default("all tiers")] = None
    """Tiers to run, separated by commas."""
    methods: Annotated[str | None, _default("reinforce,grpo,proma")] = None
    """Methods to compare, separated by commas, or all; FILE.py:NAME or MODULE:NAME is an update rule of your own."""
    budget: Literal["smoke", "quick", "full"] = "quick"
    """smoke: seconds, does it run; quick: minutes on two cores; full: long enough to converge."""
    seeds: Annotated[int | None, _default("10; smoke 2")] = None
    """Seeds for each method."""
    out: Annotated[Path | None, _default("runs/ladder-BUDGET")] = None
    """Directory of the ladder."""
    model: Annotated[str | None, _default("with a GPU Qwen/Qwen3-0.6B, else a smoke run")] = None
    """Of the tier llm: a name on the hub, or a directory. On a CPU its task is sums."""
    jobs: Annotated[int | None, _default("one for each core")] = None
    """Runs side by side, each in a process with one thread."""
    match_kl: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Then run each method also at the learning rate where its mean local KL is that of REINFORCE at the default."""

    def __call__(self, console: Console) -> None:
        from proma_bench.experiments.ladder import climb, make_plan
        from proma_bench.experiments.matching import match, require_baseline
        from proma_bench.experiments.workers import available_cores

        if self.jobs is not None and self.jobs < 1:
            raise UsageError(f"jobs must be at least 1, got {self.jobs}")
        root = self.out or Path("runs", f"ladder-{self.budget}")
        tiers = list(TIERS) if self.tiers is None else [tier.strip() for tier in self.tiers.split(",")]
        methods = None if self.methods is None else _names(self.methods)
        plan = make_plan(tiers, self.budget, self.seeds, self.model, methods)
        if self.match_kl:
            require_baseline(plan)
        processes = self.jobs or available_cores()
        climb(plan, root, processes, console)
        if self.match_kl:
            match(plan, root, processes, console)
        ReportCommand(root)(console)


@dataclass(frozen=True)
class ReportCommand:
    """Compare the runs found in a directory: print the tables, write report.html, claims.json and plots."""

    directory: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """A ladder's directory, a run's, or any that contains runs."""

    def __call__(self, console: Console) -> None:
        from proma_bench.report.build import report

        report(self.directory, console)


@dataclass(frozen=True)
class VerifyCommand:
    """Try a projection or an update rule of your own on hostile inputs: which promises it keeps, what breaks others."""

    function: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FUNCTION")]
    """FILE.py:NAME or PACKAGE.MODULE:NAME, of any fn(running [*W], seq_grads [B, *W]) -> [*W], or
    rule(gram, overlap, advantages) -> coefficients; modules of the current directory are found, too."""
    inexact: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Of a projection, ask only for what approximate methods promise as well."""

    def __call__(self, console: Console) -> None:
        from proma_bench.cli.verify import verify

        verify(self.function, not self.inexact, console)


@dataclass(frozen=True)
class NewMethodCommand:
    """Write an update rule to begin with, and its tests, as NAME.py and test_NAME.py."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """Name of the function and of its file."""
    out: Path = Path()
    """Directory of the two files."""

    def __call__(self, console: Console) -> None:
        from proma_bench.cli.new_method import new_method

        new_method(self.name, self.out, console)


@dataclass(frozen=True)
class TutorialsCommand:
    """Open the tutorials in JupyterLab, in a copy that is yours. Files that are there already are never overwritten."""

    out: Path = Path("proma-tutorials")
    """Directory of the copy."""

    def __call__(self, console: Console) -> None:
        from proma_bench.cli.tutorials import open_tutorials

        open_tutorials(self.out, console)


COMMANDS: dict[str, Callable[..., Callable[[Console], None]]] = {
    "run": RunCommand,
    "ladder": LadderCommand,
    "report": ReportCommand,
    "new-method": NewMethodCommand,
    "verify": VerifyCommand,
    "tutorials": TutorialsCommand,
}


def _names(methods: str) -> list[str]:
    """Those that are separated by commas; ``all`` stands for every method of this package."""
    names = [method.strip() for method in methods.split(",")]
    return [one for name in names for one in (all_methods() if name == "all" else [name])]


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code: 0, 1 for a run that failed, 2 for a wrong use."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    console = make_console()
    try:
        _require_usable(arguments)
        load_plugins()
        _parse(arguments)(console)
    except UsageError as error:
        return _complain(error, 2)
    except OSError as error:
        return _complain(f"{error.filename}: {error.strerror}" if error.filename else error, 1)
    except RunError as error:
        return _complain(error, 1)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):  # as torch says it on a CPU
            raise
        return _complain("out of memory: the settings ask for more than there is; take smaller ones", 1)
    return 0


def _require_usable(arguments: Sequence[str]) -> None:
    """Raise UsageError where a path would mean something else than the user does."""
    if empty := [argument for argument in arguments if not argument or re.fullmatch(r"--[\w-]+=", argument)]:
        raise UsageError(f"an argument is empty: {empty[0]!r}; is a variable of the shell not set?")
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UsageError("the current directory has been removed; change to one that is there") from None


def _parse(arguments: list[str]) -> Callable[[Console], None]:
    if shutil.get_terminal_size().columns < NARROWEST:
        os.environ["COLUMNS"] = str(NARROWEST)
    names = [argument for argument in arguments[:2] if not argument.startswith("-")]
    if names:
        require_known("command", names[0], COMMANDS)
    if names[:1] == ["run"] and len(names) == 2:
        tier = names[1]
        require_known("tier", tier, TIERS)
        return tyro.cli(
            RunOptions[TIERS[tier]],  # type: ignore[valid-type]  # the tier decides the options
            prog=f"proma-bench run {tier}",
            description=TIERS[tier].__doc__,
            args=arguments[2:],
        )
    return tyro.extras.subcommand_cli_from_dict(
        COMMANDS, prog="proma-bench", description="PROMA on a ladder of ever larger policies.", args=arguments
    )


def _complain(problem: object, code: int) -> int:
    say(make_console(stderr=True), ("proma-bench:", "red"), f" {problem}")
    return code
