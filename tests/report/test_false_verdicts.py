"""Where methods do not differ, no claim is judged more often than its level allows."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks import false_verdicts
from proma_bench.report.claims import CLAIMS
from proma_bench.report.markdown import markdown_table

LEVEL = 0.025
REPEATS = {"same_settings": 60, "frontier": 6}
"""Comparisons for each case and number of seeds; those of all cases count together."""

ROWS = [(name, protocol) for name, claim in CLAIMS.items() for protocol in REPEATS if getattr(claim, protocol)]


@pytest.mark.parametrize(("name", "protocol"), ROWS)
def test_verdicts_are_false_no_more_often_than_their_level(name, protocol):
    generator = np.random.default_rng(0)
    verdicts = []
    for of, case in false_verdicts.cases_of(CLAIMS[name]):
        for seeds in false_verdicts.SEEDS if of == protocol else ():
            arguments = (CLAIMS[name], protocol, case, seeds, REPEATS[protocol], generator)
            verdicts += false_verdicts.verdicts(*arguments)
    most = stats.binom.isf(0.001, len(verdicts), LEVEL)
    assert verdicts.count("holds") <= most
    assert verdicts.count("fails") <= most


def test_a_difference_beyond_the_placebo_is_found():
    """The same simulation, with twice the KL in the baseline: a judge that never finds anything is no judge."""
    generator = np.random.default_rng(0)
    case = false_verdicts.CASES[0]
    for name, metric, factor in (("kl_global", "kl_global", 2.0), ("entropy", "entropy", 0.5)):
        ours, theirs = false_verdicts.null_curves(case, 10, false_verdicts.RATES, generator)
        worse = {**theirs, metric: theirs[metric] * factor}
        criteria = false_verdicts.Criteria(margin=false_verdicts.MARGIN)
        assert false_verdicts.judge_curves(CLAIMS[name], "frontier", ours, worse, criteria).verdict == "holds"
        assert false_verdicts.judge_curves(CLAIMS[name], "frontier", worse, ours, criteria).verdict == "fails"


def test_the_table_has_a_row_for_every_claim_and_protocol(monkeypatch):
    monkeypatch.setattr(false_verdicts, "SEEDS", (5,))
    monkeypatch.setattr(false_verdicts, "verdicts", lambda *_: ["holds", "inconclusive"])
    text = false_verdicts.table(2)
    assert text.count("\n") == len(ROWS) + 1
    assert "50.0, 0.0" in text
    assert text.startswith(markdown_table(("claim", "protocol", "cases", "n 5"), [], numbers=False).split("\n")[0])
