"""Beside ``torch.compile``: layers with a rule run as they are, and what lies between them may be compiled.

Nothing in here imports the compiler, which takes seconds, if the user has not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch._C._dynamo import eval_frame

COMPILED = "CompiledFunctionBackward"  # the name of the node of a compiled region; each has a class of its own
_Function = TypeVar("_Function", bound=Callable[..., Any])


def uncompiled(function: _Function) -> _Function:
    """Decorate a function that the compiler must leave alone, with everything that it calls.

    As `torch.compiler.disable` does, but that imports the compiler. The mark breaks the graph of a caller that is
    traced. The strategy, kept with the function's own code, is for the call that follows, and for calls by autograd.
    """
    actions, strategy = getattr(eval_frame, "_FrameAction", None), getattr(eval_frame, "_FrameExecStrategy", None)
    if actions is None or strategy is None:  # torch 2.6
        return torch.compiler.disable(function)  # type: ignore[no-any-return,no-untyped-call]
    eval_frame.set_code_exec_strategy(function.__code__, strategy(actions.SKIP, actions.SKIP))
    marked: Any = function
    marked._torchdynamo_disable = True
    marked._torchdynamo_disable_msg = "a Proma is attached; compile without fullgraph=True"
    return function


def keep_buffers() -> None:
    """What is compiled from now on keeps what it has saved for its backward function.

    By default it gives that memory to its results, so that it can be differentiated once only, and there are passes
    that look at the rows. Compiled code that the taps came into needs no more: the compiler guards each ``forward``.
    """
    import torch._functorch.config as config

    if hasattr(config, "donated_buffer"):
        config.donated_buffer = False


def is_compiled(node: Any) -> bool:
    """Whether this node of a graph is a compiled region."""
    return type(node).__name__ == COMPILED


def refuse_compiled(nodes: Iterable[Any]) -> None:
    """Raise ValueError where a compiled region cannot be differentiated more than once."""
    dynamo: Any = sys.modules.get("torch._dynamo.compiled_autograd")
    if dynamo is not None and dynamo.compiled_autograd_enabled:
        raise ValueError(
            "the backward pass of a microbatch cannot be compiled, as its layers' gradients are changed within it; "
            "leave out compiled autograd (torch._dynamo.config.compiled_autograd)"
        )
    for node in nodes:
        if is_compiled(node) and getattr(getattr(node._forward_cls, "metadata", None), "bw_donated_idxs", None):
            raise ValueError(
                "log_probs depends on a region that was compiled, before Proma was attached, to be differentiated "
                "only once (torch._functorch.config.donated_buffer); call torch.compiler.reset(), and compute "
                "log_probs again"
            )
