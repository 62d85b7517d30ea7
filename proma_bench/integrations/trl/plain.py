"""Terms of the loss that are accumulated plainly, beside the gradient that is projected.

GRPOTrainer's loss with advantages of zero is what is left of it without the policy's term: the KL penalty, the entropy
bonus and the load-balancing loss of a mixture of experts, with all of their settings. Its gradient R is no combination
of the sequences' log-prob gradients S_i. It is kept apart from the running gradient A, so that no projection sees it:
after M microbatches the step is A_M + R_1 + ... + R_M.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from trl import GRPOTrainer

if TYPE_CHECKING:
    from proma_bench.integrations.trl.trainer import PROMATrainer

LOGGED = {"kl", "entropy_coef", "aux_loss"}
"""What GRPOTrainer logs of these terms; the rest of its log is about the policy's term."""


def has_plain_terms(trainer: PROMATrainer) -> bool:
    """Whether any of them is switched on."""
    return bool(trainer.beta != 0.0 or trainer._entropy_bonus_enabled or trainer.aux_loss_enabled)


class PlainTerms:
    """Gradients R of one optimizer step, by parameter."""

    def __init__(self) -> None:
        self._gradients: dict[nn.Parameter, Tensor] = {}

    def accumulate(self, trainer: PROMATrainer, inputs: Mapping[str, Any]) -> None:
        """One more forward and backward pass over a microbatch that has been projected."""
        metrics, trainer._metrics = trainer._metrics, {"train": defaultdict(list)}
        try:
            without_policy = {**inputs, "advantages": torch.zeros_like(inputs["advantages"])}
            with self._apart(trainer.model):
                trainer.accelerator.backward(GRPOTrainer._compute_loss(trainer, trainer.model, without_policy))
            found = trainer._metrics["train"]
        finally:
            trainer._metrics = metrics
        for name in LOGGED & found.keys():
            metrics["train"][name] += found[name]

    @contextmanager
    def _apart(self, model: nn.Module) -> Iterator[None]:
        """In this context, ``param.grad`` is R."""
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        running = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = self._gradients.get(parameter)
        try:
            yield
        finally:
            for parameter, gradient in zip(parameters, running, strict=True):
                if parameter.grad is not None:
                    self._gradients[parameter] = parameter.grad
                parameter.grad = gradient

    def add_to_step(self, trainer: PROMATrainer) -> None:
        """Add their mean over the processes to ``param.grad``, and begin another step."""
        for parameter in trainer.model.parameters():
            if not parameter.requires_grad:
                continue
            gradient = self._gradients.pop(parameter, None)  # an expert without a token has none on this process alone
            gradient = torch.zeros_like(parameter) if gradient is None else gradient
            mean = trainer.accelerator.reduce(gradient, reduction="mean")
            parameter.grad = mean if parameter.grad is None else parameter.grad.add_(mean)
