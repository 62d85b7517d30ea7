"""The setting ``uncovered`` of `Proma`, and of trainers. It imports no torch, so that command lines start fast."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

Uncovered = Literal["refuse", "autograd"]
"""What happens to parameters for which the rows of a batch's sequences cannot be told apart."""
UNCOVERED: tuple[str, ...] = ("refuse", "autograd")


def uncovered_setting() -> Any:
    """A dataclass field for the setting, with a default and a help text, in the configuration of a trainer."""
    text = (
        "Parameters of what mixes the sequences of a microbatch: refuse raises an error, autograd gets their sequence "
        "gradients from one more backward pass for each sequence."
    )
    return dataclasses.field(default="refuse", metadata={"help": text})


def require_uncovered(value: object) -> None:
    """Raise ValueError, with the possible values, if this is none of them."""
    if value not in UNCOVERED:
        raise ValueError(f"uncovered must be {' or '.join(map(repr, UNCOVERED))}, got {value!r}")
