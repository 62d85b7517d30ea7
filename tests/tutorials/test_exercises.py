"""What the checks of the exercises say: right answers are accepted, and wrong ones rejected in the lesson's words."""

import itertools
import random
import re
import sys
from pathlib import Path

import pytest
from checks import Verdict, exercise, explaining, lesson7

sys.path.append(str(Path(__file__).parents[2]))

import answer_mutants
import exercises
from bank import BANK
from exercises import answer_of, behaves_alike, function_in

SOLUTIONS, STUBS = exercises.solutions(), exercises.stubs()
FUNCTIONS = [one for one in BANK if one.inputs is not None]
SPEECHLESS = "cannot make sense"
every = pytest.mark.parametrize("one", BANK, ids=str)
every_function = pytest.mark.parametrize("one", FUNCTIONS, ids=str)


def solution(one):
    return SOLUTIONS[one.lesson, one.name]


def require_rejected(verdict, words=""):
    assert verdict.right is False, verdict
    assert words in verdict.words and SPEECHLESS not in verdict.words and len(verdict.words) > 15, verdict


def test_the_bank_has_every_exercise_of_the_lessons():
    assert {(one.lesson, one.name) for one in BANK} == SOLUTIONS.keys() == STUBS.keys()


@every
def test_right_answers_are_accepted(one):
    answers = [answer_of(solution(one)), *one.right]
    assert len(answers) >= 2
    for answer in answers:
        verdict = one.check(answer)
        assert verdict.right is True, verdict


@every
def test_wrong_answers_are_rejected_in_the_words_of_the_lesson(one):
    assert len(one.wrong) >= 8
    for number, (answer, words) in enumerate(one.wrong):
        verdict = one.check(answer)
        assert verdict.right is False, (number, verdict)
        require_rejected(verdict, words)


@every_function
def test_mutants_of_the_solution_are_rejected_unless_they_are_as_good(one):
    source = function_in(solution(one))
    found = answer_mutants.mutants(source)
    if one.at_most is not None:
        found = random.Random(0).sample(found, min(one.at_most, len(found)))
    right = answer_of(source)
    wrong = 0
    for mutant in found:
        answer = answer_of(mutant)
        verdict = one.check(answer)
        if not behaves_alike(answer, right, one):
            wrong += 1
            assert verdict.right is not True, mutant
            require_rejected(verdict)
        elif not one.asks_more:
            assert verdict.right is True, (mutant, verdict)
    assert wrong >= 4


@every
def test_the_cell_as_it_is_on_the_page_is_not_answered(one):
    verdict = one.check(answer_of(STUBS[one.lesson, one.name]))
    assert verdict == Verdict(None, "Replace the `...` in the cell above and run it again.")


@every
def test_an_answer_uses_names_that_the_lesson_has_defined_before(one):
    """Not all of what `answer_of` and the bank have at hand: a reader's right answer must not end in a NameError."""
    defined = exercises.defined_before(one.lesson, one.name)
    assert exercises.free_names(solution(one)) <= defined
    on_the_page = defined | exercises.imported_in(solution(one))
    for answer in (*one.right, *(wrong for wrong, _ in one.wrong)):
        assert exercises.modules_of(answer) <= on_the_page, exercises.modules_of(answer) - on_the_page


NOTHING = re.compile(r"Your function returns (nothing|None, whatever the completion)\. Is there a `return` in it\?")
OOPS = "Your function raises ValueError: oops, in the line `raise ValueError('oops')`"


@every_function
def test_a_forgotten_return_is_said_alone(one):
    forgetful = answer_of(answer_mutants.without_return(function_in(solution(one))))
    for answer in (forgetful, lambda *arguments: None):
        verdict = one.check(answer)
        assert verdict.right is False and NOTHING.fullmatch(verdict.words), verdict


@every_function
def test_an_exception_is_said_before_anything_else(one):
    verdict = one.check(answer_of("def broken(*arguments):\n    raise ValueError('oops')"))
    assert verdict.right is False and verdict.words.startswith(OOPS), verdict
    verdict = one.check(answer_of("def broken(*arguments):\n    return {}['missing']"))
    assert verdict.right is False
    assert verdict.words.startswith("Your function raises KeyError: 'missing', in the line `return {}["), verdict


@pytest.mark.parametrize("good", [1, 2, 3])
@every_function
def test_so_is_one_of_a_later_call(one, good):
    right, calls = answer_of(solution(one)), itertools.count(1)

    def tired(*arguments):
        if next(calls) > good:
            raise ValueError("oops")
        return right(*arguments)

    verdict = one.check(tired)
    assert next(calls) <= good + 1 or verdict.words.startswith("Your function raises ValueError: oops"), verdict


@every
def test_what_is_said_of_a_right_answer_is_about_the_answer_and_not_about_tolerances(one):
    assert not re.search("allowed|tolerance|measured", one.check(answer_of(solution(one))).words)


@every_function
def test_results_of_another_kind_are_rejected(one):
    kinds = [object(), "text", [], 1j, True, [[1.0], [1.0, 2.0]], {}]
    for result in kinds[: one.at_most and 1]:
        if (one.name, result) not in [("span_invariant", True)]:
            require_rejected(one.check(lambda *arguments, result=result: result))


# ------------------------------------------------------------------------------------- what all checks have


def test_an_exercise_that_is_not_answered_says_so():
    @exercise
    def check(answer):
        return "Yes." if answer(1) == 2 else "never"

    assert check(...).right is None
    assert check(lambda x: ...).right is None
    assert check(lambda x: None) == Verdict(False, "Your function returns nothing. Is there a `return` in it?")
    assert check(lambda x: 2 * x) == Verdict(True, "Yes.")
    assert check(None) == Verdict(False, "Your answer is None.")
    assert repr(check(...)) == "… Not answered yet. Replace the `...` in the cell above and run it again."


def test_an_exception_of_the_readers_is_told_with_its_line():
    @exercise
    def check(answer):
        with explaining(ZeroDivisionError, "There may be none"):
            answer(0)
        return "Yes."

    def divide(x):
        return 1 / x

    assert check(divide) == Verdict(
        False,
        "Your function raises ZeroDivisionError: division by zero, in the line `return 1 / x`. There may be none.",
    )
    assert check(lambda x: [][x]).words.startswith("Your function raises IndexError: list index out of range")


def test_a_broken_promise_of_scale_comes_with_the_gradients_before_and_after(monkeypatch):
    def unscaled(running, seq_grads):
        rows = seq_grads.reshape(len(seq_grads), -1)
        return running - (rows @ running.flatten() @ rows).reshape(running.shape)

    monkeypatch.setattr(lesson7, "MEANINGS", {"scale invariant": lesson7.MEANINGS["scale invariant"]})
    words = lesson7.own_projection(unscaled).words
    assert "It depends on how long the sequence gradients are" in words
    shown = [line.split(maxsplit=1) for line in words.splitlines() if line.startswith("  ")]
    assert [name for name, _ in shown] == ["running", "seq_grads", "result"] * 2
    assert shown[0] == shown[3] and shown[1] != shown[4] and shown[2] != shown[5]


def test_an_answer_may_change_its_arguments():
    @exercise
    def check(answer):
        given = {"a": [1.0]}
        answer(given)
        assert given == {"a": [1.0]}
        return "Yes."

    assert check(lambda given: given["a"].clear() or 1).right
