"""Tasks of reasoning-gym: what is asked, what is right, and what is never asked twice."""

import re

import pytest

from proma_bench.errors import UsageError
from proma_bench.tasks.questions import Question
from proma_bench.tasks.reasoning import Task, _shortened


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


def test_a_scorer_that_fails_gives_no_score(sums):
    class Broken:
        def score_answer(self, answer, entry):
            raise RecursionError

    task = Task.__new__(Task)
    task._dataset = Broken()
    assert task.score(sums.training[0], "1") == 0


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
