"""One microbatch of a work: with plain autograd, with the literal hooks, with PROMA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from benchmarks.literal import LiteralHooks
from benchmarks.works import Work
from proma_bench import ProjectionConfig, Proma

PLAIN = "plain autograd"

Microbatch = Callable[[], None]


def plain(work: Work, module: nn.Module) -> Microbatch:
    return lambda: work.backward(work.forward(module), work.advantages)


def literal(work: Work, module: nn.Module, method: str) -> Microbatch:
    return _attached(work, module, LiteralHooks(module, ProjectionConfig(method)))


def ours(work: Work, module: nn.Module, method: str, **options: Any) -> Microbatch:
    return _attached(work, module, Proma(module, ProjectionConfig(method), **options))


def _attached(work: Work, module: nn.Module, hooks: LiteralHooks | Proma) -> Microbatch:
    def microbatch() -> None:
        output = work.forward(module)
        with hooks.microbatch(work.advantages):
            work.backward(output)

    return microbatch
