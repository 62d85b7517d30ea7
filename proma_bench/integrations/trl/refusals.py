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

if TYPE_CHECKING:
    from proma_bench.integrations.trl.config import PROMAConfig
    from proma_bench.integrations.trl.trainer import PROMATrainer

_NO_RATIO = "PROMA uses no likelihood ratios and clips none"
_NO_TERM = "the gradient of this term of the loss is no combination of the sequences' log-prob gradients"
_NO_TOKENS = "weights that differ from token to token change the sequences' gradients themselves"
_ONLY_A_SHARD = "where gradients are reduced in every microbatch, a rank holds only a shard of the running gradient"
_NO_GRADIENT = "it leaves no running gradient in param.grad to project"

REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "beta": ((0.0,), _NO_TERM),
    "entropy_coef": ((0.0,), _NO_TERM),
    "use_adaptive_entropy": ((False,), _NO_TERM),
    "top_entropy_quantile": ((1.0,), _NO_TOKENS),
    "vllm_importance_sampling_mode": (("sequence_mask", "sequence_truncate"), _NO_TOKENS),
    "importance_sampling_level": (("none",), _NO_RATIO),
    "num_iterations": ((1,), f"{_NO_RATIO}, which further passes over the same samples need"),
    "off_policy_mask_threshold": ((None,), _NO_RATIO),
    "epsilon": ((0.2,), _NO_RATIO),
    "epsilon_high": ((None,), _NO_RATIO),
    "delta": ((None,), _NO_RATIO),
    "loss_type": (("dapo", "bnpo", "grpo", "dr_grpo"), "only the normalisation is taken from it"),
    "cast_lm_head_to_fp32": ((False,), "it replaces the head's forward, and logits are turned into float32 anyway"),
    "use_liger_kernel": ((False,), "it replaces layers by kernels that PROMA has not been tested with"),
    "torch_compile": ((False,), "PROMA works inside of the backward pass, where a compiled one is closed"),
}
"""By setting: the values that are possible, and why others are not."""


def refuse_settings(args: PROMAConfig) -> None:
    """Raise ValueError, with the setting's name, unless PROMA can do what the settings ask for."""
    for name, (possible, reason) in REFUSED.items():
        if (value := getattr(args, name)) not in possible:
            raise ValueError(f"{name}={value!r} is not possible with PROMA: {reason}; {_must_be(possible)}")
    require_uncovered(args.uncovered)
    if args.optim in ("lomo", "adalomo") or args.optim.endswith("layerwise"):
        raise ValueError(f"optim={args.optim.value!r} is not possible with PROMA: {_NO_GRADIENT}")
    if args.deepspeed_plugin is not None:
        raise ValueError(f"deepspeed is not possible with PROMA: {_NO_GRADIENT}; use fsdp_version 2")


def _must_be(possible: tuple[Any, ...]) -> str:
    return f"it must be {' or '.join(map(repr, possible))}"


def refuse_setup(trainer: PROMATrainer) -> None:
    """Raise ValueError for a model or a way of distribution that the update cannot be computed in."""
    if trainer.aux_loss_enabled:
        raise ValueError(f"router_aux_loss_coef={trainer.router_aux_loss_coef} is not possible with PROMA: {_NO_TERM}")
    if isinstance(trainer.processing_class, ProcessorMixin):
        raise ValueError(
            "processing_class is a processor for images: rows of a vision tower are no sequences of PROMA's; "
            "for text alone, hand over its tokenizer"
        )
    if trainer.is_fsdp_enabled and not trainer.accelerator.is_fsdp2:
        raise ValueError(f"fsdp_version 1 is not possible with PROMA: {_NO_GRADIENT}; set it to 2")
    if trainer.args.uncovered == "autograd" and _is_sharded(trainer):
        raise ValueError(
            "uncovered='autograd' is not possible with PROMA under FSDP2, where nothing tests whether sequences are "
            f"mixed; {_must_be(('refuse',))}"
        )
    distributed = getattr(trainer.model.config, "distributed_config", None)
    if trainer.args.projection != "intra":  # which needs no running gradient
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


def _reduces_every_microbatch(trainer: PROMATrainer) -> bool:
    return bool(trainer.accelerator.gradient_state.plugin_kwargs.get("sync_each_batch", False))


def _is_sharded(trainer: PROMATrainer) -> bool:
    """Whether accelerate will shard the model when training begins, or transformers has done so at loading."""
    return trainer.is_fsdp_enabled or any(isinstance(module, FSDPModule) for module in trainer.model.modules())
