"""Microbatches of several threads at once: each sees its own backward passes, and torch is left as it was."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from trust import ADVANTAGES, X2, X, double, score

from proma_bench import Proma
from proma_bench.backward.interception import intercepted


def passed_on(seen: list[str], name: str) -> Callable[..., None]:
    def handle(backward: Callable[..., None], roots: list[Any], options: dict[str, Any]) -> None:
        seen.append(name)
        backward(roots, **options)

    return handle


def test_contexts_may_end_in_another_order_than_they_began() -> None:
    original, seen = torch.autograd.backward, list[str]()
    first, second = intercepted(passed_on(seen, "first")), intercepted(passed_on(seen, "second"))
    first.__enter__()
    second.__enter__()
    weight = torch.ones(2, requires_grad=True)
    weight.sum().backward()
    first.__exit__(None, None, None)
    weight.sum().backward()
    second.__exit__(None, None, None)
    weight.sum().backward()
    assert seen == ["second", "first", "second"]
    assert torch.equal(weight.grad, torch.full((2,), 3.0))
    assert torch.autograd.backward is original


def gradients(seed: int, wait: Callable[[], object]) -> list[Tensor]:
    model = double(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), seed)
    with Proma(model) as proma:
        for rows in (X, X2, X):
            log_probs = score(model(rows))
            with proma.microbatch(ADVANTAGES):
                wait()
                (-log_probs.sum()).backward()
    return [parameter.grad for parameter in model.parameters()]


def test_several_threads_train_models_of_their_own() -> None:
    original, interval = torch.autograd.backward, sys.getswitchinterval()
    wanted = [gradients(seed, lambda: None) for seed in range(3)]
    found: dict[int, list[Tensor]] = {}
    barrier = threading.Barrier(3, timeout=60)
    threads = [
        threading.Thread(target=lambda seed=seed: found.update({seed: gradients(seed, barrier.wait)}))
        for seed in range(3)
    ]
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert torch.autograd.backward is original
    for seed, want in enumerate(wanted):
        assert all(map(torch.equal, found[seed], want))
