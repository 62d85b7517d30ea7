"""`TrainerAdapter`: PROMA, or any other update rule, in a trainer that has the training loop to itself.

Where the loop is yours, `Proma` is all you need. A trainer has hooks instead: one around forward and backward pass, and
one, inside of it, that computes the loss. The adapter connects the two, and is what TRL's and VeRL's integrations have
in common. ``docs/other_trainers.md`` hooks up a trainer with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from proma_bench.backward.proma import Proma
from proma_bench.backward.records import averages
from proma_bench.backward.uncovered import Uncovered
from proma_bench.projection.named import rule_named
from proma_bench.projection.updates import AnyRule


class TrainerAdapter:
    """`Proma` behind the hooks of a trainer.

        adapter = TrainerAdapter(model, "isopo")         # once the trainer has wrapped or sharded its model
        with adapter.backward_pass():                    # around forward and backward pass of a microbatch
            loss = -(log_probs * mask).sum() / tokens    # without advantages
            adapter.hand_over(loss, log_probs, advantages)
            loss.backward()                              # or what the trainer has for it
        adapter.summary()                                # after the optimizer step, for the log

    Attributes:
        proma: the `Proma` that is attached, with what a rule keeps across steps (``state_dict``).

    Args:
        module: what is trained, as it is called.
        rule: what `Proma` takes, or the name of a rule: ``iterative``, ``exact``, ``isopo``; see `rule_named`.
        uncovered: see `Proma`.
        options: others of `Proma`, such as ``unprojected`` and ``workspace_bytes``. It records what `summary` tells
            unless ``record`` is False; records are kept until then, so call it after each step.

    Raises:
        ValueError: nothing has that name, or `Proma` cannot be attached.
    """

    def __init__(
        self, module: nn.Module, rule: str | AnyRule | None = None, *, uncovered: Uncovered = "refuse", **options: Any
    ) -> None:
        chosen = rule_named(rule) if isinstance(rule, str) else rule
        self.proma = Proma(module, chosen, **{"record": True, "uncovered": uncovered, **options})
        self._open: ExitStack | None = None
        self._is_handed_over = False

    @contextmanager
    def backward_pass(self) -> Iterator[None]:
        """Around forward and backward pass of one microbatch, in the middle of which `hand_over` is called.

        Raises:
            RuntimeError: it was not called, so that gradients, if there are any, are without advantages.
        """
        self._is_handed_over = False
        try:
            with ExitStack() as self._open:
                yield
        finally:
            self._open = None
        if not self._is_handed_over:
            raise RuntimeError(
                "a backward pass has ended for which no advantages were handed over, so that PROMA had no part in it: "
                "call hand_over where the loss is computed"
            )

    def hand_over(
        self,
        loss: Float[Tensor, ""],
        log_probs: Float[Tensor, "*any"],
        advantages: Float[Tensor, " B"],
        sequence_ids: Int[Tensor, "*rows"] | None = None,
        *,
        microbatch_size: int | None = None,
    ) -> None:
        """Once the loss is computed, and before the trainer goes backward: its advantages.

        Args:
            loss: minus the sum of ``log_probs``, each with a constant weight of at least 0. See `check_loss`.
            log_probs: of tokens or sequences, from which the loss was computed; padding, with weight 0, may be there.
            advantages: one number for each sequence, see `sequence_advantages`.
            sequence_ids: as for `Proma.microbatch`; see `packed_sequence_ids`.
            microbatch_size: likewise.

        Raises:
            RuntimeError: outside of `backward_pass`, or for the second time in it.
            ValueError: it is another loss; as for `Proma.microbatch`.
        """
        if self._open is None or self._is_handed_over:
            when = "twice in one backward pass" if self._is_handed_over else "outside of backward_pass()"
            raise RuntimeError(f"advantages were handed over {when}; each microbatch needs a pass of its own")
        check_loss(loss, log_probs)
        opened = self.proma.microbatch(advantages, sequence_ids, microbatch_size=microbatch_size)
        self._open.enter_context(opened)
        self._is_handed_over = True

    def summary(self) -> dict[str, Any]:
        """Means over parameter tensors and microbatches since the last call: ``removed_ratio``, ``clamped``, ...

        See `averages` for the names. All of it is of this process.
        """
        means = averages(self.proma.stats())
        self.proma.clear_stats()
        return means

    def remove(self) -> None:
        """Detach: the module is as it was before."""
        self.proma.remove()


def check_loss(loss: Float[Tensor, ""], log_probs: Float[Tensor, "*any"]) -> None:
    """Whether a loss is ``-sum(weight * log_prob)`` with constant weights of at least 0, as PROMA needs it.

    The loss is differentiated with respect to the log-probs, which does not reach the model; that gives the weights.
    Then the weighted sum must be the loss, to rounding, and with a likelihood ratio or another term it is not. Two
    things are not seen: advantages in the loss of which none is negative, and a term that is lost in rounding: a
    penalty that begins at zero, or in bfloat16 one below 3 % of the loss (in float16 0.4 %). Nor is a loss looked at
    that is not finite, as a trainer in float16 has its own way to leave out such a step.

    Args:
        loss: what the trainer is going to differentiate.
        log_probs: what it was computed from.

    Raises:
        ValueError: it is not.
    """
    found = (
        torch.autograd.grad(loss, log_probs, retain_graph=True, allow_unused=True) if log_probs.requires_grad else ()
    )
    if not found or found[0] is None:
        raise ValueError("the loss does not depend on these log_probs; hand over those that it was computed from")
    weights = -found[0].double()
    terms = torch.where(weights == 0, 0.0, weights * log_probs.detach().double())
    epsilon = max(torch.finfo(values.dtype).eps for values in (loss, log_probs))
    allowed = min(256 * epsilon, max(4 * epsilon, 3e-5)) * terms.abs().sum()
    differs = (loss.detach().double() + terms.sum()).abs() > allowed
    negative = (weights < 0).any()
    if not bool(negative | differs):  # one look at the device
        return
    what = (
        "weighs log-probs negatively, as if it had the advantages in it"
        if bool(negative)
        else f"is {loss.item():.6g}, and the sum of its log-probs with their weights {-terms.sum().item():.6g}: it has "
        "another term, or a likelihood ratio"
    )
    raise ValueError(
        f"the loss {what}. PROMA needs minus the sum of the log-probs, with constant weights of at least 0; the "
        "advantages are handed over beside it"
    )


def sequence_advantages(advantages: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, " B"]:
    """The one advantage of every sequence's tokens; zero where a sequence has none.

    Args:
        advantages: of each token.
        mask: which tokens are the policy's.

    Raises:
        ValueError: those of a sequence's tokens differ.
    """
    lowest = advantages.masked_fill(~mask, torch.inf).amin(dim=1)
    highest = advantages.masked_fill(~mask, -torch.inf).amax(dim=1)
    answered = mask.any(dim=1)
    if where := (answered & (lowest != highest)).nonzero().flatten().tolist():
        raise ValueError(f"PROMA needs one advantage per sequence, and those of the tokens of sequences {where} differ")
    return torch.where(answered, highest, 0.0)


def packed_sequence_ids(lengths: Int[Tensor, " B"], padding: int = 0) -> Int[Tensor, "1 total"]:
    """Whose token is whose where sequences of these lengths are one row, followed by padding without a gradient."""
    ids = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
    return F.pad(ids, (0, padding), value=len(lengths) - 1).unsqueeze(0)
