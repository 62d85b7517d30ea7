"""GSM8K (Cobbe et al., arXiv 2110.14168): word problems with solutions that end in ``#### number``.

There are three sources:

    a directory     with ``train.jsonl`` and, for the test, ``test.jsonl`` in the form that OpenAI published: one object
                    with ``question`` and ``answer`` per line
    None            ``openai/gsm8k`` on the Hugging Face hub
    ``synthetic``   the templates of reasoning-gym's gsm_symbolic, which need no download

The SHA-256 of the rows, in the published form, tells whether they are those of GSM8K. A file with another number of
rows is treated as the user's own data, and a note is printed. A file with the published number of rows but other
content is probably damaged and is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet
import reasoning_gym

from proma_bench import files
from proma_bench.console import printable
from proma_bench.downloads import dataset_file
from proma_bench.errors import UsageError
from proma_bench.runs import strict_json
from proma_bench.tasks.questions import Question
from proma_bench.tasks.reasoning import POOL
from proma_bench.tasks.scoring import lenient_number, strict_number

Split = Literal["train", "test"]
Row = dict[str, str]
"""An object with ``question`` and ``answer``."""

PUBLISHED: dict[Split, tuple[int, str]] = {
    "train": (7473, "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465"),
    "test": (1319, "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14"),
}
"""The number of rows of each file, and its SHA-256 (github.com/openai/grade-school-math, commit 3101c7d)."""

REPOSITORY, REVISION = "openai/gsm8k", "740312add88f781978c0658806c59bc2815b9866"

LARGEST_FILE = 1024 * files.MEGABYTE
"""Limit of a file in bytes; the published one has 4 million."""

LONGEST_LINE = 100_000
"""Limit of a line in bytes; the longest published line has 1743."""

SYNTHETIC_SEEDS: dict[Split, int] = {"train": 0, "test": 1}
SYNTHETIC_ENDING = " Give the result as your final answer. Do not include units."


class GSM8K:
    """Training, validation and test questions, which are all different.

    The validation questions are the first ones of the training file. The test file is only read when `test` is used.
    The ``answer`` of a question is its whole solution.

    Attributes:
        training: questions for training.
        validation: other questions, for validation.
    """

    name = "gsm8k"

    def __init__(self, source: str | Path | None, validation_questions: int) -> None:
        """Read the training file.

        Args:
            source: a directory, ``synthetic``, or None for the hub.
            validation_questions: number of questions for validation; the others are for training.

        Raises:
            UsageError: the source is missing, damaged or too small.
        """
        self._source = source
        questions = _questions(_rows(source, "train"))
        if len(questions) <= validation_questions:
            raise UsageError(
                f"the training set has {len(questions)} different questions; validation_questions must be fewer, "
                f"got {validation_questions}"
            )
        self.validation, self.training = questions[:validation_questions], questions[validation_questions:]

    @cached_property
    def test(self) -> list[Question]:
        """The test questions, without those that are also in the training file.

        Raises:
            UsageError: the test file is missing or damaged.
        """
        seen = {question.text for question in self.validation + self.training}
        return [question for question in _questions(_rows(self._source, "test")) if question.text not in seen]

    def score(self, question: Question, answer: str) -> float:
        """Score an answer in the strict form. It never raises, whatever the answer contains.

        Args:
            question: the question.
            answer: the answer of a model.

        Returns:
            1 for the right number in the strict form, otherwise 0.
        """
        return float(strict_number(answer) == _solution(question))

    def score_lenient(self, question: Question, answer: str) -> float:
        """Score an answer in any form. It never raises, whatever the answer contains.

        Args:
            question: the question.
            answer: the answer of a model.

        Returns:
            1 for the right number in any supported form, otherwise 0.
        """
        return float(lenient_number(answer) == _solution(question))

    def is_answerable(self, question: Question) -> bool:
        """Always true, because solutions without a number are refused when the file is read.

        Args:
            question: the question.
        """
        return True

    @cached_property
    def demonstrations(self) -> list[tuple[str, str]]:
        """Pairs of a training question and its solution, without calculator annotations such as <<48/2=24>>."""
        return [(question.text, re.sub("<<[^<>]*>>", "", question.entry["answer"])) for question in self.training]


def _questions(rows: Iterable[Row]) -> list[Question]:
    """The questions without duplicates."""
    return [Question(text, row) for text, row in {row["question"]: row for row in rows}.items()]


def _solution(question: Question) -> Fraction:
    number = strict_number(question.entry["answer"])
    assert number is not None, "checked when the file was read"
    return number


def _rows(source: str | Path | None, split: Split) -> list[Row]:
    if source is None:
        return _from_hub(split)
    if str(source) == "synthetic":
        return _synthetic(split)
    return _from_directory(Path(source), split)


def _from_hub(split: Split) -> list[Row]:
    name = f"main/{split}-00000-of-00001.parquet"
    instead = "--data DIR takes a directory with train.jsonl and test.jsonl, --data synthetic generates questions"
    path = dataset_file(REPOSITORY, REVISION, name, instead)
    try:
        rows = pyarrow.parquet.read_table(path, columns=["question", "answer"]).to_pylist()
    except (OSError, ValueError, KeyError) as error:
        problem = str(error).partition("\n")[0]
        raise UsageError(f"{path} cannot be read ({problem}); delete it to have it fetched again") from error
    _require_published(rows, split, str(path))
    return rows


def _from_directory(directory: Path, split: Split) -> list[Row]:
    path = directory / f"{split}.jsonl"
    try:
        with files.opened(path, LARGEST_FILE, follow_links=True) as file:
            lines = iter(lambda: file.readline(LONGEST_LINE + 1), b"")
            rows = [_row(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"no file {path}; --data takes a directory with train.jsonl and test.jsonl in GSM8K's format"
        ) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    published = PUBLISHED[split][0]
    if len(rows) == published:
        _require_published(rows, split, str(path))
    else:
        note = f"note: {path} is not the published GSM8K: {len(rows):,} rows instead of {published:,}"
        print(printable(note), file=sys.stderr)
    return rows


def _row(line: bytes, place: str) -> Row:
    """The question and the answer of a line.

    Raises:
        UsageError: the line has no question or no answer; the message contains ``place``.
    """
    if len(line) > LONGEST_LINE:
        raise UsageError(f"{place}: longer than {LONGEST_LINE:,} bytes")
    try:
        row: Any = strict_json.loads(line.decode("utf-8-sig"))
        json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is valid JSON, but not valid text
    except ValueError as error:
        raise UsageError(f"{place}: not JSON ({error})") from error
    if not isinstance(row, dict):
        raise UsageError(f"{place}: must be an object with question and answer, got {type(row).__name__}")
    for field in ("question", "answer"):
        text = row.get(field)
        if not (isinstance(text, str) and text.strip()):
            raise UsageError(f"{place}: {field} must be text, got {type(text).__name__ if text else 'nothing'}")
    if strict_number(row["answer"]) is None or not re.search(r"#### [-0-9.,]+\s*\Z", row["answer"]):
        raise UsageError(f"{place}: the answer must end in '#### number', got {row['answer'][-40:]!r}")
    return {"question": row["question"], "answer": row["answer"]}


def digest_of(rows: list[Row]) -> str:
    """The SHA-256 of rows in the form of OpenAI's files.

    Args:
        rows: the rows of a file.

    Returns:
        The hexadecimal digest.
    """
    return hashlib.sha256("".join(json.dumps(row) + "\n" for row in rows).encode()).hexdigest()


def _require_published(rows: list[Row], split: Split, place: str) -> None:
    count, published = PUBLISHED[split]
    digest = digest_of(rows)
    if (len(rows), digest) != (count, published):
        raise UsageError(
            f"{place} is not the published GSM8K: {len(rows):,} rows with SHA-256 {digest}, the published one has "
            f"{count:,} with {published}; fetch it again (data of your own must have another number of rows)"
        )


def _synthetic(split: Split) -> list[Row]:
    dataset = reasoning_gym.create_dataset("gsm_symbolic", seed=SYNTHETIC_SEEDS[split], size=POOL)
    return [
        {
            "question": entry["question"].removesuffix(SYNTHETIC_ENDING),
            "answer": entry["metadata"]["answer_cot"],
        }
        for entry in dataset
    ]
