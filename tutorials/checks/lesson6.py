"""Qwen3-0.6B on GSM8K: the strict score, log-probs without the logits, whether a run is sound."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from checks import Failed, exercise, explaining, normal, tensor
from proma_bench.tasks.scoring import strict_number

COMPLETIONS = {
    "3 * 6 = 18\n#### 18": "this is a plain answer",
    "#### 18\nNo, I was wrong.\n#### 20": "the last one counts",
    "#### -7": "numbers may be negative",
    "#### 1,234,567": "commas separate thousands",
    "#### 0.5": "decimals are numbers, too",
    "#### 18.": "a sentence may end with a full stop",
    "#### 18 dollars": "units may follow",
    "The answer is 18": "there is no ####",
    "####18": "the form has a space",
    "#### eighteen": "words are no number",
    "#### ,": "a comma is no number",
    "#### 1.2.3": "a version is no number",
    "": "silence is no number",
    "#### 18" + " and so on" * 40: "only the last 300 characters are read",
    "#### " + "9" * 400: "only the last 300 characters are read, and the #### is before them",
}


@exercise(none_is_an_answer=True)
def strict(answer: Callable[[str], float | None]) -> str:
    for completion, why in COMPLETIONS.items():
        exact = strict_number(completion)
        expected = None if exact is None else float(exact)
        shown = repr(completion if len(completion) < 40 else f"{completion[:20]} ... {completion[-12:]}")
        unread = "is no number for `float`, so the answer is None" if exact is None else f"is {expected}"
        with explaining(ValueError, f"{shown} {unread}: {why}"):
            found = answer(completion)
        assert found is not None or expected is None or not _is_always_none(answer), (
            "Your function returns None, whatever the completion. Is there a `return` in it?"
        )
        assert not isinstance(found, str), f"Of {shown} you make {found!r}, a text. Return a number: float(...)."
        is_late = found is None and completion.find("####") > 0
        hint = " (`re.match` finds nothing but what is at the very beginning.)" if is_late else ""
        assert found == expected, f"Of {shown} you make {found}. It is {expected}: {why}.{hint}"
    return "A reward that cannot be talked into anything."


def _is_always_none(answer: Callable[[str], float | None]) -> bool:
    """Whether it makes a number of nothing, which is allowed of a single completion."""
    with contextlib.suppress(Failed):
        return all(answer(completion) is None for completion in COMPLETIONS)
    return False


@exercise
def log_probs(answer: Callable[[Tensor, Tensor, Tensor, int], Tensor]) -> str:
    draw = normal(0)
    hidden, head = draw(50, 4), draw(300, 4)
    actions = torch.randint(300, (50,), generator=torch.Generator().manual_seed(1))
    expected = (hidden @ head.T).log_softmax(dim=1).gather(1, actions[:, None]).squeeze(1)
    for rows in (8, 1, 64):
        with _Largest() as largest:
            result = answer(hidden, head, actions, rows)
        found = tensor(result, (50,), "There are 50 actions, so there are 50 log-probs")
        logits = (hidden @ head.T).gather(1, actions[:, None]).squeeze(1)
        assert not torch.allclose(found, logits), "These are logits. Subtract the log of the sum of exponentials."
        assert not torch.allclose(found, -expected), "These are losses: a log-prob is not positive. Mind the sign."
        assert torch.allclose(found, expected), "The values are wrong: is each action looked up in its own row?"
        allowed = max(rows, 4) * 300  # the head itself is as large
        assert largest.elements <= allowed or rows >= 50, (
            f"The values are right, but with {rows} rows at a time you made a tensor of {largest.elements:,} elements; "
            f"{rows} rows of logits have {rows * 300:,}."
        )
    return "A vocabulary of 151,936 tokens fits through a narrow door."


@exercise
def problems(answer: Callable[[dict[str, Any], float], set[str]]) -> str:
    sound = {"sequences": 512, "cut": 20, "sampler_gap": 0.004, "grad_norm": 0.3}
    cases: list[tuple[dict[str, float], float, set[str], str]] = [
        ({}, 0.05, set(), "nothing is wrong: a few long answers are normal"),
        ({"cut": 200}, 0.05, {"cut"}, "200 of 512 answers never came to their end"),
        ({"sampler_gap": 0.2}, 0.05, {"sampler"}, "the answers are not the trained policy's own"),
        ({"grad_norm": 0.0}, 0.05, {"silent"}, "without a gradient no step was taken"),
        ({"grad_norm": 0.0, "cut": 512}, 0.05, {"cut", "silent"}, "all are cut off, hence all wrong, hence all silent"),
        ({"sampler_gap": 0.04}, 0.01, {"sampler"}, "the gap that is allowed comes with the question"),
        ({"sampler_gap": 0.04}, 0.04, set(), "a gap that is as large as allowed is not above it"),
        ({"sequences": 64}, 0.05, {"cut"}, "20 of 64 are more than a tenth"),
        ({"sequences": 200}, 0.05, set(), "20 of 200 are a tenth, and not more"),
        ({"grad_norm": 0.002}, 0.05, set(), "a small gradient is a gradient"),
    ]
    for change, largest_gap, expected, why in cases:
        result = answer({**sound, **change}, largest_gap)
        is_set = isinstance(result, set | frozenset | list | tuple) and all(isinstance(name, str) for name in result)
        assert is_set, f"Return a set of names, such as {{'cut'}}; yours is {result!r:.60}."
        found = set(result)
        assert found == expected, (
            f"With {change or 'a sound step'} and a gap of at most {largest_gap:g} you say {found or 'nothing'}, but "
            f"{why}."
        )
    return "First whether it is sound, then what it says."


class _Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that an operation has made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result
