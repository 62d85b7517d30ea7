r"""Writes docs/answers.md: what rules of scoring read in answers, and what a careful reader does.

python -m docs.answers            write the page
python -m docs.answers --check    fail if the page is another one
"""

from __future__ import annotations

import logging
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import math_verify
from math_verify.grader import is_equation, take_last_relation
from sympy import Basic, Float, Rational

from proma_bench.report.markdown import markdown_table
from proma_bench.tasks.scoring import lenient_number, strict_number

HOME = Path(__file__).parent
sys.path.insert(0, str(HOME.parent / "tests" / "helpers"))  # as pytest has it: the answers are those of the tests

import answers  # noqa: E402

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its time is not limited: these texts are ours

Read = Fraction | str | None
Outcome = Literal["right", "none", "wrong"]


def math_verify_alone(text: str) -> Fraction | None:
    """The value of the first thing that math-verify finds, of the right-hand side if it is an equation.

    Its own comparison accepts 0.18 and 18 for 18%; here it is 18.
    """
    found = math_verify.parse(text, fallback_mode="no_fallback", parsing_timeout=None)
    expression = found[0] if found else None
    if isinstance(expression, Basic) and is_equation(expression):
        expression = take_last_relation(expression).rhs
    number = expression.doit() if isinstance(expression, Basic) else None
    if not (isinstance(number, Rational | Float) and number.is_finite):
        return None
    return Fraction(str(number)) * (100 if re.search("%|percent", text) else 1)


def harness_strict(text: str) -> str | None:
    """``strict-match`` of lm-evaluation-harness, ``lm_eval/tasks/gsm8k/gsm8k.yaml``: the first match."""
    found = re.findall(r"#### (\-?[0-9\.\,]+)", text)
    return _as_harness_compares(found[0]) if found else None


def harness_flexible(text: str) -> str | None:
    """``flexible-extract``, from the same place: the last match (``group_select: -1``)."""
    found = re.findall(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", text)
    return _as_harness_compares("".join(found[-1]).strip()) if found else None


def _as_harness_compares(text: str) -> str:
    """``regexes_to_ignore`` of its ``exact_match``."""
    for ignored in (r",", r"\$", r"(?s).*#### ", r"\.$"):
        text = re.sub(ignored, "", text)
    return text.lower()


def verl_strict(text: str) -> str | None:
    """``extract_solution(text, "strict")`` of VeRL, ``verl/utils/reward_score/gsm8k.py``."""
    found = re.findall(r"#### (\-?[0-9\.\,]+)", text[-300:])
    return found[-1].replace(",", "").replace("$", "") if found else None


def verl_flexible(text: str) -> str | None:
    """``extract_solution(text, "flexible")``, from the same place."""
    found = re.findall(r"(\-?[0-9\.\,]+)", text[-300:])
    return next((number for number in reversed(found) if number not in ("", ".")), None)


RULES: dict[str, Callable[[str], Read]] = {
    "strict": strict_number,
    "lenient": lenient_number,
    "math-verify": math_verify_alone,
    "harness, strict": harness_strict,
    "harness, flexible": harness_flexible,
    "VeRL, strict": verl_strict,
    "VeRL, flexible": verl_flexible,
}


@dataclass(frozen=True)
class Reading:
    """What a rule reads in a completion, beside the careful reader's number."""

    rule: str
    text: str
    number: Fraction | None
    read: Read

    @property
    def outcome(self) -> Outcome:
        """Rules that find strings compare strings: another spelling of the right number counts as none."""
        if isinstance(self.read, str) and self.number is not None and self.read == _decimal(self.number):
            return "right"
        value = _value(self.read)
        if value is None or (value == self.number and isinstance(self.read, str)):
            return "right" if self.number is None else "none"
        return "right" if value == self.number else "wrong"


def _value(read: Read) -> Fraction | None:
    if not isinstance(read, str):
        return read
    plain = read.replace(",", "") if re.fullmatch(r"-?\d{1,3}(,\d{3})+(\.\d*)?", read) else read
    return Fraction(plain) if re.fullmatch(r"-?(\d+\.?\d*|\.\d+)", plain) else None


def _decimal(number: Fraction) -> str:
    return str(number) if number.denominator == 1 else f"{float(number):.12g}"


def readings() -> list[tuple[str, list[Reading]]]:
    """Of each completion: its kind, and what each rule reads in it."""
    return [
        (kind, [Reading(rule, text, number, read(text)) for rule, read in RULES.items()])
        for kind, text, number in answers.cases()
    ]


# Why a rule's reading is another one than the careful reader's; for rules of patterns, `_pattern_reason` says it.
REASONS: dict[str, dict[str, list[str]]] = {
    "lenient": {
        "a word multiplies the number: that is seen, but not computed": [
            r"\boxed{18 \text{ million}}",
            "She has 18 thousand dollars.",
        ],
        "numbers in words are seen, but not read": ["The answer is twenty, 2 more than before."],
        "no part of the arithmetic that is read": [r"\boxed{5!}", r"\boxed{0.333\ldots}", r"\boxed{1010_2}"],
        "a box within an expression is seen, but not put together": [r"-\boxed{18}", r"\boxed{9} \times 2"],
        "two answers contradict each other": [r"\boxed{18}. Wait, I forgot a day. The answer is 20."],
        "which of several numbers in a sentence is the answer is not guessed": [
            "So 3 friends pay 18 dollars each.",
            "She pays 18 dollars for 3 days.",
        ],
    },
    "math-verify": {
        "the last number is taken, though it is no answer": [
            "#### 18\n\nQuestion: Tom has 5 apples.",
            "Answer: 18\n\nQuestion: Tom has 5 apples.\nAnswer: 5",
            "#### Step 2: add the boxes",
            "She pays 18 dollars for 3 days.",
            "She has 6 * 3 = 18 apples and 2 pears.",
            "The answer is twenty, 2 more than before.",
            "It takes 2 hours and 30 minutes.",
            "He is the 3rd.",
        ],
        "words that change what the number says are not read": [
            r"\boxed{18 \text{ million}}",
            "She has 18 thousand dollars.",
            "The answer is not 18.",
            "The answer is at least 18.",
            "The answer is 18 or 20.",
        ],
        "signs that change what the number says are left out": [
            r"\boxed{0.333\ldots}",
            r"\boxed{1.2.3}",
            r"\boxed{1010_2}",
        ],
        "what stands side by side is added, or multiplied": [
            r"\boxed{1\,234}",
            r"\boxed{2(9)}",
            r"\boxed{6/2(1+2)}",
            "It takes 2 1/2 hours.",
        ],
        "it can be read in two ways, and one is chosen": [
            r"\boxed{3-5}",
            "We need 3-5 days.",
            r"\boxed{3:4}",
            r"$\frac{22}{7} \approx 3.14$",
        ],
        "the right-hand side is not the value of the unknown": [r"\boxed{x^2 = 18}", r"\boxed{2x = 18}"],
        "what stands around the box is not read": [
            r"-\boxed{18}",
            r"\boxed{9} \times 2",
            r"\boxed{18}. Wait, I forgot a day. The answer is 20.",
        ],
    },
}
OTHERWISE = {"lenient": "not understood", "math-verify": "not found, or found as something other than a number"}


def _reason(reading: Reading) -> str:
    for reason, texts in REASONS.get(reading.rule, {}).items():
        if reading.text in texts:
            return reason
    return OTHERWISE.get(reading.rule) or _pattern_reason(reading)


def _pattern_reason(reading: Reading) -> str:
    if _value(reading.read) == reading.number and reading.number is not None:
        return "the right number in another spelling: strings are compared"
    if "strict" in reading.rule:
        return "no `#### number`" if reading.read is None else "the first of several `#### number` is taken"
    return "what is found is no number" if reading.outcome == "none" else "the last digits are taken"


INTRODUCTION = """\
# Answers and scores

Which number is in an answer? These are {count} ends of solutions as models write them, with the number that a careful
reader takes each for. No sample is from a real model; the kinds are those of public reports
([Math-Verify](https://github.com/huggingface/Math-Verify/issues),
[lm-evaluation-harness](https://github.com/EleutherAI/lm-evaluation-harness/issues),
[VeRL](https://github.com/volcengine/verl/issues),
[grade-school-math](https://github.com/openai/grade-school-math/issues)).
`python -m docs.answers` writes this page. The rules:

- **strict** and **lenient**: `strict_number` and `lenient_number` of
  [scoring](../proma_bench/tasks/scoring.py), behind `score` and `score_lenient` of the [llm tier](llm.md);
- **math-verify** {math_verify}, alone: the value of the first thing that it finds;
- **harness**: `strict-match` and `flexible-extract` of lm-evaluation-harness for GSM8K;
- **VeRL**: `strict` and `flexible` of its reward for GSM8K, without the conversion to a reward.

The harness would have ended a completion before `Question:`; here the rules alone are compared.

The rules of the harness and of VeRL compare strings: the right number in another spelling (`18.00`) counts as none. A
reader finds no number where there is none, or more than one, or where it may be one or the other; a rule is right there
if it finds none.
"""
CONVENTIONS = """\
## What the lenient score takes for granted

- A percent sign is a unit, as other units are: `18%` is 18. `18 million` is no 18 of some unit; it has no number.
- `1,234`, `1{,}234`, `1\\,234` and `1 234` are 1234, and `1.234` is 1.234. `12,5` and `1.234,5`, as some countries
  write decimals, have no number; nor has `5.000 €`, which is five thousand in most of them.
- `2\\frac{1}{2}` and `2 1/2` are mixed numbers. `10 - 3` is 7; `10-3` may be a range, or the result of a game.
- A stated approximation is the number (`x \\approx 18.3`), unless an exact expression stands beside it.
- The last box counts; without a box, what is said after "answer is"; otherwise the last sentence with a number. If what
  counts has no number, there is none.
- What follows a box in its sentence must be its unit: `\\boxed{18} or 20`, `\\boxed{18}k`, `\\boxed{18}, \\boxed{20}`
  and `\\boxed{18}. That is wrong.` have no number.
- A number in the strict form always counts, as in VeRL, whatever follows it: `#### 2^3` is 2.
"""
MOST = 12
"""Largest number of answers that are listed for one reason."""


def page() -> str:
    """The page's text."""
    rows = readings()
    every = [reading for _, of_text in rows for reading in of_text]
    counts = {rule: Counter(reading.outcome for reading in every if reading.rule == rule) for rule in RULES}
    summary = [
        (rule, *(str(count[outcome]) for outcome in ("right", "none", "wrong"))) for rule, count in counts.items()
    ]
    parts = [
        INTRODUCTION.format(count=len(rows), math_verify=version("math-verify")),
        markdown_table(("rule", "right", "none, where there is one", "wrong number"), summary),
        "",
        CONVENTIONS,
        "## The answers",
        "",
        "⏎ is a new line, – no number. **Bold**: a wrong number. *Italic*: the right number in another spelling.",
    ]
    for kind in answers.ANSWERS:
        table = [
            (_code(of_text[0].text), _number(of_text[0].number), *map(_cell, of_text))
            for its, of_text in rows
            if its == kind
        ]
        parts += ["", f"### {kind}", "", markdown_table(("answer", "reader", *RULES), table)]
    return "\n".join([*parts, "", "## Why they disagree", "", *_disagreements(every)])


def _disagreements(every: list[Reading]) -> list[str]:
    lines = []
    for rule in RULES:
        grouped: dict[tuple[Outcome, str], list[str]] = defaultdict(list)
        for reading in every:
            if reading.rule == rule and reading.outcome != "right":
                grouped[reading.outcome, _reason(reading)].append(_code(reading.text))
        lines += [f"### {rule[0].upper()}{rule[1:]}", ""]
        for (outcome, reason), texts in sorted(grouped.items(), reverse=True):
            listed = f": {', '.join(texts)}" if len(texts) <= MOST else ", see the tables"
            lines += [f"- {'a wrong number' if outcome == 'wrong' else 'none'}, {_times(len(texts))}: {reason}{listed}"]
        lines += [""]
    return lines


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _code(text: str) -> str:
    return f"`` {text} ``".replace("\n", "⏎") if text else "(empty)"


def _number(number: Fraction | None) -> str:
    return "–" if number is None else str(number)


def _cell(reading: Reading) -> str:
    if reading.outcome == "wrong":
        return f"**{reading.read}**"
    if reading.outcome == "none" and _value(reading.read) is not None:
        return f"*{reading.read}*"
    return _number(_value(reading.read))


def main(arguments: list[str]) -> int:
    path = HOME / "answers.md"
    if "--check" in arguments:
        return int(path.read_text() != page())
    path.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
