"""The last step of a language model: from the hidden states that its body returns to logits.

Many families do more in it than multiply by the head: they scale or cap the logits, scale the hidden states, or have
several layers. Therefore the ``forward`` of the model's own class computes it. It runs on a twin of the model, which
shares all modules except for the body; the body's twin returns the given hidden states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from proma_bench.language.precision import computing_in


class LastStep:
    """Computes logits from hidden states, with the model's own code and its present weights."""

    def __init__(self, model: nn.Module, body: str, dtype: torch.dtype | None = None) -> None:
        """Store the model.

        Args:
            model: the language model.
            body: the name of its body, see `body_of`.
            dtype: type of the computation, see `proma_bench.language.precision`.
        """
        self.model, self._path, self._dtype = model, body.split("."), dtype

    def __call__(self, hidden: Float[Tensor, "B T hidden"]) -> Float[Tensor, "B T vocabulary"]:
        """The logits.

        Args:
            hidden: what the body returned for some positions.
        """
        states = _States((hidden,))
        tokens = torch.zeros(hidden.shape[:2], dtype=torch.long, device=hidden.device)  # only their shape matters
        twin = _with_body(self.model, self._path, lambda *_, **__: states)
        with computing_in(self._dtype, hidden.device):
            logits: Tensor = twin(input_ids=tokens).logits
        return logits

    def snapshot(self) -> LastStep:
        """A copy that does not change when the weights change. The weights of the body are not copied."""
        body = self.model.get_submodule(".".join(self._path))
        return LastStep(_copied(self.model, body, self._dtype), ".".join(self._path), self._dtype)


def body_of(model: PreTrainedModel) -> str:
    """The name of the body of a model, which computes the last hidden states: the module that it calls first.

    Neither ``base_model`` nor ``get_decoder`` is this module for all families.

    Args:
        model: the language model.

    Returns:
        Its name among the modules of the model.
    """

    def stop(module: nn.Module, inputs: object) -> None:
        raise _Called(module)

    names = {module: name for name, module in model.named_modules() if name}
    hooks = [module.register_forward_pre_hook(stop) for module in names]
    try:
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device))
    except _Called as called:
        return names[called.module]
    finally:
        for hook in hooks:
            hook.remove()
    raise ValueError(f"{type(model).__name__} calls none of its modules")


class _Called(Exception):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class _States(tuple[Tensor, ...]):
    """The output of a body that has nothing but hidden states."""

    @property
    def last_hidden_state(self) -> Tensor:
        return self[0]

    def __getattr__(self, name: str) -> None:
        return None


def _twin(module: nn.Module) -> nn.Module:
    twin = object.__new__(type(module))
    twin.__dict__.update(module.__dict__)
    return twin


def _with_body(module: nn.Module, path: Sequence[str], forward: Callable[..., Any]) -> nn.Module:
    """A twin in which the module at a path has another ``forward``."""
    twin = _twin(module)
    if path:
        child = _with_body(module.get_submodule(path[0]), path[1:], forward)
        twin.__dict__["_modules"] = {**module._modules, path[0]: child}
    else:
        twin.__dict__["forward"] = forward
    return twin


def _copied(module: nn.Module, body: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """A twin with copies of the trained weights, except for the body. Those of linear layers are converted."""
    if module is body:
        return module
    to = dtype if isinstance(module, nn.Linear) else None
    twin = _twin(module)
    twin.__dict__.pop("forward", None)  # PROMA's, which would use the weights of the module
    twin.__dict__["_parameters"] = {
        name: parameter.detach().to(to, copy=True) if parameter is not None and parameter.requires_grad else parameter
        for name, parameter in module._parameters.items()
    }
    twin.__dict__["_modules"] = {name: child and _copied(child, body, dtype) for name, child in module._modules.items()}
    return twin
