"""docs/leaderboard.md and README's sentences are those of the stored runs."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1]))

from benchmarks import confirmation
from benchmarks.stored_runs import pack, unpack
from docs import leaderboard as page
from docs.sentences import sentences


@pytest.fixture(scope="module")
def boards():
    return {tier.name: tier.board for tier in page.tiers()}


def test_the_page_and_the_readme_are_up_to_date():
    assert page.main(["--check"]) == 0, "python -m docs.leaderboard writes them anew"


def test_a_sentence_is_no_stronger_than_its_table(boards):
    """With another verdict in the table it is an error, not another sentence."""
    against = confirmation.compared()
    assert "1. **On the bandit" in sentences(boards, against)
    for method, level, what in (
        ("reinforce", 0.06, "PROMA is above REINFORCE"),
        ("elsewhere", 0.01, "not above `else"),
    ):
        changed = against["score"] | {method: against["score"][method]._replace(p_holm=level)}
        with pytest.raises(ValueError, match=f"no longer say that .*{what}"):
            sentences(boards, against | {"score": changed})


def test_stored_runs_are_the_runs(tmp_path):
    runs = unpack(page.STORED / "gym-CartPole-v1.jsonl.gz")[:3]
    pack(runs, tmp_path / "again.jsonl.gz")
    again = unpack(tmp_path / "again.jsonl.gz")
    assert [(run.config, run.metrics, run.finished) for run in again] == [
        (run.config, run.metrics, run.finished) for run in runs
    ]
    first = (tmp_path / "again.jsonl.gz").read_bytes()
    pack(again[::-1], tmp_path / "again.jsonl.gz")
    assert (tmp_path / "again.jsonl.gz").read_bytes() == first
