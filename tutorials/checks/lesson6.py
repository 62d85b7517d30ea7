"""Qwen3-0.6B on GSM8K: the strict score, log-probs without the logits, whether a run is sound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from checks import exercise
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


@exercise
def strict(answer: Callable[[str], float | None]) -> str:
    answer(next(iter(COMPLETIONS)))  # None is "not answered" here, and an answer from here on
    plainly = getattr(answer, "__wrapped__", answer)
    for completion, why in COMPLETIONS.items():
        number, found = strict_number(completion), plainly(completion)
        expected = None if number is None else float(number)
        shown = repr(completion if len(completion) < 40 else f"{completion[:20]} ... {completion[-12:]}")
        assert found == expected, f"Of {shown} you make {found}. It is {expected}: {why}."
    return "A reward that cannot be talked into anything."


@exercise
def log_probs(answer: Callable[[Tensor, Tensor, Tensor, int], Tensor]) -> str:
    generator = torch.Generator().manual_seed(0)
    hidden, head = (torch.randn(size, 4, dtype=torch.float64, generator=generator) for size in (50, 300))
    actions = torch.randint(300, (50,), generator=generator)
    expected = (hidden @ head.T).log_softmax(dim=1).gather(1, actions[:, None]).squeeze(1)
    for rows in (8, 1, 64):
        with _Largest() as largest:
            found = answer(hidden, head, actions, rows)
        assert found.shape == (50,), f"There are 50 actions, so there are 50 log-probs; yours are {[*found.shape]}."
        logits = (hidden @ head.T).gather(1, actions[:, None]).squeeze(1)
        assert not torch.allclose(found, logits), "These are logits. Subtract the log of the sum of exponentials."
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
    worse: list[tuple[dict[str, float], set[str], str]] = [
        ({}, set(), "nothing is wrong: a few long answers are normal"),
        ({"cut": 200}, {"cut"}, "200 of 512 answers never came to their end"),
        ({"sampler_gap": 0.2}, {"sampler"}, "the answers are not the trained policy's own"),
        ({"grad_norm": 0.0}, {"silent"}, "without a gradient no step was taken"),
        ({"grad_norm": 0.0, "cut": 512}, {"cut", "silent"}, "all are cut off, hence all wrong, hence all silent"),
    ]
    for change, expected, why in worse:
        found = set(answer({**sound, **change}, 0.05))
        assert found == expected, f"With {change or 'a sound step'} you say {found or 'nothing'}, but {why}."
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
