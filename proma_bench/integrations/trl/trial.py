"""A backward pass when the trainer is made, so that what `Proma` refuses is refused before anything is sampled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from trl.trainer.utils import selective_log_softmax

from proma_bench.backward.proma import Proma
from proma_bench.integrations.trl.plain import has_plain_terms

if TYPE_CHECKING:
    from proma_bench.integrations.trl.trainer import PROMATrainer


def try_backward_pass(trainer: PROMATrainer) -> None:
    """Two sequences of two answer tokens, forward and backward, in the model's training mode; nothing is left of it.

    Not where accelerate shards the model when training begins (FSDP2 by its plug-in): weights are elsewhere until then,
    and the first microbatch is what shows it.

    Raises:
        ValueError: `Proma` cannot be attached to the model or refuses its backward pass, or the model cannot be called.
    """
    model = trainer.model
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    devices = [trainer.accelerator.device] if trainer.accelerator.device.type != "cpu" else []
    training = model.training
    with _attached(trainer) as proma:
        if trainer.is_fsdp_enabled:
            return
        try:
            with torch.random.fork_rng(devices, device_type=trainer.accelerator.device.type):
                model.train()
                inputs = _inputs(trainer)
                log_probs = selective_log_softmax(trainer._logits(model, inputs), inputs["completion_ids"])
                proma.backward(log_probs.sum(dim=1), torch.tensor([1.0, -1.0]), microbatch_size=1)
                if has_plain_terms(trainer):
                    _try_plain_terms(trainer, inputs)
        except (ValueError, RuntimeError, TypeError, NotImplementedError) as error:
            raise ValueError(f"PROMA cannot train this {type(model).__name__}: {_advised(error)}") from error
        finally:
            model.train(training)
            model.zero_grad(set_to_none=True)
            with torch.no_grad():
                for name, buffer in buffers.items():
                    model.get_buffer(name).copy_(buffer)


def _attached(trainer: PROMATrainer) -> Proma:
    return Proma(trainer.model, trainer.rule, uncovered=trainer.args.uncovered)


def _inputs(trainer: PROMATrainer) -> dict[str, Tensor]:
    """Two answers to prompts of two tokens; no token is special in most vocabularies."""
    size = trainer.model.config.get_text_config().vocab_size
    tokens = (torch.tensor([[5, 6, 7, 8], [9, 7, 6, 5]]) % size).to(trainer.accelerator.device)
    mask = torch.ones_like(tokens[:, 2:])
    return {
        "prompt_ids": tokens[:, :2],
        "prompt_mask": mask,
        "completion_ids": tokens[:, 2:],
        "completion_mask": mask,
    }


def _try_plain_terms(trainer: PROMATrainer, inputs: dict[str, Tensor]) -> None:
    """Whether TRL can compute what they are made of: not all mixtures of experts return an auxiliary loss.

    Raises:
        ValueError: it cannot.
    """
    ids, mask = (torch.cat([inputs[f"prompt_{kind}"], inputs[f"completion_{kind}"]], dim=1) for kind in ("ids", "mask"))
    try:
        trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, 2, compute_entropy=True, compute_aux_loss=trainer.aux_loss_enabled
        )
    except Exception as error:  # of a model's own code
        advice = "; router_aux_loss_coef=0.0 switches its auxiliary loss off" if trainer.aux_loss_enabled else ""
        raise ValueError(f"TRL cannot compute the other terms of its loss: {error}{advice}") from error


def _advised(error: Exception) -> str:
    """The engine's message, with the name that its advice has here."""
    advice = "attach with Proma(model, uncovered='autograd')"
    return str(error).replace(advice, "set uncovered='autograd' in PROMAConfig")
