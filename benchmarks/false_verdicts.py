"""How often the judging says "holds" or "fails" where methods do not differ: simulated, for every claim and protocol.

    python -m benchmarks.false_verdicts [--repeats 400] [--write]

A made-up run moves along one path, and every metric is a function of how far it has come; so no method pays more or
less for a score than another. Seeds, and the two runs of a pair, move at speeds of their own, and every value is
measured with noise. In the cases below one method is noisier, slower, or the baseline at other learning rates.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from docs.marked import between_markers
from proma_bench.report.claims import CLAIMS, Claim
from proma_bench.report.curves import KL_SPENT, Curves
from proma_bench.report.markdown import markdown_table
from proma_bench.report.matrix import PROTOCOLS
from proma_bench.report.verdicts import Protocol, Verdict, judge_curves
from proma_bench.runs.criteria import Criteria

PAGE = Path(__file__).parents[1] / "docs" / "claims.md"
MARKER = "false verdicts"
SEEDS = (5, 10, 20)
STEPS = 60
RATES = (0.5, 1.0, 2.0)
MARGIN = 0.05
SCORE_NOISE, METRIC_NOISE = 0.02, 0.05
EVERY = tuple(CLAIMS)
AT_EQUAL_SCORE = ("kl_local", "kl_global", "entropy", "score_at_kl")


class Case(NamedTuple):
    """In what PROMA's runs and the baseline's differ though the claim is not true.

    Attributes:
        text: in words.
        noise: of the score, in times of the usual, for PROMA and for the baseline.
        metric_noise: of all other metrics.
        speed: of learning, in times of the usual.
        stalls: share of the runs, of either method, that learn at a fifth of the speed, so that there are two kinds.
        rate_decides: whether local KL follows from the learning rate (as its square); otherwise from the score alone.
        claims: those that are not true in this case.
        protocols: under which.
    """

    text: str
    noise: tuple[float, float] = (1, 1)
    metric_noise: tuple[float, float] = (1, 1)
    speed: tuple[float, float] = (1, 1)
    stalls: float = 0.0
    rate_decides: bool = True
    claims: tuple[str, ...] = EVERY
    protocols: tuple[Protocol, ...] = ("same_settings", "frontier")


CASES = (
    Case("no difference at all"),
    Case("PROMA's score is four times as noisy", noise=(4, 1)),
    Case("the baseline's score is four times as noisy", noise=(1, 4)),
    Case("PROMA's other metrics are four times as noisy", metric_noise=(4, 1)),
    Case("of either method, a third of the runs stall", stalls=1 / 3),
    Case(
        "PROMA learns half as fast",
        speed=(0.5, 1), rate_decides=False, claims=AT_EQUAL_SCORE, protocols=("frontier",),
    ),
    Case(
        "PROMA is the baseline at half the learning rates",
        speed=(0.5, 1), claims=(*AT_EQUAL_SCORE, "score_per_kl"), protocols=("frontier",),
    ),
    Case(
        "PROMA is the baseline at twice the learning rates",
        speed=(2, 1), claims=(*AT_EQUAL_SCORE, "score_per_kl"), protocols=("frontier",),
    ),
)  # fmt: skip


class Shares(NamedTuple):
    """Of many comparisons, the shares of false verdicts."""

    holds: float
    fails: float


def null_curves(
    case: Case, seeds: int, rates: Sequence[float], generator: np.random.Generator
) -> tuple[Curves, Curves]:
    """Curves of PROMA and of the baseline, of the same seeds, at the same learning rates."""
    luck = generator.normal(0, 0.2, size=(seeds, 1))  # what the runs of a seed share
    ours, theirs = (
        _curves(luck, np.array(rates) * speed, noise, metric_noise, case, generator)
        for speed, noise, metric_noise in zip(case.speed, case.noise, case.metric_noise, strict=True)
    )
    return ours, theirs


def _curves(
    luck: np.ndarray, speeds: np.ndarray, noise: float, metric_noise: float, case: Case,
    generator: np.random.Generator,
) -> Curves:  # fmt: skip
    run = np.exp(luck + generator.normal(0, 0.1, size=(len(luck), len(speeds)))) * speeds
    if case.stalls:
        run = run * np.where(generator.uniform(size=(len(luck), 1)) < case.stalls, 0.2, 1.0)
    way = 2 * run[..., None] * np.arange(1, STEPS + 1) / STEPS  # [seeds, rates, steps]
    lively = np.exp(-way)

    def measured(value: np.ndarray) -> np.ndarray:
        return value * (1 + METRIC_NOISE * metric_noise * generator.normal(size=value.shape))

    kl_local = measured((0.01 * run[..., None] ** 2 if case.rate_decides else 0.01) * (0.2 + lively))
    return {
        "score": 0.9 - 0.8 * lively + SCORE_NOISE * noise * generator.normal(size=way.shape),
        "entropy": measured(0.2 + 1.5 * np.exp(-0.7 * way)),
        "kl_global": measured(0.1 * way**2),
        "kl_local": kl_local,
        KL_SPENT: kl_local.cumsum(axis=-1),
    }


def verdicts(
    claim: Claim, protocol: Protocol, case: Case, seeds: int, repeats: int, generator: np.random.Generator
) -> list[Verdict]:
    """The verdicts of many comparisons. "Not lower" is judged where PROMA's score is lower by just the margin."""
    criteria = Criteria(min_pairs=min(SEEDS), margin=MARGIN)
    rates = RATES if protocol == "frontier" else RATES[1:2]
    found = []
    for _ in range(repeats):
        ours, theirs = null_curves(case, seeds, rates, generator)
        if claim.statement == "not lower":
            ours = {**ours, "score": ours["score"] - MARGIN}
        found.append(judge_curves(claim, protocol, ours, theirs, criteria).verdict)
    return found


def false_verdicts(
    claim: Claim, protocol: Protocol, case: Case, seeds: int, repeats: int, generator: np.random.Generator
) -> Shares:
    """The shares of "holds" and of "fails" among many comparisons without a difference."""
    found = verdicts(claim, protocol, case, seeds, repeats, generator)
    return Shares(found.count("holds") / repeats, found.count("fails") / repeats)


def cases_of(claim: Claim) -> list[tuple[Protocol, Case]]:
    """The protocols that a claim has, each with the cases in which it is not true."""
    of_claim: dict[Protocol, bool] = {"same_settings": bool(claim.same_settings), "frontier": bool(claim.frontier)}
    return [
        (protocol, case)
        for protocol, exists in of_claim.items()
        for case in CASES
        if exists and claim.name in case.claims and protocol in case.protocols
    ]


def table(repeats: int) -> str:
    """The shares for each claim, protocol and number of seeds; of all cases, the highest of either."""
    generator = np.random.default_rng(0)
    rows = []
    for claim in CLAIMS.values():
        for protocol, title in PROTOCOLS.items():
            cases = [case for of, case in cases_of(claim) if of == protocol]
            cells = []
            for seeds in SEEDS if cases else ():
                found = [false_verdicts(claim, protocol, case, seeds, repeats, generator) for case in cases]
                holds, fails = (max(of_all) for of_all in zip(*found, strict=True))
                cells.append(f"{100 * holds:.1f}, {100 * fails:.1f}")
            rows += [(claim.text, title, str(len(cases)), *cells)] * bool(cases)
    heading = ("claim", "protocol", "cases", *(f"n {seeds}" for seeds in SEEDS))
    return markdown_table(heading, rows, numbers=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=400, help="comparisons for each case and number of seeds")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    given = parser.parse_args()
    found = f"{table(given.repeats)}\n\n{given.repeats:,} comparisons for each case and number of seeds."
    print(found)
    if given.write:
        replaced = between_markers(PAGE.read_text(), MARKER, found)
        if replaced is None:
            raise SystemExit(f"{PAGE} has no markers <!-- {MARKER} --> and <!-- /{MARKER} -->")
        PAGE.write_text(replaced)


if __name__ == "__main__":
    main()
