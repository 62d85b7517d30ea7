"""What reaches a scorer that evaluates: formulas of limited size, and nothing that could be a program."""

import pytest
from escapes import EVALUATING, bombs, escapes, trap

from proma_bench.tasks.admission import FORMULAS, LITERALS, LONGEST, READ_SCORERS, is_admitted, is_read


@pytest.mark.parametrize("name", EVALUATING)
def test_no_escape_is_admitted(name, tmp_path):
    with trap(tmp_path) as canary:
        assert not [text for text in escapes(canary) if is_admitted(name, text, "1")]


def test_tasks_that_evaluate_are_known_and_never_scored_in_this_process():
    assert FORMULAS | LITERALS.keys() == set(EVALUATING)
    assert not READ_SCORERS & set(EVALUATING) and not any(map(is_read, EVALUATING))


def test_another_version_of_the_library_has_not_been_read(monkeypatch):
    assert is_read("chain_sum")
    monkeypatch.setattr("proma_bench.tasks.admission.version", lambda package: "0.1.26")
    assert not is_read("chain_sum")


@pytest.mark.parametrize(
    "text",
    [
        "6*(98 - 54) - 34 - 66",
        "(1 + 3)! * (2 - 1)",
        "4! + 3**2",
        "-((7))+ +2.5 / .5 % 3 // 1",
        "((((((1))))))",
        "sqrt(16) * 6",
        "49*x**3/3 + 21*x**2 + 9*x + C",
        "4*x**3 + CX",
        "x**2 + C1 + const",
        "exp(-2*x + 9)*sin(12*X)/104 - Rational(1, 3)*E**(x/2) + K",
        "x**(3/2)*log(x**2 + 1)**-1 + pi - atan(sqrt(2)*(x + 1))",
        "Integral(sqrt(x**2 + 1), x)",
        "-417560*y**6 + 295723*y**5*z - w**100",
        " + ".join(f"{90 + one}*x**{one}" for one in range(100)),
    ],
)
def test_formulas_in_every_plausible_form_are_admitted(text):
    assert all(is_admitted(name, text, None) for name in FORMULAS)


@pytest.mark.parametrize(
    "text",
    [
        *(text for text in bombs() if set("*!(") & set(text) and "Integral" not in text),
        *"1e9 0x10 1j 1_0__0 x.y (1).real x[0] {1} 'x' 1==1 1<2 x=1 True f(x) x(2)(3)".split(),
        "1or 2",
        "1 and x",
        "1, 2",
        "(1, 2)",
        "exp(x, *x)",
        "Integral(x, x=1)",
        "~1",
        "1 << 9",
        "1 @ 2",
        "not 1",
        "1 if 2 else 3",
        "lambda: 1",
        "print",
        "4!**2",
    ],
)
def test_other_expressions_and_large_numbers_are_not(text):
    assert not any(is_admitted(name, text, "x**2 + exp(x)") for name in FORMULAS)


def test_names_and_length_of_the_library_s_own_answer_are_admitted():
    assert not is_admitted("simple_integration", "Heaviside(x) + C", "x + C")
    assert is_admitted("simple_integration", "Heaviside(x) + C", "C + Heaviside(x)")
    assert not is_admitted("chain_sum", "1" * (LONGEST + 1), "1")
    assert is_admitted("palindrome_partitioning", "1" * (LONGEST + 1), "1" * LONGEST)
