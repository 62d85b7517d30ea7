"""Tasks of reasoning-gym: what is asked, what is right, and what is never asked twice."""

import hashlib
import json
import re
import sys
from pathlib import Path

import pytest
from escapes import EVALUATING, bombs, escapes, trap

from proma_bench.errors import UsageError
from proma_bench.tasks import reasoning
from proma_bench.tasks.questions import Question
from proma_bench.tasks.reasoning import POOL, SLOW, Task, _entries, _shortened

PAIRS = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}
SUMS = {**PAIRS, "operators": "+", "allow_parentheses": False, "allow_negation": False}
PUBLISHED = [
    ("chain_sum", None, {}, "1e3c8a2d73bfdb38"),
    ("gcd", None, {}, "9252ab9e28492486"),
    ("basic_arithmetic", None, {}, "341054a0415d1019"),
    ("spell_backward", None, {}, "379e6a248b257edc"),
    ("gsm_symbolic", None, {"shortened": False, "numbers_apart": True}, "7a97d9d1e89c0d2f"),
    ("chain_sum", PAIRS, {"numbers_apart": True}, "6b3ec8c410e1e613"),
    ("gcd", None, {"numbers_apart": True}, "6929c82fc826cc60"),
    ("basic_arithmetic", SUMS, {"numbers_apart": True}, "a8392fd445d0c493"),
]
"""What published results were made with: task, options, split, and the digest of all questions and answers."""


@pytest.fixture(scope="module")
def sums():
    return Task("chain_sum", 256)


def test_training_and_validation_have_no_question_in_common(sums):
    texts = [question.text for question in sums.training + sums.validation]
    assert len(sums.validation) == 256 and len(set(texts)) == len(texts)
    assert len(sums.training) > 1000


def test_questions_say_only_what_differs(sums):
    assert all(re.fullmatch(r"[0-9]( [+-] [0-9]){1,2}", question.text) for question in sums.training)
    assert _shortened(["say: one two now", "say: three now"]) == ["one two", "three"]
    assert _shortened(["same", "same more"]) == ["", "more"]


def test_only_a_full_score_is_right(sums):
    question = sums.training[0]
    right = str(eval(question.text))
    assert question.answer == right
    assert sums.score(question, right) == sums.score(question, f" {right}\n") == 1
    wrongs = ["", " ", f"{right}0", f"{right} {right}", f"it is {right}", str(int(right) + 1), "\x00", "9" * 5000]
    for wrong in wrongs:
        assert sums.score(question, wrong) == 0, wrong


def test_a_scorer_that_fails_gives_no_score(sums, monkeypatch):
    class Broken:
        def score_answer(self, answer, entry):
            raise RecursionError

    monkeypatch.setattr(sums, "_dataset", Broken())
    assert sums.score(sums.training[0], "1") == 0


def test_questions_without_a_valid_answer_are_known_and_not_shown(sums):
    task = Task.__new__(Task)
    task._dataset = sums._dataset
    good = sums.training[0]
    none = Question("?", {**good.entry, "answer": None})
    task.training = [good, none]
    assert not task.is_answerable(none) and task.is_answerable(good)
    assert task.demonstrations == [(good.text, good.answer)]


def test_with_numbers_apart_no_pair_is_in_training_and_validation_in_either_order():
    options = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}
    task = Task("chain_sum", 256, options, numbers_apart=True)
    trained, held_out = (
        {frozenset(re.findall("[0-9]+", question.text)) for question in questions}
        for questions in (task.training, task.validation)
    )
    assert len(task.validation) == 256 and len(task.training) > 1000
    assert not trained & held_out


@pytest.mark.parametrize("name", ["gcd", "spell_backward", "basic_arithmetic"])
def test_other_tasks_have_answers_that_their_own_scorer_accepts(name):
    task = Task(name, 64)
    assert all(task.is_answerable(question) for question in task.validation)


def test_a_task_that_is_unknown_or_too_small_is_refused_in_words(sums):
    with pytest.raises(UsageError, match="unknown task 'chain_sums'; did you mean 'chain_sum'"):
        Task("chain_sums", 10)
    with pytest.raises(UsageError, match=r"has \d+ different questions; validation_questions must be fewer, got 50000"):
        Task("chain_sum", 50_000)


@pytest.mark.parametrize(("name", "options", "split", "digest"), PUBLISHED)
def test_the_questions_of_published_results_do_not_change(name, options, split, digest):
    task = Task(name, 256, options, **split)
    rows = [[question.text, question.answer] for part in (task.validation, task.training) for question in part]
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16] == digest
    assert name not in SLOW


class Slow:
    """Like a data set whose questions take long, and that says so in its own way."""

    def __init__(self, drawn):
        self.drawn = drawn

    def __iter__(self):
        for number in range(POOL):
            self.drawn.append(number)
            print(".", end="")
            print(f"{number} of {POOL}", file=sys.stderr)
            yield {"question": f"what is {number}", "answer": str(number)}


@pytest.mark.parametrize(("validation", "count"), [(8, 50), (150, 300), (POOL, POOL)])
def test_slow_tasks_have_fewer_questions_and_say_only_how_long_they_take(monkeypatch, capsys, validation, count):
    drawn = []
    monkeypatch.setattr(reasoning.reasoning_gym, "create_dataset", lambda name, **options: Slow(drawn))
    monkeypatch.setattr(reasoning, "PATIENCE", 0.0)
    if validation == POOL:
        with pytest.raises(UsageError, match=f"has {POOL} different questions"):
            Task("knight_swap", validation)
    else:
        assert len(Task("knight_swap", validation).training) == count - validation
    shown = capsys.readouterr()
    assert len(drawn) == count and shown.out == ""
    assert re.fullmatch(rf"making {count:,} questions of knight_swap: about \d+ more seconds\n", shown.err)


def test_a_fast_task_says_nothing(monkeypatch, capsys):
    monkeypatch.setattr(reasoning, "POOL", 20)
    Task("bf", 8)  # the library prints dots
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", EVALUATING)
def test_answers_are_no_programs(name, monkeypatch, tmp_path):
    monkeypatch.setattr(reasoning, "POOL", 6)
    task = Task(name, 2)
    with trap(tmp_path) as canary:
        for text in escapes(canary):
            assert task.score(task.validation[0], text) == 0 and not canary.sprung, text
    assert not any(task.score(task.validation[0], text) for text in bombs() if len(text) > 20_000)
    assert task._worker._process is None


def test_what_only_another_process_may_score_is_scored_there(monkeypatch):
    monkeypatch.setattr(reasoning, "POOL", 6)
    task = Task("countdown", 2)
    for question in task.validation:
        assert (
            task.score(question, f" ({question.answer})\n") == 1 and task.score(question, f"{question.answer}+1") == 0
        )
        assert task.is_answerable(question)


def test_the_text_of_an_answer_is_not_printed(monkeypatch, capfd):
    """The library's scorer of this task prints a move to a peg that is not there, with what stands around it."""
    monkeypatch.setattr(reasoning, "POOL", 20)
    task = Task("tower_of_hanoi", 8)
    scores = [task.score(question, "\x1b[2JMove disk 1 from Peg 99 to Peg 1") for question in task.validation]
    assert not any(scores) and capfd.readouterr() == ("", "")
    assert task.score(task.validation[0], task.validation[0].answer) == 1.0


def test_no_file_is_overwritten_by_what_a_task_runs_to_make_its_questions(tmp_path, monkeypatch):
    def programs():
        Path("planet.com").write_text("theirs")  # as codeio does
        Path("test_dir").mkdir()
        yield {"question": "What does it print?"}

    monkeypatch.chdir(tmp_path)
    Path("planet.com").write_text("mine")
    assert list(_entries(programs(), "codeio", 1)) == ["What does it print?"]
    assert [path.name for path in tmp_path.iterdir()] == ["planet.com"]
    assert Path("planet.com").read_text() == "mine"
