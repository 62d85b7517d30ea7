"""PROMA in Hugging Face TRL: `PROMATrainer` is a `GRPOTrainer` whose update is PROMA's.

Sampling, rewards, advantages, logging, checkpoints and everything that accelerate does are TRL's. Only the backward
pass differs: the loss is minus the sum of the sequences' weighted log-probs, without advantages, and `Proma` brings the
advantages in, layer by layer. A backward pass takes TRL's batch of a device (``per_device_train_batch_size`` sequences)
as successive microbatches of ``projection_microbatch``, and ``gradient_accumulation_steps`` of such passes make one
optimizer step. Other terms of the loss are accumulated beside it, see `plain`. Settings that this cannot express are
refused when the trainer is made, see `refusals`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
import trl
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import get_config_model_id, selective_log_softmax_and_entropy

from proma_bench.backward.proma import Proma
from proma_bench.integrations.adapter import TrainerAdapter
from proma_bench.integrations.rule import refuse_projection_settings
from proma_bench.integrations.trl.config import PROMAConfig, microbatch_size
from proma_bench.integrations.trl.plain import PlainTerms, has_plain_terms
from proma_bench.integrations.trl.refusals import refuse_overrides, refuse_settings, refuse_setup
from proma_bench.integrations.trl.trial import try_backward_pass
from proma_bench.integrations.trl.versions import warn_if_unchecked
from proma_bench.projection.updates import AnyRule, as_rule, memory_size

CHUNK = 2**24
"""Logits that are kept for measuring the local KL: 64 MiB in float32."""


class PROMATrainer(GRPOTrainer):  # type: ignore[misc]  # without its package, Any
    """GRPOTrainer with PROMA's update; takes what GRPOTrainer takes, and an update rule.

    Its logs have ``local_kl`` (from the policy before an optimizer step to the one after it, over whole distributions,
    at positions of the step's last microbatch), ``removed_ratio`` and ``clamped`` (the mean over tensors, microbatches
    and processes), and no clip ratios. ``loss`` is the mean negative log-prob of sampled tokens.

    Args:
        model: see GRPOTrainer, as for all that follows.
        reward_funcs: likewise.
        args: a `PROMAConfig`.
        others: likewise.
        rule: how a microbatch updates the running gradient, in the place of ``args.projection``: what `Proma` takes.
        options: likewise.

    Raises:
        ValueError: a setting's gradient is no combination of the sequences' gradients, `Proma` cannot be attached to
            the model or refuses its backward pass, or the way of distribution hides the running gradient.
        TypeError: the settings are not PROMA's, or a subclass overrides a loss that is never called.
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
        rule: AnyRule | None = None,
        **options: Any,
    ) -> None:
        warn_if_unchecked(trl.__version__)
        if args is None:
            name = model if isinstance(model, str) else get_config_model_id(model.config)
            args = PROMAConfig(f"{name.split('/')[-1]}-PROMA")
        if not isinstance(args, PROMAConfig):
            raise TypeError(f"args must be a PROMAConfig, got {type(args).__name__}")
        refuse_overrides(type(self), GRPOTrainer)
        refuse_settings(args)
        if rule is not None:
            refuse_projection_settings(args, "a rule that the trainer is given")
        self.rule = args.update_rule if rule is None else as_rule(rule)
        self.microbatch_size = microbatch_size(args, self.rule)
        super().__init__(model, reward_funcs, args, *others, **options)
        refuse_setup(self)
        try_backward_pass(self)
        self._adapter: TrainerAdapter | None = None
        self._plain_terms = PlainTerms() if has_plain_terms(self) else None
        self._inputs: dict[str, Any] = {}
        self._measured: tuple[nn.Module, dict[str, Any], Tensor] | None = None
        self._resumed_from: Path | None = None
        self.add_callback(_AfterStep(self))

    def train(self, *args: Any, **options: Any) -> Any:
        """As in the base class; afterwards only the model's weights have changed."""
        try:
            return super().train(*args, **options)
        finally:
            if self._adapter is not None:
                self._adapter.remove()
                self._adapter = None

    # ------------------------------------------------------------------------------------------- the update

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """One backward pass, for which `compute_loss` hands the advantages over as soon as it has them."""
        if self._adapter is None:  # only now has accelerate wrapped the model, and replaced its parameters
            self._adapter = TrainerAdapter(model, self.rule, uncovered=self.args.uncovered)
            self._load_memory(self._adapter.proma)
        with self._adapter.backward_pass():
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        if self._plain_terms is not None:
            self._plain_terms.accumulate(self, self._inputs)
        if self.accelerator.sync_gradients:
            if self._plain_terms is not None:
                self._plain_terms.add_to_step(self)
            summary = self._adapter.summary()
            self._log_mean("removed_ratio", summary["removed_ratio"])
            self._log_mean("clamped", summary["clamped"])
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
        self._inputs = inputs
        if self.model.training and self.accelerator.sync_gradients and self._measures_local_kl():
            last = _last_microbatch(inputs, self.microbatch_size)
            self._measured = model, last, self._distributions(model, last)
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
            assert self._adapter is not None
            self._adapter.hand_over(loss, log_probs, _advantages(inputs), microbatch_size=self.microbatch_size)
        return loss

    def _logits(
        self, model: nn.Module, inputs: dict[str, Any], positions: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "B n vocabulary"]:
        """Of completion tokens, by a plain call: GRPOTrainer's bypasses the head, which PROMA must see called.

        positions: which of them, all if None.
        """
        length = inputs["completion_ids"].shape[1]
        from_end = None if positions is None else positions - length - 1  # logits are of the next token
        with self.accelerator.autocast():
            logits = model(
                input_ids=torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
                attention_mask=torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1),
                logits_to_keep=length + 1 if from_end is None else from_end,
                use_cache=False,
            ).logits
        if from_end is None:
            logits = logits[:, -length - 1 : -1]
        elif logits.shape[1] != len(from_end):  # a model that keeps all
            logits = logits[:, from_end]
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

    def _measures_local_kl(self) -> bool:
        every: int = self.args.local_kl_every
        return every > 0 and self.state.global_step % every == 0

    @torch.no_grad()
    def _distributions(self, model: nn.Module, inputs: dict[str, Any]) -> Float[Tensor, "rows vocabulary"]:
        """Log-probs of all tokens at completion positions, evenly spaced; no more logits exist than a chunk has."""
        training = model.training
        sequences, length = inputs["completion_ids"].shape
        vocabulary = self.model.config.get_text_config().vocab_size
        spacing = max(1, -(-sequences * length * vocabulary // CHUNK))
        positions = torch.arange(0, length, spacing, device=inputs["completion_ids"].device)
        model.eval()  # without dropout
        logits = self._logits(model, inputs, positions)
        model.train(training)
        own = _loss_mask(inputs)[:, positions].bool()
        result: Tensor = (logits[own] / self.temperature).log_softmax(dim=-1)
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

    # ------------------------------------------------------------------------- what a rule keeps of earlier steps

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As in the base class, and each process's memory of the update rule, if it has one."""
        super()._save_checkpoint(model, trial)
        if self._adapter is not None and (memory := self._adapter.proma.state_dict()):
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            save_file(memory, folder / self._memory_name())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        self._resumed_from = None if checkpoint is None else Path(checkpoint)

    def _load_memory(self, proma: Proma) -> None:
        """Go on with the memory of the checkpoint.

        Raises:
            ValueError: it has none of this process, as that of a run on fewer processes, or with another rule.
        """
        if self._resumed_from is None or not memory_size(self.rule):
            return
        path = self._resumed_from / self._memory_name()
        if not path.is_file():
            raise ValueError(f"{path} is missing, without which the update rule cannot go on: resume as it was started")
        proma.load_state_dict(load_file(path))

    def _memory_name(self) -> str:
        return f"update_rule_{self.accelerator.process_index}.safetensors"


class _AfterStep(TrainerCallback):
    def __init__(self, trainer: PROMATrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.trainer.log_local_kl()


def _loss_mask(inputs: dict[str, Any]) -> Int[Tensor, "B T"]:
    """1 where a token is the policy's own: neither padding nor a tool's answer."""
    mask: Tensor = inputs["completion_mask"]
    return mask * inputs["tool_mask"] if "tool_mask" in inputs else mask


def _last_microbatch(inputs: dict[str, Any], size: int) -> dict[str, Any]:
    """The last of the microbatches that a device's batch is split into: what a measurement needs of it."""
    names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "tool_mask")
    start = (len(inputs["completion_ids"]) - 1) // size * size
    return {name: inputs[name][start:] for name in names if name in inputs}


def _advantages(inputs: dict[str, Any]) -> Float[Tensor, " B"]:
    """Times the sequences' weights where vLLM's own log-probs differ from the model's."""
    advantages: Tensor = inputs["advantages"]
    ratio = inputs.get("importance_sampling_ratio")
    return advantages if ratio is None else advantages * ratio.squeeze(1)


def _sum_and_count(values: Float[Tensor, "B T"], mask: Int[Tensor, "B T"]) -> tuple[Tensor, Tensor]:
    return (values * mask).sum(), mask.sum()
