"""Update rules: how the step of one parameter tensor follows from Gram matrix, overlaps and advantages."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from proma_bench.foreign import FAILURES, described, shown
from proma_bench.tables import Table


class Update(NamedTuple):
    """One step ``A <- kept A + sum_i coefficients_i S_i``.

    Attributes:
        coefficients: u.
        kept: the factor on the running gradient.
        clamped: whether a limit of the rule was active, for the records.
        observed: what else the records shall say of each tensor, by name: numbers ``[*batch]`` or rows ``[*batch, n]``.
        memory: what a rule that asks for its ``memory`` keeps from now on.
    """

    coefficients: Float[Tensor, "*batch B"]
    kept: Float[Tensor, "*batch"] | float = 1.0
    clamped: Bool[Tensor, "*batch"] | bool = False
    observed: dict[str, Tensor] | None = None
    memory: Float[Tensor, "*batch k"] | None = None


@runtime_checkable
class UpdateRule(Protocol):
    """A pure function from Gram matrix, overlaps and advantages to coefficients; its settings are a frozen dataclass.

    Attributes:
        plain_first: whether the first microbatch of an optimizer step, which finds no running gradient, is plain
            accumulation. Then nothing is measured there, and the rule is not called.
    """

    @property
    def plain_first(self) -> bool:
        """See above."""

    def __call__(
        self, gram: Tensor, overlap: Tensor, advantages: Tensor, /, *args: Any, **extras: Any
    ) -> Tensor | Update:
        """The coefficients ``[*batch, B]``, or an `Update`.

        Args:
            gram: K_ij = <S_i, S_j>, ``[*batch, B, B]``. Leading axes are independent problems: parameter tensors.
            overlap: c_i = <A, S_i>, ``[*batch, B]``.
            advantages: a_i, ``[*batch, B]``. All are float64.
            args: nothing.
            extras: what the rule asks for by the name of a keyword-only argument. ``running_norm [*batch]`` is the norm
                of A, which nothing else tells; it is zero in the first microbatch of an optimizer step. ``memory
                [*batch, k]`` is what the rule has kept of each tensor from its last microbatch on, zeros at first; such
                a rule has an attribute ``memory_size``, the number k.
        """


@runtime_checkable
class BuiltIn(Protocol):
    """The class of a rule that can be found by its name; its settings are its arguments."""

    @property
    def name(self) -> str:
        """Its name in the table."""

    def __call__(self, *args: Any, **settings: Any) -> UpdateRule:
        """The rule with these settings."""


UPDATE_RULES: Table[BuiltIn] = Table("update rule")
"""The classes of rules by name. Importing `proma_bench.projection.rules` fills it."""

Registered = TypeVar("Registered", bound=BuiltIn)


def register_update_rule(rule: Registered) -> Registered:
    """Add the class of a rule to the table."""
    UPDATE_RULES.register(rule)
    return rule


class RuleError(ValueError):
    """A rule cannot be used, or not with these settings; the message names it, and the file of one from outside."""


AnyRule = UpdateRule | Callable[..., Tensor | Update]
"""What `Proma` takes: a rule, or any function ``rule(gram, overlap, advantages)``."""

EXTRAS = frozenset({"running_norm", "memory"})
"""What a rule may ask for by the name of a keyword-only argument."""


def as_rule(rule: AnyRule) -> UpdateRule:
    """The rule itself if it is one of this package, else a `CheckedRule` around it.

    Raises:
        RuleError: it is no function, or its arguments are others than a rule's.
    """
    if not callable(rule) or isinstance(rule, type):
        raise RuleError(f"an update rule must be callable as rule(gram, overlap, advantages), got {shown(rule, 80)}")
    if isinstance(rule, UpdateRule) and type(rule).__module__.startswith("proma_bench."):
        return rule
    checked = CheckedRule(rule, bool(_attribute(rule, "plain_first", False)))
    extras = extras_of(rule)
    if checked.plain_first:
        _require_plain_first(checked, extras)
    return checked


def _attribute(rule: object, name: str, default: Any) -> Any:
    """Of the rule, or of the function whose settings are bound."""
    return getattr(_unbound(rule.function if isinstance(rule, CheckedRule) else rule), name, default)


def _unbound(function: Any) -> Any:
    """The function whose settings are bound; of any other, itself."""
    return function.func if isinstance(function, functools.partial) else function


def _require_plain_first(rule: CheckedRule, extras: frozenset[str]) -> None:
    """With several microbatches in one pass, the rule itself is called for the first one."""
    gram, advantages = torch.eye(2, dtype=torch.float64)[None], torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    values = {"running_norm": gram.new_zeros(1), "memory": gram.new_zeros(1, memory_size(rule))}
    update = rule(gram, 0 * advantages, advantages, **{name: values[name] for name in extras})
    if not torch.equal(update.coefficients, advantages):
        raise RuleError(
            f"{name_of(rule.function)} has plain_first = True, but does not return the advantages where the overlaps "
            "are zero; leave plain_first out"
        )


def extras_of(rule: AnyRule) -> frozenset[str]:
    """Which of the EXTRAS a rule asks for.

    Raises:
        RuleError: it asks for something else, or does not take three arguments.
    """
    function = rule.function if isinstance(rule, CheckedRule) else rule
    known = EXTRAS if memory_size(rule) else EXTRAS - {"memory"}
    try:
        signature = inspect.signature(function)
        wanted = {name for name, one in signature.parameters.items() if one.kind is one.KEYWORD_ONLY and name in known}
        signature.bind(None, None, None, **dict.fromkeys(wanted))
    except (TypeError, ValueError) as error:
        raise RuleError(
            f"{name_of(function)} must take (gram, overlap, advantages), and at most {' and '.join(sorted(known))} by "
            f"keyword: {error}"
        ) from None
    return frozenset(wanted)


def memory_size(rule: AnyRule) -> int:
    """How many numbers a rule keeps of each parameter tensor."""
    size = _attribute(rule, "memory_size", 0)
    if type(size) is not int or size < 0:
        raise RuleError(f"memory_size of an update rule must be a whole number of at least 0, got {shown(size)}")
    return size


def require_number(name: str, value: object, above: float | None = None) -> None:
    """Raise ValueError for a setting that is not a finite number of at least 0, or not ``above`` a number."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not (isinstance(value, int | float) and is_number and (value >= 0 if above is None else value > above)):
        wanted = "at least 0" if above is None else f"above {above:g}"
        raise ValueError(f"{name} must be a finite number {wanted}, got {value!r}")


def name_of(function: Callable[..., Any]) -> str:
    """The function and the file it is in, for messages."""
    function = _unbound(function)
    name = getattr(function, "__qualname__", type(function).__qualname__)
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"the rule {name}" + (f" in {code.co_filename}" if code is not None else "")


def _in_words(dtype: torch.dtype, device: torch.device, layout: torch.layout) -> str:
    return f"{dtype} on {device}" + ("" if layout is torch.strided else f" as {layout}")


@dataclass(frozen=True)
class CheckedRule:
    """A rule from outside of this package. What it returns is checked, which waits for a GPU."""

    function: Callable[..., Tensor | Update]
    plain_first: bool = False

    def __call__(self, gram: Tensor, overlap: Tensor, advantages: Tensor, **extras: Tensor) -> Update:
        """The function's result.

        Raises:
            RuleError: there is none, it has another shape or type, or it is not finite though the arguments are.
        """
        copies = (values.clone() for values in (gram, overlap, advantages))  # a function may write to its arguments
        try:
            result = self.function(*copies, **extras)
        except FAILURES as error:
            raise RuleError(f"{name_of(self.function)} raised {described(error)}") from error
        update = result if isinstance(result, Update) else Update(result)
        is_finite = bool(gram.isfinite().all() & overlap.isfinite().all())
        self._require("coefficients", update.coefficients, overlap, is_finite)
        if not isinstance(update.kept, int | float) or not math.isfinite(update.kept):
            self._require("a factor on the running gradient", update.kept, overlap[..., 0], is_finite)
        if "memory" in extras:
            self._require("memory", update.memory, extras["memory"], is_finite)
        return update

    def _require(self, what: str, values: object, like: Tensor, is_finite: bool) -> None:
        found = f"{name_of(self.function)} returned {what}"
        if not isinstance(values, Tensor):
            raise RuleError(f"{found}, which must be a tensor: {shown(values, 60)}")
        if values.shape != like.shape:
            raise RuleError(f"{found} of shape {list(values.shape)}; it must be {list(like.shape)}")
        kind, wanted = ((one.dtype, one.device, one.layout) for one in (values, like))
        if kind != wanted:
            raise RuleError(f"{found} in {_in_words(*kind)}; it must be {_in_words(*wanted)}")
        if is_finite and not bool(values.isfinite().all()):
            raise RuleError(f"{found} with NaN or infinity, from finite arguments")
