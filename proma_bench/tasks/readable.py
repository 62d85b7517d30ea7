r"""The end of a completion as a reader sees it: one sign for each meaning, no typefaces, no marks of mathematics.

Signs are replaced by signs that mean the same, and removed where they are not seen as part of a number. Between two
signs that stood apart, spaces remain, so that no two numbers become one.
"""

from __future__ import annotations

import re
import unicodedata

from proma_bench.tasks.statements import CLOSE, GROUPED, OPEN

_PLAIN = str.maketrans(
    {
        **dict.fromkeys(OPEN + CLOSE, "?"),
        **dict.fromkeys("€£¥₹", "$"),
        **dict.fromkeys("\t\r\u00a0\u2009\u202f", " "),
        **{sign: rf"\frac{{{top}}}{{{bottom}}}" for sign, top, bottom in ("½12", "⅓13", "⅔23", "¼14", "¾34", "⅛18")},
        **{sign: f"^{{{unicodedata.digit(sign)}}}" for sign in "⁰¹²³⁴⁵⁶⁷⁸⁹"},
        "−": "-",
    }
)
_EUROS = re.compile(rf"€\s*({GROUPED})|({GROUPED})\s*€")
"""The sign becomes a word: it says that the dot may group thousands, which a dollar sign does not."""
ARGUMENT = r"\s*\{((?:[^{}]|\{[^{}]*\})*)\}"
_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|mathrm|mbox|hbox)" + ARGUMENT)
_STYLE = re.compile(r"\\(?:math(?:bf|it|sf|tt)|boldsymbol|bm|underline|emph)" + ARGUMENT)
_DISPLAY = re.compile(r"\\\[.*?\\\]|\$\$.*?\$\$|\\\(.*?\\\)", re.DOTALL)
_CROSSED_OUT = re.compile(r"<(s|del|strike)>[^<>]*</\1>|(?<!~)~~(?!~)[^~\n]*~~")
_NEXT_QUESTION = re.compile(
    r"<\|(?:im_end|endoftext|eot_id)\|>|</s>"
    r"|\n\W*(?:Question|Problem|Exercise|Instruction|Q|Human|User)\b[ \d]*\W{0,3}:",
    re.IGNORECASE,
)
_SIGN_AT_END = r"(?:[-+/^×÷·=(]|(?<![*\w])\*|\\(?:times|cdot|div))"
_REPLACEMENTS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"<sup>([^<>]*)</sup>", r"^{\1}"),
        (r"<sub>([^<>]*)</sub>", r"_{\1}"),
        (r"</?\w+>|<\|\w+\|>|\[/?INST\]", "\n"),
        (r"<<[^<>]*>>", "  "),  # the calculator's notes of GSM8K: 6*3=<<6*3=18>>18
        (r"(?<![\w)])\*\*(?=\S)((?:[^*\n]|\*(?!\*))*)(?<=\S)\*\*(?![\w(])", r"\1"),  # bold
        (r"\bRs\b\.?\s*(?=\d)", "$"),
        (r"(?<=[0-9)%])\s+x\s+(?=[$0-9(])", " × "),
        (r"\bsqrt\s?\(", "√("),
        (r"\\(?:displaystyle|textstyle|bf|large|Large)(?![a-zA-Z])", " "),
        (r"(?<!\\)\\[()\[\]]|\$\$|\\(?:begin|end)\{(?:align|aligned|equation|gather)\*?\}|&(?==)", "  "),
        (r"\\\\(?=\s*[+=-])", "  "),
        (r"\\\\", " ; "),
        (rf"([\w)}}$]\s*{_SIGN_AT_END}) *\n\s*", r"\1  "),  # an expression goes on in the next line
        (r"\n\s*(?=[+×÷=/]|\\(?:times|cdot|div|approx)(?![a-zA-Z]))", "  "),
    ]
]


def readable(tail: str) -> str:
    """Replace what is written differently but means the same.

    Args:
        tail: the last characters of a completion.

    Returns:
        The text, up to where another question begins.
    """
    text = _EUROS.sub(lambda found: f"{found[1] or found[2]} euros", tail)
    text = _CROSSED_OUT.sub(" ", text.translate(_PLAIN))
    another = _NEXT_QUESTION.search(text)
    if another and re.search("[0-9]", text[: another.start()]):
        text = text[: another.start()]
    text = _DISPLAY.sub(lambda found: found[0].replace("\n", "  "), text)
    for pattern, replacement in _REPLACEMENTS:
        text = pattern.sub(replacement, text)
    for _ in range(3):  # they may be nested
        text = _STYLE.sub(r"\1", _TEXT.sub(_words_of, text))
    return text


def _words_of(text: re.Match[str]) -> str:
    r"""``\text{...}`` stays as it is seen. If there is no number in it, it is marked as words."""
    words = re.sub(r"\\[a-zA-Z]+", "", text[1])
    if not re.search("[a-zA-Z]", words):
        return text[1]
    return f"  {text[1]}  " if re.search(rf"[0-9{OPEN}\\]", text[1]) else f"{OPEN}{text[1]}{CLOSE}"
