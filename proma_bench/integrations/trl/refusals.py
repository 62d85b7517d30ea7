"""What `PROMATrainer` refuses, and why.

The update is a combination of the sequences' log-prob gradients, with coefficients found layer by layer. Terms of the
loss with another gradient are refused, and so is whatever hides the running gradient. A setting that would have no
effect is refused, too, and not ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.distributed.fsdp import FSDPModule
from transformers import ProcessorMixin

from proma_bench.backward.uncovered import require_uncovered
from proma_bench.projection.config import ProjectionConfig
from proma_bench.projection.updates import UpdateRule

if TYPE_CHECKING:
    from proma_bench.integrations.trl.config import PROMAConfig
    from proma_bench.integrations.trl.trainer import PROMATrainer

_NO_RATIO = "PROMA uses no likelihood ratios and clips none"
_NO_TOKENS = "weights that differ from token to token change the sequences' gradients themselves"
_ONLY_A_SHARD = "where gradients are reduced in every microbatch, a rank holds only a shard of the running gradient"
_NO_GRADIENT = "it leaves no running gradient in param.grad to project"

REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "top_entropy_quantile": ((1.0,), _NO_TOKENS),
    "vllm_importance_sampling_mode": (("sequence_mask", "sequence_truncate"), _NO_TOKENS),
    "importance_sampling_level": (("token",), _NO_RATIO),
    "num_iterations": ((1,), f"{_NO_RATIO}, which further passes over the same samples need"),
    "off_policy_mask_threshold": ((None,), _NO_RATIO),
    "loss_type": (("dapo", "bnpo", "grpo", "dr_grpo"), "only the normalisation is taken from it"),
    "cast_lm_head_to_fp32": ((False,), "it replaces the head's forward, and logits are turned into float32 anyway"),
    "use_liger_kernel": ((False,), "it replaces layers by kernels that PROMA has not been tested with"),
    "torch_compile": ((False,), "PROMA works inside of the backward pass, where a compiled one is closed"),
}
"""By setting: the values that are possible, and why others are not."""

CLIPS = {"epsilon": 0.2, "epsilon_high": None, "delta": None}
"""Settings that clip likelihood ratios, with GRPOConfig's defaults."""

OVERRIDES = ("_compute_loss", "_get_per_token_logps_and_entropies")
"""Methods of GRPOTrainer that make its policy loss, which PROMATrainer does not call."""


def refuse_settings(args: PROMAConfig) -> None:
    """Raise ValueError, with the setting's name, unless PROMA can do what the settings ask for."""
    for name, (possible, reason) in REFUSED.items():
        if (value := getattr(args, name)) not in possible:
            raise ValueError(f"{name}={value!r} is not possible with PROMA: {reason}; {_must_be(possible)}")
    _refuse_clips(args)
    every = args.local_kl_every
    if isinstance(every, bool) or not isinstance(every, int) or every < 0:
        raise ValueError(f"local_kl_every must be a whole number of at least 0, which measures none, got {every!r}")
    require_uncovered(args.uncovered)
    if args.optim in ("lomo", "adalomo") or args.optim.endswith("layerwise"):
        raise ValueError(f"optim={args.optim.value!r} is not possible with PROMA: {_NO_GRADIENT}")
    if args.deepspeed_plugin is not None:
        raise ValueError(f"deepspeed is not possible with PROMA: {_NO_GRADIENT}; use fsdp_version 2")


def _refuse_clips(args: PROMAConfig) -> None:
    """On policy all ratios are one, and GRPO clips nothing either. (A delta below one would clip that.)"""
    steps, passes = args.steps_per_generation, args.gradient_accumulation_steps
    for name, default in CLIPS.items():
        value = getattr(args, name)
        if value != default and steps > passes:
            raise ValueError(
                f"{name}={value!r} is not possible with PROMA where a batch of samples serves several optimizer steps "
                f"(steps_per_generation={steps} is above gradient_accumulation_steps={passes}): {_NO_RATIO}; "
                f"{_must_be((default,))}"
            )
    if args.delta is not None and args.delta <= 1:
        raise ValueError(f"delta={args.delta!r} is not possible with PROMA: {_NO_RATIO}; it must be above 1, or None")


def refuse_overrides(trainer_class: type, base: type) -> None:
    """Raise TypeError for a subclass whose loss would silently be ignored."""
    for name in OVERRIDES:
        if getattr(trainer_class, name) is not getattr(base, name):
            raise TypeError(
                f"{trainer_class.__name__} overrides {name}, which PROMATrainer does not call for the policy's term: "
                "its loss is minus the sum of the sequences' log-probs. Change advantages or rewards instead, or "
                "override compute_loss and call that of the base class"
            )


def _must_be(possible: tuple[Any, ...]) -> str:
    return f"it must be {' or '.join(map(repr, possible))}"


def refuse_setup(trainer: PROMATrainer) -> None:
    """Raise ValueError for a model or a way of distribution that the update cannot be computed in."""
    if isinstance(trainer.processing_class, ProcessorMixin):
        raise ValueError(
            "processing_class is a processor for images: rows of a vision tower are no sequences of PROMA's; "
            "for text alone, hand over its tokenizer"
        )
    if trainer.is_fsdp_enabled and not trainer.accelerator.is_fsdp2:
        raise ValueError(f"fsdp_version 1 is not possible with PROMA: {_NO_GRADIENT}; set it to 2")
    if _is_sharded(trainer):
        _refuse_plain_terms(trainer)
    if trainer.args.uncovered == "autograd" and _is_sharded(trainer):
        raise ValueError(
            "uncovered='autograd' is not possible with PROMA under FSDP2, where nothing tests whether sequences are "
            f"mixed; {_must_be(('refuse',))}"
        )
    distributed = getattr(trainer.model.config, "distributed_config", None)
    if not _is_intra(trainer.rule):  # which needs no running gradient
        if _reduces_every_microbatch(trainer) and _is_sharded(trainer):
            raise ValueError(
                "accelerator_config.gradient_accumulation_kwargs.sync_each_batch=True is not possible with PROMA "
                f"under FSDP2: {_ONLY_A_SHARD}; {_must_be((False,))}"
            )
        if (replicas := getattr(distributed, "dp_replicate_size", None) or 1) > 1:  # transformers has no no_sync there
            raise ValueError(
                f"distributed_config.dp_replicate_size={replicas} is not possible with PROMA: {_ONLY_A_SHARD}"
            )
    for name in ("tp_size", "pp_size", "ep_size"):
        if (size := getattr(distributed, name, None) or 1) > 1:
            raise ValueError(
                f"distributed_config.{name}={size} is not possible with PROMA: a layer's gradient must be whole"
            )


def _refuse_plain_terms(trainer: PROMATrainer) -> None:
    """FSDP2 accumulates unsharded gradients in a place of its own, of which there is one for each parameter."""
    terms = {
        "beta": (trainer.beta, 0.0),
        "entropy_coef": (trainer.entropy_coef, 0.0),
        "use_adaptive_entropy": (trainer.use_adaptive_entropy, False),
        "router_aux_loss_coef": (trainer.router_aux_loss_coef if trainer.aux_loss_enabled else 0.0, 0.0),
    }
    for name, (value, needed) in terms.items():
        if value != needed:
            raise ValueError(
                f"{name}={value!r} is not possible with PROMA under FSDP2: the gradient of this term must be kept "
                f"apart from the running gradient, for which FSDP2 has no place; {_must_be((needed,))}"
            )


def _is_intra(rule: UpdateRule) -> bool:
    return isinstance(rule, ProjectionConfig) and rule.method == "intra"


def _reduces_every_microbatch(trainer: PROMATrainer) -> bool:
    return bool(trainer.accelerator.gradient_state.plugin_kwargs.get("sync_each_batch", False))


def _is_sharded(trainer: PROMATrainer) -> bool:
    """Whether accelerate will shard the model when training begins, or transformers has done so at loading."""
    return trainer.is_fsdp_enabled or any(isinstance(module, FSDPModule) for module in trainer.model.modules())
