"""PROMA in VeRL: a plug-in that VeRL finds by itself, in the entry-point group ``verl.plugins``.

    python -m verl.trainer.main_ppo \
        actor_rollout_ref.actor._target_=proma_bench.integrations.verl.PromaActorConfig \
        actor_rollout_ref.actor.policy_loss.loss_mode=proma actor_rollout_ref.actor.strategy=fsdp2 ...

Rollouts, rewards, advantages, sharding and everything that Ray does are VeRL's. Only the backward pass of
the actor differs: the policy loss is minus the weighted sum of the log-probs, without advantages, and the engine brings
the advantages in, layer by layer, with `Proma`. VeRL's microbatch (``ppo_micro_batch_size_per_gpu`` sequences) is
PROMA's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, fields
from typing import Any, Literal

from jaxtyping import Bool, Float, Int
from tensordict import TensorDict
from torch import Tensor
from verl.trainer.ppo.core_algos import agg_loss, register_policy_loss
from verl.utils import tensordict_utils
from verl.utils.torch_functional import masked_mean
from verl.workers.config import ActorConfig, FSDPActorConfig, PolicyLossConfig
from verl.workers.engine import EngineRegistry, FSDPEngineWithLMHead
from verl.workers.utils.losses import ppo_loss

from proma_bench.backward.uncovered import require_uncovered, uncovered_setting
from proma_bench.integrations.adapter import TrainerAdapter, packed_sequence_ids, sequence_advantages
from proma_bench.integrations.rule import update_rule
from proma_bench.projection.config import setting
from proma_bench.projection.recursion import PassRule
from proma_bench.projection.updates import UpdateRule


@dataclass
class PromaActorConfig(FSDPActorConfig):  # type: ignore[misc]  # without its package, Any
    """VeRL's actor settings, and how the running gradient is projected. The defaults of the projection are the paper's.

    Attributes:
        projection: see `ProjectionConfig.method`; or the name of another update rule, ``isopo`` for one.
        sweeps: see `ProjectionConfig`.
        max_removed: see `ProjectionConfig`.
        shrinkage: see `ProjectionConfig`.
        projection_rank: see `ProjectionConfig.rank`.
        uncovered: see `Proma`; under fully_shard it must be ``refuse``.

    Raises:
        ValueError: a value is out of range or has no effect, or a setting's gradient is no combination of the
            sequences' gradients.
    """

    projection: str = setting("projection")
    sweeps: int = setting("sweeps")
    max_removed: float | None = setting("max_removed")
    shrinkage: float = setting("shrinkage")
    projection_rank: int = setting("projection_rank")
    uncovered: Literal["refuse", "autograd"] = uncovered_setting()

    __no_type_check__ = True  # at runtime: VeRL hands over mappings where it declares dataclasses

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.update_rule, PassRule):
            raise ValueError(
                f"projection={self.projection} needs all microbatches in one backward pass, and VeRL makes one for each"
            )
        require_uncovered(self.uncovered)
        for name, value, needed, reason in self._requirements():
            if value != needed:
                needed = "null" if needed is None else needed
                raise ValueError(f"PROMA needs actor_rollout_ref.{name}={needed}, got {value}: {reason}")
        if self.loss_agg_mode == "seq-mean-token-sum-norm" and self.loss_scale_factor is None:
            raise ValueError(
                "PROMA needs actor_rollout_ref.actor.loss_scale_factor for loss_agg_mode=seq-mean-token-sum-norm: "
                "without it VeRL divides by the longest answer of each microbatch, so that microbatches would weigh "
                "differently; set it to the value of data.max_response_length"
            )

    @property
    def update_rule(self) -> UpdateRule:
        """What ``projection`` names, with these settings, for `Proma`."""
        return update_rule(self)

    def _requirements(self) -> Iterator[tuple[str, Any, Any, str]]:
        """Settings by name, their values, the values that they must have, and why."""
        engine = self.fsdp_config
        combination = "its gradient is no combination of the sequences' gradients"
        yield "actor.strategy", self.strategy, "fsdp2", "the plug-in is an engine of FSDP2"
        yield (
            "actor.policy_loss.loss_mode",
            self.policy_loss.loss_mode,
            "proma",
            "any other loss has the advantages in it, and most weigh tokens by likelihood ratios",
        )
        yield (
            "actor.ppo_epochs",
            self.ppo_epochs,
            1,
            "another pass over the same answers would need the likelihood ratios that PROMA does without",
        )
        for name, value, default in self._of_other_losses():
            yield name, value, default, "it belongs to another loss, and would have no effect"
        yield "actor.entropy_coeff", self.entropy_coeff, 0, f"of an entropy term, {combination}"
        yield "actor.use_kl_loss", self.use_kl_loss, False, f"of a KL term, {combination}"
        yield (
            "actor.use_dynamic_bsz",
            self.use_dynamic_bsz,
            False,
            "the microbatch is part of the algorithm, and would vary with the length of answers",
        )
        yield (
            "model.use_fused_kernels",
            self.use_fused_kernels,
            False,
            "the head's module is not called then, and its gradient would be missed",
        )
        yield "actor.use_prefix_grouper", self.use_prefix_grouper, False, "a shared prompt is no single sequence's"
        yield (
            "actor.ulysses_sequence_parallel_size",
            engine.ulysses_sequence_parallel_size,
            1,
            "a process would see parts of sequences",
        )
        yield (
            "actor.fsdp_config.use_no_sync_for_gradient_accumulation",
            engine.use_no_sync_for_gradient_accumulation,
            True,
            "each process projects its own running gradient, which must not be averaged before the last microbatch",
        )
        yield (
            "actor.fsdp_config.qat.enable",
            engine.qat.enable,
            False,
            "layers that quantise weights have no rule, and under fully_shard there is no other way",
        )
        yield (
            "actor.uncovered",
            self.uncovered,
            "refuse",
            "under fully_shard nothing tests whether sequences are mixed, and no pass is made for each of them",
        )

    def _of_other_losses(self) -> Iterator[tuple[str, Any, Any]]:
        """Settings by name that only losses with a likelihood ratio read, their values and their defaults."""
        for field in fields(FSDPActorConfig):
            if field.name.startswith(("clip_ratio", "tau_")):
                yield f"actor.{field.name}", getattr(self, field.name), field.default
        for field in fields(PolicyLossConfig):
            if field.name not in ("loss_mode", "rollout_correction"):
                yield f"actor.policy_loss.{field.name}", getattr(self.policy_loss, field.name), field.default


# What the policy loss tells the engine that is about to go backward: the microbatch's log-probs [B, T], advantages [B].
_handed_over: ContextVar[list[tuple[Tensor, Tensor]]] = ContextVar("_handed_over")


@register_policy_loss("proma")  # type: ignore[untyped-decorator]
def proma_loss(
    old_log_prob: Float[Tensor, "B T"],
    log_prob: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    response_mask: Bool[Tensor, "B T"],
    loss_agg_mode: str = "token-mean",
    config: ActorConfig | None = None,
    rollout_is_weights: Float[Tensor, "B T"] | None = None,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """Minus the log-probs, weighted and summed as ``loss_agg_mode`` says; the advantages go to the engine.

    The old log-probs are there for the metric ``actor/ppo_kl`` alone.

    Raises:
        ValueError: importance weights or advantages differ from token to token.
        RuntimeError: the engine is not PROMA's, so that the advantages would be lost.
    """
    handed_over = _handed_over.get(None)
    if handed_over is None or config is None:
        raise RuntimeError(
            "loss_mode=proma needs PROMA's engine: set actor_rollout_ref.actor._target_="
            f"{PromaActorConfig.__module__}.{PromaActorConfig.__name__} and, where GPUs are not NVIDIA's, the "
            "environment variables VERL_ENGINE_DEVICE=cuda and VERL_ENGINE_VENDOR=nvidia, by which VeRL finds it"
        )
    if rollout_is_weights is not None:
        raise ValueError(
            "PROMA needs algorithm.rollout_correction.rollout_is=null: weighted by token, the gradient is no "
            "combination of the sequences' gradients"
        )
    handed_over.append((log_prob, _sequence_advantages(advantages, response_mask)))
    loss = agg_loss(-log_prob, response_mask, loss_agg_mode, **config.global_batch_info)
    return loss, {"actor/ppo_kl": masked_mean(old_log_prob - log_prob, response_mask).item()}


def _sequence_advantages(advantages: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, " B"]:
    """The one advantage of every sequence's tokens; zero where a sequence has none."""
    try:
        return sequence_advantages(advantages, mask)
    except ValueError as error:
        raise ValueError(
            f"{error}: set algorithm.adv_estimator to one that is constant over an answer, such as grpo or rloo"
        ) from None


METRICS = ("removed_ratio", "clamped", "effective_rank", "conflicts", "prompts_per_microbatch")
"""What is logged, under ``actor/``; the third and fourth by the rule ``observe`` alone."""


@EngineRegistry.register(model_type="language_model", backend="fsdp2", device="cuda", vendor="nvidia")
class PromaEngine(FSDPEngineWithLMHead):  # type: ignore[misc]  # without its package, Any
    """VeRL's FSDP2 engine, whose backward passes are PROMA's where the actor's config is a `PromaActorConfig`.

    For any other config it does what the base class does. Its metrics have ``actor/removed_ratio`` and
    ``actor/clamped``, which are means over tensors and microbatches, and ``actor/prompts_per_microbatch``.
    """

    _adapter: TrainerAdapter | None = None
    _prompts: list[int]  # how many different ones each microbatch has had

    def forward_backward_batch(
        self, data: TensorDict, loss_function: Callable[..., Any], forward_only: bool = False
    ) -> Any:
        """A mini-batch: gradients of all of its microbatches, each projecting what was there before."""
        config = _proma_config(loss_function)
        if config is None:
            return super().forward_backward_batch(data, loss_function, forward_only)
        if self._adapter is None:
            self._adapter = TrainerAdapter(self.module, config.update_rule, uncovered=config.uncovered)
        self._prompts = []
        output = super().forward_backward_batch(data, loss_function, forward_only)
        if not forward_only:
            summary = self._adapter.summary() | {"prompts_per_microbatch": sum(self._prompts) / len(self._prompts)}
            output["metrics"] |= {f"actor/{name}": [summary[name]] for name in METRICS if name in summary}
        return output

    @contextmanager
    def _gradient_sync_context(self, *, is_last_micro_batch: bool) -> Iterator[None]:
        """Spans forward and backward pass of one microbatch, for which `forward_step` hands the advantages over."""
        own = nullcontext() if self._adapter is None else self._adapter.backward_pass()
        with super()._gradient_sync_context(is_last_micro_batch=is_last_micro_batch), own:
            yield

    def forward_step(
        self, micro_batch: TensorDict, loss_function: Callable[..., Any], forward_only: bool
    ) -> tuple[Tensor, Any]:
        """As in the base class; from here on the backward pass is that of this microbatch."""
        if _proma_config(loss_function) is None:
            result: tuple[Tensor, Any] = super().forward_step(micro_batch, loss_function, forward_only)
            return result
        handed_over: list[tuple[Tensor, Tensor]] = []
        token = _handed_over.set(handed_over)
        try:
            loss, output = super().forward_step(micro_batch, loss_function, forward_only)
        finally:
            _handed_over.reset(token)
        if not forward_only:
            ((log_probs, advantages),) = handed_over
            assert self._adapter is not None
            self._prompts.append(_different_prompts(micro_batch))
            ids = self._sequence_ids(micro_batch)
            self._adapter.hand_over(loss, log_probs, advantages, ids if ids is None else ids.to(advantages.device))
        return loss, output

    def _sequence_ids(self, micro_batch: TensorDict) -> Int[Tensor, "1 total"] | None:
        """With padding removed, all sequences are one row: whose token is whose. None for padded rows."""
        if not tensordict_utils.get_non_tensor_data(micro_batch, "use_remove_padding", default=True):
            return None
        lengths = micro_batch["input_ids"].offsets().diff()
        padding = self._get_packed_pad_size(int(lengths.sum()))  # actor.pad_to_length
        return packed_sequence_ids(lengths, padding)


def _different_prompts(micro_batch: TensorDict) -> int:
    """How many prompts have an answer. VeRL fills up a batch with sequences that have none."""
    prompts, masks = micro_batch["prompts"].cpu().unbind(), micro_batch["response_mask"].cpu().unbind()
    return len({tuple(prompt.tolist()) for prompt, mask in zip(prompts, masks, strict=True) if mask.any()})


def _proma_config(loss_function: Callable[..., Any] | None) -> PromaActorConfig | None:
    """The actor's config, which VeRL's workers bind to their loss function, if it is PROMA's."""
    config = getattr(loss_function, "keywords", {}).get("config")
    if not isinstance(config, PromaActorConfig):
        return None
    if getattr(loss_function, "func", None) is not ppo_loss:
        raise ValueError("PROMA needs distillation.enabled=False: the gradient of its loss would come unweighted")
    return config
