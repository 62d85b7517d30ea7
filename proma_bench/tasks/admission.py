"""Which answers reach a scorer at all, and which scorers may read them in this process.

Some scorers of reasoning-gym evaluate an answer as Python. For these tasks, `is_admitted` describes what a right answer
can look like, and anything else is wrong without being scored. An answer that is admitted is still untrusted: `worker`.
"""

from __future__ import annotations

import ast
import builtins
import itertools
import re
from importlib.metadata import version

LONGEST = 20_000
"""Characters of an answer, or twice as many as the library's own answer has, if that is more."""

LONGEST_FORMULA = 2000
DEEPEST = 20
"""Depth of brackets in a formula."""

MOST_BITS = 20_000
"""Bits of a formula's value, with one bit for a symbol. It limits powers and factorials."""

READ_VERSION = "0.1.25"
"""The version of reasoning-gym whose scorers were read."""

READ_SCORERS = frozenset(
    """
    ab acre advanced_geometry aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation
    bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic codeio color_cube_rotation
    complex_arithmetic count_bits count_primes course_schedule cryptarithm decimal_arithmetic decimal_chain_sum dice
    emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting
    gcd graph_color group_anagrams gsm_symbolic isomorphic_strings jugs kakurasu knight_swap knights_knaves
    largest_island lcm leg_counting letter_counting letter_jumble list_functions mahjong_puzzle manipulate_matrix maze
    mini_sudoku modulo_grid needle_haystack number_filtering number_format number_sequence number_sorting
    palindrome_generation palindrome_partitioning path_star polynomial_equations pool_matrix power_function
    prime_factorization products quantum_lock ransom_note rearc rectangle_count rotate_matrix rotten_oranges
    self_reference sentence_reordering shortest_path simple_equations simple_geometry sokoban spell_backward
    string_manipulation string_splitting string_synthesis sudoku survo syllogism time_intervals tsumego word_ladder
    word_sequence_reversal word_sorting zebra_puzzles
    """.split()
)
"""Tasks whose scorers evaluate and print nothing, and need time that grows at most slightly faster than an answer."""

LITERALS = {
    "binary_matrix": r"[0-9\s\[\],]*",
    "n_queens": r"[Q_\s\[\],'\"]*",
    "spiral_matrix": r"[-0-9\s\[\],]*",
    "string_insertion": r"[A-E\s\[\],'\"]*",
}
"""Tasks that evaluate an answer which is not right as it is, and what a right one consists of."""

FORMULAS = frozenset("countdown intermediate_integration polynomial_multiplication puzzle24 simple_integration".split())
"""Tasks whose answers are formulas, which sympy evaluates."""

FUNCTIONS = frozenset(
    """
    Abs Integral Rational acos acosh acot acoth asin asinh atan atanh cos cosh cot coth csc erf erfi exp ln log sec
    sign sin sinh sqrt tan tanh
    """.split()
)
"""What formulas can call, besides names in the library's own answer. Other names are symbols: a constant may be C1."""

FACTORIAL = "factorial"
"""``4!`` is read as ``4**factorial``, which binds like it."""


def is_read(name: str) -> bool:
    """Whether a task's scorer was read, in the version that is installed, and can score in this process.

    Args:
        name: the name of the task.
    """
    return name in READ_SCORERS and version("reasoning-gym") == READ_VERSION


def is_admitted(name: str, answer: str, own: str | None) -> bool:
    """Whether an answer can be right at all, by its length and, if the scorer may evaluate it, by its form.

    Args:
        name: the name of the task.
        answer: the answer of a model.
        own: the library's answer to the question, if it has one.
    """
    own = own or ""
    if len(answer) > max(LONGEST, 2 * len(own)):
        return False
    if name in FORMULAS:
        return _is_formula(answer, set(re.findall(r"[A-Za-z_]\w*", own)))
    return name not in LITERALS or re.fullmatch(LITERALS[name], answer, re.ASCII) is not None


def _is_formula(text: str, names: set[str]) -> bool:
    """Whether a text is a formula of numbers, symbols and functions, of limited size. Nothing is evaluated."""
    if len(text) > LONGEST_FORMULA or not re.fullmatch(r"[\w\s+*/%().,!-]*", text, re.ASCII) or _depth(text) > DEEPEST:
        return False
    if re.search(r"\d[A-Za-z_]|__|!\s*(!|\*\*)", text):  # 1e9, 0x1, 1j, 1or; dunders; 4!!, 4!**2
        return False
    try:
        _bits(ast.parse(text.replace("!", f"**{FACTORIAL}").strip(), mode="eval").body, names)
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return False
    return True


def _depth(text: str) -> int:
    """The largest depth of brackets."""
    steps = ((sign == "(") - (sign == ")") for sign in text)
    return max(itertools.accumulate(steps, initial=0))


def _bits(node: ast.expr, names: set[str]) -> int:
    """An upper bound for the bits of a formula's value.

    Raises:
        ValueError: it has too many, or contains something else than arithmetic.
    """
    match node:
        case ast.Constant(int() | float() as value) if not isinstance(value, bool):
            bits = int(abs(value)).bit_length() + isinstance(value, float)
        case ast.Name(name) if not hasattr(builtins, name):
            bits = 1
        case ast.UnaryOp(ast.UAdd() | ast.USub(), operand):
            bits = _bits(operand, names)
        case ast.BinOp(base, ast.Pow(), ast.Name(name)) if name == FACTORIAL:
            bits = _scaled(_bits(base, names), _bits(base, names))
        case ast.BinOp(base, ast.Pow(), exponent):
            bits = _scaled(_bits(base, names), _bits(exponent, names))
        case ast.BinOp(left, ast.Add() | ast.Sub(), right):
            bits = max(_bits(left, names), _bits(right, names)) + 1
        case ast.BinOp(left, ast.Mult() | ast.Div() | ast.FloorDiv() | ast.Mod(), right):
            bits = _bits(left, names) + _bits(right, names)
        case ast.Call(ast.Name(function), arguments, []) if function in FUNCTIONS | names:
            bits = sum(_bits(one, names) for one in arguments)
            bits = _scaled(2, bits) if function == "exp" else bits + 1
        case _:
            raise ValueError(f"not arithmetic: {ast.dump(node)}")
    if bits > MOST_BITS:
        raise ValueError(f"{bits} bits")
    return bits


def _scaled(base: int, exponent: int) -> int:
    """The bits of a power, from those of base and exponent."""
    return base << min(exponent, MOST_BITS.bit_length())
