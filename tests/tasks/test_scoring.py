"""The number that a completion ends in: which one it is, and that nothing it holds can cost much time."""

import itertools
import random
import re
import threading
from decimal import Decimal
from fractions import Fraction

import math_verify
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proma_bench.tasks.gsm8k import GSM8K
from proma_bench.tasks.scoring import COMMANDS, WORDS, lenient_number, strict_number

numbers = st.decimals(-(10**12), 10**12, allow_nan=False, allow_infinity=False, places=4)


def written(number: Decimal, separators: bool, zeros: int, currency: str = "", outside: bool = False) -> str:
    """-1234.5 as -1,234.500 or as $-1,234.500 or, with the sign outside, as -$1,234.500."""
    digits = f"{abs(number):{',' if separators else ''}.4f}".rstrip("0").rstrip(".")
    if zeros:
        digits += ("." if "." not in digits else "") + "0" * zeros
    sign = "-" if number < 0 else ""
    return f"{sign}{currency}{digits}" if outside else f"{currency}{sign}{digits}"


plain = st.builds(written, numbers, st.booleans(), st.integers(0, 3))
priced = st.builds(
    written, numbers, st.booleans(), st.integers(0, 3), st.sampled_from(["", "$", r"\$", "€", "£"]), st.booleans()
)
after = st.sampled_from(["", ".", "\n", " dollars", " km/h.", "%", " apples in all!", "</s>", "\n\nEasy, 3 steps."])


def value(text: str) -> Fraction:
    return Fraction(re.sub(r"[^0-9.-]", "", text))


@given(plain, after, numbers)
@example("18.00", "", Decimal(18))
@example("-0", "", Decimal(0))
def test_the_strict_form_gives_exactly_the_number_that_is_written(text, rest, other):
    found = strict_number(f"6 * 3 = 18, so #### 7 is wrong\n#### {text}{rest}")
    assert found == value(text)
    assert (found == Fraction(other)) == (value(text) == Fraction(other))


@given(
    priced,
    st.sampled_from(
        [
            "The answer is {}.",
            "So that makes {} dollars.",
            "**Answer:** {}",
            "**Answer: {}**",
            "Final answer: {} apples",
            "#### {0} of them",
            "####{}",
            "6 boxes, 3 each.\n\\boxed{{{}}}",
            "\\[ \\boxed{{{}}} \\]",
            "\\boxed{{{}\\text{{ dollars}}}}",
            "in all \\( {} \\) apples",
            "x = {}",
            "\\(x = {}\\)",
        ]
    ),
)
@example("$18", "The answer is {}.")
@example("-\\$0.0001", "x = {}")
def test_the_lenient_form_finds_it_in_other_words(text, form):
    assert lenient_number(form.format(text)) == value(text)


@pytest.mark.parametrize(
    ("completion", "number"),
    [
        ("#### 72", 72),
        ("#### 1,000,000", 1_000_000),
        ("#### 3\n#### 18\nQuestion: how", 18),
        ("#### 18" + "." * 290, 18),
        ("#### 18" + " " * 294, None),  # too far from the end
        ("####18", None),
        ("#### $18", None),
        ("#### eighteen", None),
        ("The answer is 18", None),
        ("#### 1.2.3", None),
        ("#### -", None),
        ("#### ,", None),
        ("#### .", None),
        ("#### ١٨", None),
        ("####  18", None),
        ("", None),
    ],
)
def test_the_strict_form_is_the_one_of_verl(completion, number):
    assert strict_number(completion) == number


@pytest.mark.parametrize(
    ("completion", "number"),
    [
        (r"\boxed{\dfrac{36}{2}}", 18),
        (r"\frac{1}{2}", Fraction(1, 2)),
        ("it takes 3/4 hours", Fraction(3, 4)),
        ("She has 6 * 3 = 18", 18),
        (r"$6 \times 3 = 18$", 18),
        ("$5^2 - 7 = 18$", 18),
        ("20%", 20),
        (r"$20\%$", 20),
        ("The answer is 18!", 18),
        ("1 234 apples", 1234),
        (r"1\,234 apples", 1234),
        ("The answer is 18. But #### 20", 20),  # the strict form decides where it is kept
        (r"\boxed{2^{5}}", None),  # powers are not read
        ("5/0", None),
        (r"$\frac{5}{0}$", None),
        ("١٨", None),
        ("twelve", None),
        ("", None),
    ],
)
def test_what_the_lenient_form_understands(completion, number):
    assert lenient_number(completion) == number


def test_numbers_are_compared_exactly():
    assert strict_number("#### 0.1") == Fraction(1, 10)
    assert strict_number("#### 10000000000000000.1") != strict_number("#### 10000000000000000.2")
    assert lenient_number("it is 18.0000001") != 18
    assert lenient_number("it is 12345678901234567890.5") == Fraction("12345678901234567890.5")


def test_the_lenient_form_works_in_any_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(lenient_number(r"\boxed{18}")))
    thread.start()
    thread.join()
    assert found == [18]


WORDLIKE = r"""
    1,234,567 0.5 ١٨ １８ ९ ² ½ 1e999999999 - − NaN inf 0x1F 1_000 = + * / , . ; % < > é \ \\ | |1| & x f(x) e pi
    10^{10^{10}} 9**9**9**9 9^9^9^9 9^{9^{9}} 2^^9 9*\,*9*\!*9**9 9!!!!! (9!)! \binom{10^9}{10^8} \sum_{i=1}^{10^9}
    #### ## # ####18 answer answer: { } ( ) [ ] $ $$ \( \) \[ \] \{ \} \boxed{ \frac{ }{ \frac{1}{2} \dfrac{ \text{
    \sqrt{ \left( \right) \int \lim_{x\to0} \begin{pmatrix} __import__('os') lambda:0 <|im_end|> </think> <b>
"""
PIECES = [
    *WORDLIKE.split(),
    *("#### ", "#### 18", "final answer is ", " and ", "I hope", "9" * 5000, "\n", " ", "\t", "\r\n", "\0", "\x1b[31m"),
    *("\u200b", "\u202e", "\ud800", "\U0001f600"),
]


def hostile_completions(count: int) -> list[str]:
    """Pieces in any order, repeated, nested in each other, in what looks like an answer, after and before megabytes."""
    chance = random.Random(0)
    nines = "9" * 2**20
    completions = [nines, f"#### {nines}", f"{nines} #### 18", "(" * 2**20, "## " * 2**18, "\\boxed{" * 2**17]
    while len(completions) < count:
        few = chance.sample(PIECES, chance.choice([1, 2, 3, 8, len(PIECES)]))
        text = "".join(chance.choices(few, k=chance.randrange(1, 60)))
        if chance.random() < 0.3:
            opening, closing = chance.choice(["{}", "()", "[]", ("\\frac{1}{", "}"), ("\\boxed{", "}"), ("|", "|")])
            depth = chance.choice([1, 2, 3, 4, 5, 30, 5000])
            text = opening * depth + text + closing * depth
        if chance.random() < 0.3:
            text *= chance.randrange(1, 40)
        form = chance.choice(["%s", "%s", "#### %s", "####%s", "$%s$", "\\boxed{%s}", "The answer is %s.", "\\[%s\\]"])
        completions.append(form % text)
    return completions


WORD = rf"(?<![a-z])({'|'.join(WORDS)})(?![a-z])|\\({'|'.join(COMMANDS)})(?![a-z])"


def test_ten_thousand_hostile_completions_score_0_or_1_and_cost_little(monkeypatch):
    """The cost is bounded by what math-verify gets to read, so that is what the test asserts, and no time."""
    read = []
    original = math_verify.parse

    def spy(text, **options):
        assert options["parsing_timeout"] is None  # it would be a signal
        assert len(text) <= 600 and text.isascii()
        assert re.fullmatch(rf"({WORD}|[0-9\s.,:=+*/(){{}}$\\\[\]?-])*", text, re.IGNORECASE), text
        assert "**" not in text and deepest_nesting(text) <= 3
        read.append(text)
        return original(text, **options)

    monkeypatch.setattr(math_verify, "parse", spy)
    task = GSM8K("synthetic", 8)
    for completion in hostile_completions(10_000):
        strict, lenient = (score(task.validation[0], completion) for score in (task.score, task.score_lenient))
        assert strict in (0.0, 1.0) and lenient in (0.0, 1.0) and strict <= lenient
    assert len(read) > 5000


def deepest_nesting(text: str) -> int:
    """How many more brackets open than close in any part of the text."""
    sums = list(itertools.accumulate(((sign in "([{") - (sign in ")]}") for sign in text), initial=0))
    return max(end - start for start, end in zip(itertools.accumulate(sums, min), sums, strict=True))
