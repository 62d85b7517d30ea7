"""The number that a completion ends in: which one it is, and that nothing it holds can cost much time."""

import random
import re
import subprocess
import sys
import threading
import time
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proma_bench.tasks.gsm8k import GSM8K
from proma_bench.tasks.scoring import lenient_number, strict_number

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
        (r"\boxed{2^{5}}", 32),
        ("5/0", None),
        (r"$\frac{5}{0}$", None),
        ("١٨", None),
        ("twelve", None),
        ("", None),
    ],
)
def test_what_the_lenient_form_understands(completion, number):
    assert lenient_number(completion) == number


@pytest.mark.parametrize(
    "completion",
    [
        "The answer is 18. Wait, no, 20.",
        "The answer is 18.\n\nActually, it's 20.",
        "**Answer:** 18\nHmm, that is not right: 20 apples.",
        r"\boxed{18}. Wait, it should be 20.",
        r"$\boxed{18}$ Oops, that is wrong.",
        "The answer is 18. No, it is 20.",
    ],
)
def test_an_answer_that_is_taken_back_is_none(completion):
    assert lenient_number(completion) is None


@pytest.mark.parametrize("date", ["May 18", "18 May", "the 18 of March", "Oct. 18", "December 18"])
def test_a_date_is_no_number(date):
    assert lenient_number(f"The answer is {date}.") is None


def test_a_name_that_is_a_month_does_no_harm():
    assert lenient_number("So April has 18 apples.") == lenient_number("She gives 18 apples to June.") == 18
    assert lenient_number("The answer is 18. Nothing may be left.") == 18


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


def test_ten_thousand_hostile_completions_score_0_or_1_and_do_not_hang():
    task = GSM8K("synthetic", 8)
    for completion in hostile_completions(10_000):
        start = time.perf_counter()
        strict, lenient = (score(task.validation[0], completion) for score in (task.score, task.score_lenient))
        assert strict in (0.0, 1.0) and lenient in (0.0, 1.0) and strict <= lenient
        assert time.perf_counter() - start < 10, completion[:1000]  # it takes milliseconds


REPEATED = [
    *(
        "1",
        "9",
        ",",
        ".",
        " ",
        "\n",
        "-",
        "+",
        "*",
        "**",
        "^",
        "/",
        "(",
        ")",
        "{",
        "}",
        "[",
        "|1|",
        "|",
        "!",
        "$",
        "\\",
        "_",
    ),
    *(
        "½",
        "²",
        "√",
        "1,",
        "1,234",
        "1 ",
        "1/",
        "1-",
        "9^",
        "9**",
        "9!",
        "2^{",
        "(1",
        "1)",
        "{1",
        "-1",
        "1 1/2 ",
        "= ",
        "1 = ",
    ),
    *(
        r"\frac{1}{",
        r"\frac",
        r"\frac{",
        r"\sqrt{",
        r"\sqrt[3]{9^{99}}",
        r"\boxed{",
        r"\boxed",
        r"\text{",
        r"\text{1}",
        r"\[",
    ),
    *(
        r"\mathbf{",
        r"\left(",
        r"\,",
        r"\, ",
        "$$",
        "<<",
        "</a>",
        "answer ",
        "answer is ",
        "answer:\n",
        "a",
        "a ",
        "a'",
        "‹",
        "x ",
    ),
    *(
        "9^99*",
        "9^99+",
        "9^{-99}-",
        "1/3+",
        "1e99*",
        r"1\sqrt{9}",
        "****1",
        "** **",
        "Question:",
        "\nQ:",
        "not ",
        "two ",
        "\ufe0f",
    ),
]


@pytest.mark.parametrize("opening", ["", "\\boxed{"])
def test_what_is_repeated_does_not_hang(opening):
    start = time.perf_counter()
    for first in REPEATED:
        for second in ("", "}", "\n"):
            lenient_number(opening + (first + second) * (300 // len(first + second)))
            lenient_number(opening + first * (200 // len(first)) + second * (99 // max(1, len(second))) + "}")
    assert time.perf_counter() - start < 60


HOSTILE_CODE = """
import sys
from proma_bench.tasks.scoring import lenient_number

texts = sys.stdin.read().split("\\0")
for text in texts:  # what is compiled and imported once
    lenient_number("18")

def forbid(event, arguments):
    if running and event in ("compile", "exec", "import", "open", "os.system", "subprocess.Popen", "code.__new__"):
        raise SystemExit(f"{event} {arguments} at {running}")

running = ""
sys.addaudithook(forbid)
for running in texts:
    print(lenient_number(running))
running = ""
"""


def test_nothing_of_a_completion_is_executed(tmp_path):
    canary = tmp_path / "canary"
    codes = [
        f"__import__('os').system('touch {canary}')",
        f"open('{canary}','w')",
        f"().__class__.__base__.__subclasses__()[0]('{canary}')",
        f"exec(\"open('{canary}', 'w')\")",
        f"[1 for _ in [open('{canary}', 'w')]][0]",
        f"(lambda: open('{canary}', 'w'))() + 18",
        r"\input{/etc/passwd} 18",
        r"\write18{touch canary} 18",
        "18 .__class__",
        "9**9**9**9",
    ]
    forms = ["%s", r"\boxed{%s}", "The answer is %s.", "$%s$", "#### %s", "1 + %s", "%s = 18", r"\text{%s}"]
    texts = [form % code for code in codes for form in forms]
    program = [sys.executable, "-c", HOSTILE_CODE]
    run = subprocess.run(program, input="\0".join(texts), capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == len(texts)
    assert not canary.exists()
