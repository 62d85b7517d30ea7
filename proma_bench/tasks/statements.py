r"""The number that a statement says: ``6 * 3 = 18``, ``she has 18 apples``, ``18\text{ cm}^2``.

A statement has a number if one expression is in it, or stands on the right of its last equals sign, and nothing casts
doubt on it. The words before an expression name it and the words after it are its unit; a percent sign is a unit too.
Nothing is left out of the expression itself: `proma_bench.tasks.arithmetic` understands all of it, or there is no
number. There is none in ``3x + 18``, ``2x = 18``, ``18 or 20``, ``18 million``, ``at least 18``, ``not 18``.
"""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import pairwise

from proma_bench.tasks import arithmetic

OPEN, CLOSE = "‹›"
r"""They enclose the words of ``\text{...}``, which are no variables."""

_NUMERALS = """
    two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
    nineteen twenty thirty forty fifty sixty seventy eighty ninety
"""
_SCALES = """
    half halves third thirds fourth fourths quarter quarters fifth fifths sixth sixths seventh sevenths eighth eighths
    ninth ninths tenth tenths hundredth hundredths thousandth thousandths hundred hundreds thousand thousands million
    millions billion billions trillion trillions quadrillion quadrillions quintillion quintillions zillion zillions
    eleventh elevenths twelfth twelfths sixteenth sixteenths twentieth twentieths thirtieth thirtieths sixtieth
    sixtieths dozen dozens tens lakh lakhs crore crores grand mil mio mln mn bn tn
    Tausend Millionen Milliarde Milliarden Mrd Dutzend mille milliard milliards millones
"""
_MULTIPLES = r"""
    gross score mega giga tera myriads? lacs? thou thsd tsd tys tis tkr mkr mln
    (?:m|b|tr)[iy]l+[ijyh]?(?:[oó]e?n\w{0,2}|[ãõ]\w{0,2})
    m[iy]l+[ijy]ar\w* mila milliers? migliaia tysi\w+ tusen tusind duizend
    hundert\w* hundra\w* honderd cien(?:tos)? centaines? cento douzaines? docenas? dozzin[ae] dozijn\w* dussin tuzin\w*
    ribu juta nghìn triệu tỷ tỉ тыс\w* млн млрд миллион\w* миллиард\w* сот\w* десят\w* дюжин\w*
    [万億萬亿千百천백만억]\w* हज़ार लाख करोड़ ألف مليون مليار
"""
"""Of other languages, and such as are names and units elsewhere: they count right after a number."""
_DENIALS = r"not never wrong incorrect cannot neither nor if suppose assume assuming whether \w+n['’]t"
_OPERATORS = (
    "or plus minus negative divided multiplied squared cubed halved doubled tripled factorial point power mod choose"
)
_BOUNDS = "than least most until between over under above below exceeds exceeding from within unless except without"
_SHARES = "product multiple factor power percent out instead one some most each"
_FUNCTIONS = "half twice double triple square cube root times log ln sin cos tan gcd lcm exp mod abs"
_EXTREMES = "max min maximum minimum"
_LABELS = """
    step day week month year part question problem example case chapter page line figure table equation option method
    no level grade floor row seat item player team room lesson exercise section note round stage base
"""

_MONTHS = """
    January February March April May June July August September October November December
    Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec
"""


def _any_of(*lists: str) -> str:
    return rf"(?<![^\W\d_])(?:{'|'.join(' '.join(lists).split())})(?![^\W\d_])"


NUMERAL = re.compile(_any_of("zero one", _NUMERALS, _SCALES), re.IGNORECASE)
"""A number in words."""

_UNIT = re.compile("(?:[cmk]m|[mk]?g|m[lL]|ft|in|lbs?|oz|yd|mi|[mk]ph|hrs?|mins?|secs?|k?m/[hs]|USD|EUR|GBP)")
_AFTER = re.compile(
    rf"{_any_of(_NUMERALS, _SCALES, _DENIALS, _OPERATORS)}|{OPEN}\s*(?-i:[kKMBxyznie]|pi)\s*{CLOSE}|(?<!\w)pi(?!\w)"
    rf"|\A[\s{OPEN}]*(?:{'|'.join(_MULTIPLES.split())})(?!\w)"
    rf"|\A\s*(?:of\s+)?(?-i:{_any_of(_MONTHS)})|(?<!\w)(?:at\s+(?:most|least)|and\s+(?:up|above|over|below|under|more|a))(?!\w)",
    re.IGNORECASE,
)
_DOLLARS = re.compile(r"[^$]*\$\s*[0-9][^$]*")
GROUPED = r"(?<![\d.,])[1-9]\d{0,2}\.\d{3}(?![\d.,]?\d)"
"""A number whose dot may group thousands, or begin decimals."""
_DOTS_ARE_GROUPS = re.compile(
    r"[₫₺]|(?<!\w)(?:EUR|euros?|VND|đồng|IDR|Rp|rupiah|BRL|reais|pesos?|kr|kroner|kronor|lira|TL)(?!\w)", re.IGNORECASE
)
"""Currencies of countries that write five thousand as 5.000."""
_BEFORE_TAX = re.compile(r"\A\s*gross(?!\w)", re.IGNORECASE)
"""Of dollars it is no number: ``$18 gross``."""
_BEFORE = re.compile(
    rf"{_any_of(_DENIALS)}"
    rf"|(?:{_any_of(_NUMERALS, _SCALES, _OPERATORS, _BOUNDS, _FUNCTIONS, _EXTREMES, _LABELS, _MONTHS)}"
    rf"|{_any_of('divided multiplied increased decreased reduced off short')}\s+by|(?<!\w)(?:up|raised|or\s+equal)\s+to"
    r"|(?<!\w)as\s+(?:many|much|few|little)\s+as"
    rf"|{_any_of(_NUMERALS, _SCALES, _FUNCTIONS, _EXTREMES, _SHARES)}\s+of(?:\s+the)?)[\s#:$]*{CLOSE}?\s*\Z",
    re.IGNORECASE,
)
_DENIAL = re.compile(_any_of(_DENIALS), re.IGNORECASE)
_LEFT = re.compile(_any_of(_DENIALS, "or half twice double triple square cube root log ln sin cos tan"), re.IGNORECASE)

_LETTER = r"[^\W\d_]"
_RAISED = r"(?:\^\{?-?[1-3]\}?)?"
_WORD = re.compile(
    rf"{OPEN}[^{OPEN}{CLOSE}]*{CLOSE}{_RAISED}"
    rf"|/?(?<![\\^])(?<!{_LETTER})(?:{_LETTER}{{2,}}|{_LETTER}(?=['’]))(?:['’]{_LETTER}+)*(?:/[a-z](?![a-z]))?{_RAISED}"
    r"|(?<!\S)[aAI](?=\s)"
    r"|[\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff\ufe0f°]+"
)
_EQUALS = re.compile(r"(?<![<>!:=])=(?![=>])|\\approx(?![a-zA-Z])|≈")
_OTHER_RELATION = re.compile(r"[<>≤≥≠±∓→∈∝]|[!:=]=|\\(?:[lg](?:eq?|t|eqslant)|neq?|pm|mp|in|sim|to)(?![a-zA-Z])")
_DOTS = re.compile(r"\.\.|…|dots")
_NAME = re.compile(rf"\\?{_LETTER}+(?:_\{{?\w+\}}?)?(?:\s?\([^()]*\))?")
# 2x, 2 * width, width * 2: a quantity of which the number is a multiple
_BINARY = r"(?:[+×÷]|\\(?:times|cdot|div)(?![a-zA-Z])|(?<!\*)\*(?!\*)|(?<=\s)[-/](?=\s))"
_UNKNOWN = re.compile(
    rf"[0-9](?:{OPEN}(?!\s)|{_LETTER})|[0-9].*{_BINARY}\s*{OPEN}?\s*{_LETTER}{{2}}"
    rf"|^[^0-9]*[^\W0-9_]\s*{CLOSE}?\s*{_BINARY}\s*[$\\]*[0-9]"
)
_VARIABLE = re.compile(
    rf"(?<![\\a-zA-Z]){_LETTER}|\\(?!(?:[dtc]?frac|times|cdot|div|sqrt|left|right|q?quad)(?![a-zA-Z]))[a-zA-Z]"
)
# What stands between words and is no part of an expression.
_HARMLESS = re.compile(r"(?:[^\d+=^×÷·√\\|{}\[\]]|\\[,;:! %$])*")
_PRICE = re.compile(r"(?:\s|\\?\$|\\[,;: ]|[:;\"'“‘`*_]|,(?=\s))*([+-]?)(?:\s|\\?\$|\\[,;: ])*")
_UNITS = re.compile(r"(?:\s|\\?[$%]|\\[,;:! ]|\^\{?\\circ\}?|[.,:;*_`'\"”’])*\Z")


def number(statement: str, boxed: bool = False) -> Fraction | None:
    r"""The number that a statement says.

    Args:
        statement: the text, in which the content of ``\text{...}`` is enclosed in `OPEN` and `CLOSE`.
        boxed: whether it is the content of a box, and therefore mathematics: ``ab`` is a product, no word.

    Returns:
        The number; None if it is in doubt.
    """
    if _OTHER_RELATION.search(statement) or _DOTS.search(statement):
        return None
    *left, right = _EQUALS.split(statement)
    relation = _EQUALS.findall(statement)[-1:]
    if not all(_is_left(side, boxed) for side in left) or not all(map(_is_between, left[1:])):
        return None
    if relation not in ([], ["="]) and any(re.search("[0-9]", _WORD.sub("", side)) for side in left):
        return None  # 22/7 ≈ 3.14: which one is meant?
    found = _amount(right, boxed)
    return None if any(_is_other_number(side, found) for side in left) else found


def is_doubtful(before: str) -> bool:
    """Whether the words before a number cast doubt on it: ``not 18``, ``at least 18``, ``half of 18``, ``step 18``.

    Args:
        before: what stands before the number in its sentence.
    """
    return _BEFORE.search(before) is not None


def is_denied(words: str) -> bool:
    """Whether words deny what follows them, or only suppose it.

    Args:
        words: what stands before it in its sentence.
    """
    return _DENIAL.search(words) is not None


def _is_left(side: str, boxed: bool) -> bool:
    r"""Whether the right side is the value of this side, and not that of an unknown in it, as in ``2x = 18``."""
    rest = _WORD.sub(" ", side).strip(" $:" if boxed else " *_$:,;.`\"'-")
    if _LEFT.search(side) or _UNKNOWN.search(side) or ("^" in side and not re.search("[0-9]", rest)):
        return False
    if _VARIABLE.search(rest):
        return _NAME.fullmatch(rest) is not None
    has_letters = re.search(rf"(?<![\\a-zA-Z]){_LETTER}{{2}}", re.sub(f"{OPEN}.*?{CLOSE}", "", side))
    return not (boxed and has_letters and rest)


def _is_other_number(side: str, found: Fraction | None) -> bool:
    """Whether a side contradicts the right one, as in ``18 = 20``; ``9 * 2 = 17`` is a mistake, which counts."""
    return re.fullmatch(r"[\s$]*[0-9][0-9,.]*[\s$]*", side) is not None and arithmetic.value(_bare(side)) != found


def _is_between(side: str) -> bool:
    """Whether a side between two equals signs is one expression; in ``3 = 3 apples and 5 = 5``, it is not."""
    parts = [part for part in _WORD.split(side) if re.search("[0-9]", part)]
    return not re.search(r",\s|;", side) and all(re.match(r"\s*[-+*/×÷]", part) for part in parts[1:])


def _amount(text: str, boxed: bool) -> Fraction | None:
    """The only expression of a text, if the words around it leave no doubt."""
    words = [(0, 0), *(word.span() for word in _WORD.finditer(text)), (len(text), len(text))]
    parts = [(end, start) for (_, end), (start, _) in pairwise(words)]
    [*found] = (part for part in parts if not _HARMLESS.fullmatch(text, *part))
    if len(found) != 1:
        return None
    start, end = found[0]
    before, expression, after = text[:start], text[start:end], text[end:]
    if is_doubtful(before) or _AFTER.search(_BEFORE_TAX.sub("", after) if _DOLLARS.fullmatch(expression) else after):
        return None
    if re.search(GROUPED, expression) and _DOTS_ARE_GROUPS.search(text):
        return None
    if not (_may_precede(before, expression, boxed) and _may_follow(expression, after, boxed)):
        return None
    if not boxed and re.match(r"[\s*]*[-+*•]\s", expression):  # an item of a list, or a sign
        return None
    if boxed and any(re.search(_LETTER, text[slice(*part)]) for part in parts if part != found[0]):
        return None
    return arithmetic.value(_bare(expression))


def _may_precede(before: str, expression: str, boxed: bool) -> bool:
    if not before or before.endswith(CLOSE):
        return True
    if boxed:
        return expression.lstrip().startswith(":")
    return expression[0] in " \n:,;\"'“‘`*_$" or expression.startswith("\\$")


def _may_follow(expression: str, after: str, boxed: bool) -> bool:
    r"""Whether the words after an expression can be its unit: in ``18ab`` and, in a box, ``18 ab`` they are factors."""
    words = [word[0].lstrip("/") for word in _WORD.finditer(after) if re.match(rf"/?{_LETTER}", word[0])]
    doubtful = [word for word in words if not re.match(rf"{_LETTER}{{4}}", word) and not _UNIT.fullmatch(word)]
    is_glued = bool(re.match(_LETTER, after)) and not expression[-1].isspace()
    return not doubtful if boxed else not (is_glued and words[0] in doubtful)


def _bare(expression: str) -> str:
    """An expression without currency signs, percent signs, quotation marks and emphasis around it; with its sign."""
    price = _PRICE.match(expression)
    sign, text = (price[1], expression[price.end() :]) if price else ("", expression)
    return sign + _UNITS.sub("", text)
