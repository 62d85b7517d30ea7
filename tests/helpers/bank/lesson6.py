"""Answers to the exercises of lesson 6."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from exercises import Exercise, integers
from torch import Tensor


def _completion_problem(draw: Callable[..., Tensor]) -> tuple[Any, ...]:
    texts = [
        "#### 5",
        "#### -7",
        "#### 1,234",
        "#### .5",
        "x\n#### 3.0\n#### 4",
        "none",
        "####5",
        "#### ,",
        "#### 1.2.3",
        "so #### 12. Done",
        "#### 6" + "." * 310,
        "#### 0,5",
    ]
    return (texts[int(integers(draw, len(texts), 1))],)


def _log_prob_problem(draw: Callable[..., Tensor]) -> tuple[Any, ...]:
    return draw(9, 3), draw(20, 3), integers(draw, 20, 9), 4


def _step_problem(draw: Callable[..., Tensor]) -> tuple[Any, ...]:
    cut, gap, norm = (abs(float(x)) for x in draw(3))
    step = {"sequences": 50, "cut": round(5 * cut), "sampler_gap": round(gap, 1), "grad_norm": round(norm)}
    return step, round(abs(float(draw(1))), 1)


def _strict(pattern: str, *, tail: int = 300, which: int = -1, find: Any = re.findall) -> Callable[[str], float | None]:
    def read(completion: str) -> float | None:
        found = find(pattern, completion[-tail:])
        try:
            return float(found[which].replace(",", "").rstrip(".")) if found else None
        except ValueError:
            return None

    return read


NUMBER = r"#### (-?[0-9.,]+)"


def _matched(completion: str) -> float | None:
    found = re.match(NUMBER, completion)
    return float(found[1].replace(",", "")) if found else None


def _after_the_mark(completion: str) -> float:
    return float(completion.split("####")[-1])


def _searched_backwards(completion: str) -> float | None:
    found = None
    for match in re.finditer(NUMBER, completion[-300:]):
        found = match[1].replace(",", "").rstrip(".")
    return float(found) if found and re.fullmatch(r"-?([0-9]+\.?[0-9]*|\.[0-9]+)", found) else None


def _in_parts(hidden: Tensor, head: Tensor, actions: Tensor, rows: int) -> Tensor:
    parts = [
        torch.distributions.Categorical(logits=hidden[i : i + rows] @ head.T).log_prob(actions[i : i + rows])
        for i in range(0, len(hidden), rows)
    ]
    return torch.cat(parts)


def _log_softmax_in_parts(hidden: Tensor, head: Tensor, actions: Tensor, rows: int) -> Tensor:
    found = hidden.new_empty(len(actions))
    for part in torch.arange(len(hidden)).split(rows):
        found[part] = -torch.nn.functional.cross_entropy(hidden[part] @ head.T, actions[part], reduction="none")
    return found


def _all_logits(hidden: Tensor, head: Tensor, actions: Tensor, rows: int) -> Tensor:
    return (hidden @ head.T).log_softmax(1).gather(1, actions[:, None]).squeeze(1)


def _names(**wrong: Callable[[dict[str, Any], float], bool]) -> Callable[..., set[str]]:
    right = {
        "cut": lambda step, gap: step["cut"] > step["sequences"] / 10,
        "sampler": lambda step, gap: step["sampler_gap"] > gap,
        "silent": lambda step, gap: step["grad_norm"] == 0,
    }
    return lambda step, gap: {name for name, test in {**right, **wrong}.items() if test(step, gap)}


EXERCISES = [
    Exercise(
        6,
        "strict",
        _completion_problem,
        [_searched_backwards, _strict(NUMBER)],
        [
            (_matched, "re.match"),
            (lambda completion: None, "return"),
            (
                lambda completion: float(re.findall(NUMBER, completion[-300:])[-1].replace(",", "")),
                "raises IndexError",
            ),
            (
                lambda completion: float(f[-1].replace(",", "")) if (f := re.findall(NUMBER, completion)) else None,
                "no number for `float`",
            ),
            (_after_the_mark, "is 1234567.0: commas separate thousands"),
            (_strict(NUMBER, which=0), "the last one counts"),
            (_strict(NUMBER, tail=10**9), "only the last 300 characters"),
            (_strict(r"#### ([0-9.,]+)"), "numbers may be negative"),
            (_strict(r"####\s*(-?[0-9.,]+)"), "the form has a space"),
            (_strict(r"#### (-?[0-9.]+)"), "commas separate thousands"),
            (_strict(r"#### (-?[0-9,]+)"), "decimals are numbers"),
            (_strict(r"(-?[0-9.,]+)"), ""),
            (_strict(NUMBER + r"$"), ""),
            (lambda completion: f[-1] if (f := re.findall(NUMBER, completion[-300:])) else None, "a text"),
            (lambda completion: 18.0, "the last one counts"),
        ],
        asks_more=True,
    ),
    Exercise(
        6,
        "log_probs",
        _log_prob_problem,
        [_in_parts, _log_softmax_in_parts],
        [
            (_all_logits, "The values are right, but"),
            (lambda *a: -_in_parts(*a), "These are losses"),
            (lambda h, w, a, rows: (h @ w.T).gather(1, a[:, None]).squeeze(1), "These are logits"),
            (lambda h, w, a, rows: (h * w[a]).sum(1), "These are logits"),
            (lambda *a: _in_parts(*a).exp(), "The values are wrong"),
            (lambda *a: _in_parts(*a)[:, None], "50 actions"),
            (lambda h, w, a, rows: _in_parts(h[:rows], w, a[:rows], rows), "50 actions"),
            (lambda h, w, a, rows: _in_parts(h, w, a.flip(0), rows), "looked up in its own row"),
            (lambda h, w, a, rows: _in_parts(h, w, a, 10**6), "The values are right, but"),
            (lambda h, w, a, rows: (h @ w.T).log_softmax(0).gather(1, a[:, None]).squeeze(1), "The values are wrong"),
        ],
        asks_more=True,
    ),
    Exercise(
        6,
        "problems",
        _step_problem,
        [_names(), lambda step, gap: sorted(_names()(step, gap))],
        [
            (_names(cut=lambda step, gap: step["cut"] > 0), "a few long answers are normal"),
            (_names(cut=lambda step, gap: step["cut"] >= step["sequences"] / 10), "and not more"),
            (_names(cut=lambda step, gap: step["cut"] > 51), "more than a tenth"),
            (_names(sampler=lambda step, gap: step["sampler_gap"] > 0.05), "comes with the question"),
            (_names(sampler=lambda step, gap: step["sampler_gap"] >= gap), "not above it"),
            (_names(silent=lambda step, gap: step["grad_norm"] < 0.01), "a small gradient is a gradient"),
            (_names(silent=lambda step, gap: step["grad_norm"] != 0), "a sound step"),
            (lambda step, gap: "cut" if step["cut"] > step["sequences"] / 10 else "", "Return a set"),
            (lambda step, gap: set(list(_names()(step, gap))[:1]), "all silent"),
            (lambda step, gap: set(), "never came to their end"),
            (lambda step, gap: {"cut": step["cut"] > 51}, "Return a set"),
        ],
    ),
]
