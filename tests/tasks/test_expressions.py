"""The lenient score of composed expressions is the value that was computed while composing, or none; no other number.

So it is for the same expressions written otherwise, and for those of which the window shows only the end.
"""

import random
import re
from fractions import Fraction

import pytest
from expressions import composed
from hypothesis import given
from hypothesis import strategies as st

from proma_bench.tasks.arithmetic import LARGEST, value
from proma_bench.tasks.scoring import TAIL, lenient_number

FORMS = [
    r"\boxed{%s}",
    r"6 boxes of 3. \[\boxed{%s}\]",
    r"$\boxed{x = %s}$",
    r"\boxed{%s \text{ dollars}}",
    r"\fbox{%s\%%}",
    "The answer is $%s$.",
    "The answer is \\(%s\\).",
    "**Answer:** %s",
    "Answer: %s apples",
    "The total is = %s",
    "%s",
]
seeds = st.integers(0, 2**32)
styles = st.sampled_from(["latex", "plain"])


@given(seeds, styles, st.integers(0, 3), st.sampled_from(FORMS))
def test_a_composed_expression_has_its_value_or_none(seed, style, depth, form):
    expression = composed(random.Random(seed), style, depth)
    assert lenient_number(form % expression.text) in (None, expression.value), form % expression.text


def test_most_composed_expressions_have_their_value():
    chance = random.Random(0)
    found = []
    for _ in range(1000):
        expression = composed(chance, chance.choice(["latex", "plain"]), chance.randrange(4))
        if len(expression.text) < 200 and expression.value.denominator.bit_length() < LARGEST // 2:
            found.append(lenient_number(rf"\boxed{{{expression.text}}}"))
    assert len(found) > 900 and found.count(None) < len(found) / 20


REWRITINGS = [
    lambda text, chance: text.replace("-", "−"),
    lambda text, chance: re.sub(r"(?<=[0-9)}])([+*/])(?=[0-9(\\])", r" \1  ", text),
    lambda text, chance: text.replace(r"\frac", r"\dfrac"),
    lambda text, chance: text.replace(r"\times", r"\cdot"),
    lambda text, chance: re.sub(r"(?<!left)\(", r"\\left(", re.sub(r"(?<!right)\)", r"\\right)", text)),
    lambda text, chance: text.replace("{", "{ ").replace("}", " }"),
    lambda text, chance: re.sub(r"(?<![\w.,}])([0-9]+)(?![\w.,{\\])", r"\\text{\1}", text, count=1),
    lambda text, chance: rf"\mathbf{{{text}}}",
    lambda text, chance: rf"\left({text}\right)",
    lambda text, chance: f"{text}.",
    lambda text, chance: rf"\displaystyle {text}",
    lambda text, chance: rf"y = {text}",
    lambda text, chance: rf"3 \times 5 = {text}",
    lambda text, chance: rf"{text} \text{{ km}}^2",
    lambda text, chance: rf"\text{{Total: }} {text}",
    lambda text, chance: text.replace(" ", chance.choice(["  ", " \n", r"\ "])),
]
"""They change how an expression looks, and not what it says."""


@given(seeds, st.lists(st.sampled_from(REWRITINGS), min_size=1, max_size=4))
def test_written_otherwise_it_has_the_same_value_or_none(seed, rewritings):
    chance = random.Random(seed)
    expression = composed(chance, "latex", 2)
    text = expression.text
    for rewrite in rewritings:
        text = rewrite(text, chance)
    assert lenient_number(rf"So it is \boxed{{{text}}}.") in (None, expression.value), text


SUFFIXES = [
    *(
        "x",
        " x",
        "ab",
        "i",
        "e",
        " k",
        "!",
        "!!",
        "^",
        "^{",
        "/",
        " - y",
        "_2",
        "_{10}",
        "...",
        "'3",
        ", 3",
        ":3",
        " > 3",
    ),
    *(
        r"\pi",
        r" \pm 1",
        r"\ldots",
        r" \approx 3",
        r"\text{k}",
        r" \text{ or } 3",
        r" \text{ dozen}",
        " million",
        "}{2",
        "[1",
    ),
]


@given(seeds, st.sampled_from(SUFFIXES))
def test_what_makes_it_another_number_leaves_none(seed, suffix):
    expression = composed(random.Random(seed), "latex", 1)
    for form in (r"\boxed{%s}", "The answer is $%s$.", "The answer is %s."):
        assert lenient_number(form % (expression.text + suffix)) is None, form % (expression.text + suffix)


@given(seeds, st.integers(0, TAIL), st.sampled_from(["", "-", r"5 \times ", "3x + ", "2^", r"\sqrt{9} + ", "1,234,"]))
def test_of_an_expression_that_began_before_the_window_nothing_is_read(seed, hidden, prefix):
    expression = composed(random.Random(seed), "plain", 1)
    for form in ("%s", r"\boxed{%s}", r"%s\boxed{3}"):
        text = form % (prefix + expression.text)
        cut = "a " * TAIL + text + " " * (TAIL - len(text) + min(hidden, len(text)))
        found, whole = lenient_number(cut), lenient_number(text)
        assert found in (None, whole), text


def test_numbers_are_limited():
    assert value("9^{99}") == 9**99
    for text in (
        "9^{9^{9}}",
        "9^{999}",
        "2^{2^{2^{2^{2}}}}",
        "*".join(["9^99"] * 50),
        "1" * 301,
        "((((((((((1))))))))))",
    ):
        assert value(text) is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (r"10\sqrt{4}", 20),
        (r"\sqrt[3]{\frac{8}{27}}", Fraction(2, 3)),
        ("-2^2", -4),
        ("2^-2", Fraction(1, 4)),
        (r"1\frac12", Fraction(3, 2)),
        ("1,234.50", Fraction(2469, 2)),
        ("1.5e3", 1500),
        (r"\frac{1}{2}(4)", 2),
        ("10 - 3", 7),
        *[
            (text, None)
            for text in ("3-5", "3 - 5", "2-1/2", "1/2/2020", "6/2(1+2)", "1,23", "1.234,5", "0,123", "(1,234)")
        ],
        *[
            (text, None)
            for text in (r"2\frac{3}{2}", r"\frac{1}{2}^2", "2^3^2", "{3+4}^2", r"\sqrt{2}", r"\sqrt16", "0^0")
        ],
        *[
            (text, None)
            for text in ("1{8}", "18 (3)", "3 4", "3--5", "1.23(4)", "0.(3)", "5/0", "18:30", "x", "", "1_000")
        ],
    ],
)
def test_an_expression_has_a_value_if_it_can_be_read_in_one_way(text, number):
    assert value(text) == number
