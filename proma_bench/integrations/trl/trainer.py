"""PROMA in Hugging Face TRL: `PROMATrainer` is a `GRPOTrainer` whose update is PROMA's.

Sampling, rewards, advantages, logging, checkpoints and everything that accelerate does are TRL's. Only the backward
pass differs: the loss is minus the sum of the sequences' weighted log-probs, without advantages, and `Proma` brings the
advantages in, layer by layer. TRL's microbatch (``per_device_train_batch_size`` sequences) is PROMA's, and
``gradient_accumulation_steps`` of them make one optimizer step. Settings that this cannot express are refused when the
trainer is made, see `refusals`.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import get_config_model_id, selective_log_softmax_and_entropy

from proma_bench.backward.proma import Proma
from proma_bench.backward.records import averages
from proma_bench.integrations.trl.config import PROMAConfig
from proma_bench.integrations.trl.refusals import refuse_settings, refuse_setup

CHUNK = 2**24
"""Logits that are kept for measuring the local KL: 64 MiB in float32."""


class PROMATrainer(GRPOTrainer):  # type: ignore[misc]  # without its package, Any
    """GRPOTrainer with PROMA's update; takes what GRPOTrainer takes.

    Its logs have ``local_kl`` (from the policy before an optimizer step to the one after it, over whole distributions,
    at positions of the step's last microbatch), ``removed_ratio`` and ``clamped`` (the mean over tensors, microbatches
    and processes), and no clip ratios. ``loss`` is the mean negative log-prob of sampled tokens.

    Raises:
        ValueError: a setting's gradient is no combination of the sequences' gradients, `Proma` cannot be attached to
            the model, or the way of distribution hides the running gradient.
    """

    _tag_names: ClassVar[list[str]] = ["trl", "proma"]  # for the model card, as is the rest
    _name = "PROMA"
    _paper: ClassVar[dict[str, str]] = {"title": "Projected Microbatch Accumulation", "id": "2601.10498"}

    def __init__(
        self,
        model: str | PreTrainedModel | nn.Module,
        reward_funcs: Any = None,
        args: GRPOConfig | None = None,
        *others: Any,
        **options: Any,
    ) -> None:
        if args is None:
            name = model if isinstance(model, str) else get_config_model_id(model.config)
            args = PROMAConfig(f"{name.split('/')[-1]}-PROMA")
        if not isinstance(args, PROMAConfig):
            raise TypeError(f"args must be a PROMAConfig, got {type(args).__name__}")
        refuse_settings(args)
        projection = args.projection_config
        super().__init__(model, reward_funcs, args, *others, **options)
        refuse_setup(self)
        Proma(self.model, projection, uncovered=args.uncovered).remove()  # raises where it cannot be attached
        self._proma: Proma | None = None
        self._backward = ExitStack()
        self._measured: tuple[nn.Module, dict[str, Any], Tensor] | None = None
        self.add_callback(_AfterStep(self))

    def train(self, *args: Any, **options: Any) -> Any:
        """As in the base class; afterwards only the model's weights have changed."""
        try:
            return super().train(*args, **options)
        finally:
            if self._proma is not None:
                self._proma.remove()
                self._proma = None

    # ------------------------------------------------------------------------------------------- the update

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """One microbatch: `compute_loss` opens PROMA's backward pass as soon as it has the advantages; it ends here."""
        if self._proma is None:  # only now has accelerate wrapped the model, and replaced its parameters
            settings = self.args.projection_config
            self._proma = Proma(model, settings, record=True, uncovered=self.args.uncovered)
        with ExitStack() as self._backward:
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            stats = averages(self._proma.stats())
            self._proma.clear_stats()
            self._log_mean("removed_ratio", stats["removed_ratio"])
            self._log_mean("clamped", stats["clamped"])
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Minus the sum of the sequences' weighted log-probs. In training, the backward pass after it is PROMA's."""
        if return_outputs:
            raise ValueError("PROMATrainer does not return outputs")
        if self.model.training and self.accelerator.sync_gradients:
            self._measured = model, inputs, self._distributions(model, inputs)
        mask = _loss_mask(inputs)
        log_probs, entropy = selective_log_softmax_and_entropy(
            self._logits(model, inputs),
            inputs["completion_ids"],
            entropy_requires_grad=False,
            temperature=self.temperature,
        )
        self._log_mean("entropy", *_sum_and_count(entropy, mask))
        loss: Tensor = -(self._token_weights(inputs, mask) * (log_probs * mask).sum(dim=1)).sum()
        if self.model.training:
            assert self._proma is not None
            self._backward.enter_context(self._proma.microbatch(_advantages(inputs)))
        return loss

    def _logits(self, model: nn.Module, inputs: dict[str, Any]) -> Float[Tensor, "B T vocabulary"]:
        """Of all completion tokens, by a plain call: GRPOTrainer's bypasses the head, which PROMA must see called."""
        length = inputs["completion_ids"].shape[1]
        with self.accelerator.autocast():
            logits = model(
                input_ids=torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
                attention_mask=torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1),
                logits_to_keep=length + 1,
                use_cache=False,
            ).logits
        logits = logits[:, -length - 1 : -1]
        result: Tensor = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return result

    def _token_weights(self, inputs: dict[str, Any], mask: Tensor) -> Tensor | float:
        """What a token of each sequence weighs [B] or [], by ``loss_type``; the mean over processes comes on top.

        dapo: all tokens of an optimizer step alike, on average over the steps that share a batch of samples; the
        paper's token-mean. bnpo: all of a microbatch alike. grpo: all sequences alike, whatever their length. dr_grpo:
        one over the sequences and ``max_completion_length``.
        """
        training = self.model.training  # otherwise there is one microbatch, and no step
        microbatches = self.current_gradient_accumulation_steps if training else 1
        if self.loss_type == "dapo":
            tokens = inputs["num_items_in_batch"].clamp(min=1) / self.accelerator.num_processes
            weights: Tensor = 1 / (tokens * microbatches / self.args.steps_per_generation if training else tokens)
            return weights
        if self.loss_type == "bnpo":
            return 1 / (mask.sum().clamp(min=1) * microbatches)
        if self.loss_type == "grpo":
            return 1 / (mask.sum(dim=1).clamp(min=1) * len(mask) * microbatches)
        return 1.0 / float(self.max_completion_length * len(mask) * microbatches)

    # ----------------------------------------------------------------------------------------- measurements

    @torch.no_grad()
    def _distributions(self, model: nn.Module, inputs: dict[str, Any]) -> Float[Tensor, "rows vocabulary"]:
        """Log-probs of all tokens at completion positions, evenly spaced, as many as fit into one chunk."""
        training = model.training
        model.eval()  # without dropout
        logits = self._logits(model, inputs)
        model.train(training)
        rows = _loss_mask(inputs).nonzero()
        spacing = max(1, -(-len(rows) * logits.shape[-1] // CHUNK))
        sequence, position = rows[::spacing].unbind(dim=1)
        result: Tensor = (logits[sequence, position] / self.temperature).log_softmax(dim=-1)
        return result

    def log_local_kl(self) -> None:
        """KL(before || after) of the optimizer step that has just been made."""
        if self._measured is None:
            return
        model, inputs, before = self._measured
        after = self._distributions(model, inputs)
        divergence = (before.exp() * (before - after)).sum(dim=-1)
        self._log_mean("local_kl", divergence.sum(), float(len(divergence)))
        self._measured = None

    def _log_mean(self, name: str, total: Tensor | float, count: Tensor | float = 1.0) -> None:
        """Log total over count, both summed over the processes; TRL leaves out what is 0 / 0."""
        sums = torch.tensor([float(total), float(count)], device=self.accelerator.device)
        sums = self.accelerator.reduce(sums, reduction="sum")
        mode = "train" if self.model.training else "eval"
        self._metrics[mode][name].append(float(sums[0] / sums[1]))


class _AfterStep(TrainerCallback):
    def __init__(self, trainer: PROMATrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.trainer.log_local_kl()


def _loss_mask(inputs: dict[str, Any]) -> Int[Tensor, "B T"]:
    """1 where a token is the policy's own: neither padding nor a tool's answer."""
    mask: Tensor = inputs["completion_mask"]
    return mask * inputs["tool_mask"] if "tool_mask" in inputs else mask


def _advantages(inputs: dict[str, Any]) -> Float[Tensor, " B"]:
    """Times the sequences' weights where vLLM's own log-probs differ from the model's."""
    advantages: Tensor = inputs["advantages"]
    ratio = inputs.get("importance_sampling_ratio")
    return advantages if ratio is None else advantages * ratio.squeeze(1)


def _sum_and_count(values: Float[Tensor, "B T"], mask: Int[Tensor, "B T"]) -> tuple[Tensor, Tensor]:
    return (values * mask).sum(), mask.sum()
