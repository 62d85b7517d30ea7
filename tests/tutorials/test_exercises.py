"""What the checks of the exercises say: right answers are accepted, and wrong ones rejected in the lesson's words."""

import random
import sys
from pathlib import Path

import pytest
from checks import Verdict, exercise, explaining

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


@every_function
def test_a_forgotten_return_and_an_exception_are_named(one):
    require_rejected(one.check(answer_of(answer_mutants.without_return(function_in(solution(one))))), "`return`")
    source = "def broken(*arguments):\n    return {}['missing']"
    require_rejected(one.check(answer_of(source)), "Your function raises KeyError: 'missing', in the line `return {}[")


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
        "There may be none. (Your function raises ZeroDivisionError: division by zero, in the line `return 1 / x`)",
    )
    assert check(lambda x: [][x]).words.startswith("Your function raises IndexError: list index out of range")


def test_an_answer_may_change_its_arguments():
    @exercise
    def check(answer):
        given = {"a": [1.0]}
        answer(given)
        assert given == {"a": [1.0]}
        return "Yes."

    assert check(lambda given: given["a"].clear() or 1).right
