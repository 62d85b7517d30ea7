"""The collection of answers: what the scores read in them, and the page that shows it."""

import subprocess
import sys
from pathlib import Path

import answers
import pytest

from proma_bench.tasks.scoring import lenient_number, strict_number

ROOT = Path(__file__).parents[2]
CASES = answers.cases()


@pytest.mark.parametrize(("kind", "text", "number"), CASES)
def test_a_score_is_the_readers_number_or_none(kind, text, number):
    assert strict_number(text) in (None, number)
    assert lenient_number(text) in (None, number)


def test_the_lenient_score_finds_most_numbers():
    read = [lenient_number(text) for _, text, number in CASES if number is not None]
    assert len(CASES) >= 80
    assert read.count(None) <= 11


def test_the_page_is_the_one_that_is_written():
    check = [sys.executable, "-m", "docs.answers", "--check"]
    assert subprocess.run(check, cwd=ROOT, timeout=300).returncode == 0, "python -m docs.answers writes it anew"
