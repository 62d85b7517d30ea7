"""ISOPO, isometric policy optimization, in both of its forms (arXiv 2512.23353, by the author of PROMA)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from proma_bench.projection.updates import Update, register_update_rule, require_number


@register_update_rule
@dataclass(frozen=True)
class Isopo:
    """The interacting form: advantages that are damped where the microbatch's gradients are long and alike.

        u = U lambda / (D + lambda) U' a = lambda (K + lambda I)^-1 a            K = U D U'

    ``lambda`` is ``regularisation`` times the mean eigenvalue of K. To first order, u is the step whose effect on the
    log-probs of the microbatch is equally large in all directions; where ``K << lambda``, it is the plain policy
    gradient. The second form of the formula, a Cholesky solve, does not wait for a GPU. A matrix that is not positive
    semi-definite up to lambda is not a Gram matrix; its advantages stay as they are.

    The author's code (github.com/nilin/isopo, ``verl/workers/actor/dp_actor.py``, ``isopo_nat``) takes for the mean
    eigenvalue an average over earlier optimizer steps, see `AveragedIsopo`. Here it is that of the microbatch.

    Attributes:
        regularisation: lambda in units of the mean eigenvalue (the author's ``isopo_nat_reg``, 1).

    Raises:
        ValueError: the regularisation is not a finite number above 0.
    """

    name: ClassVar[str] = "isopo"
    plain_first: ClassVar[bool] = False

    regularisation: float = 1.0

    def __post_init__(self) -> None:
        require_number("regularisation", self.regularisation, above=0)

    def __call__(
        self,
        gram: Float[Tensor, "*batch B B"],
        overlap: Float[Tensor, "*batch B"],
        advantages: Float[Tensor, "*batch B"],
    ) -> Float[Tensor, "*batch B"]:
        """``lambda (K + lambda I)^-1 a``; the overlaps do not matter."""
        return damped(gram, advantages, self.regularisation * mean_eigenvalue(gram))


@register_update_rule
@dataclass(frozen=True)
class AveragedIsopo:
    """The interacting form with the author's average in lambda: the only rule here that keeps state.

    For the mean eigenvalue stands an exponential moving average over the optimizer steps before this one,

        m  <-  decay m + (1 - decay) mean over the step's microbatches of tr K / B

    which begins with the first step's mean. In the first step it is that of the microbatch, as in `Isopo`. A step
    begins with a microbatch that finds no running gradient, or one of zeros.

    Attributes:
        regularisation: as for `Isopo`.
        decay: of the average (the author's ``ema_decay``, 0.9).

    Raises:
        ValueError: the regularisation is not a finite number above 0, or the decay does not lie between 0 and 1.
    """

    name: ClassVar[str] = "isopo-averaged"
    plain_first: ClassVar[bool] = False
    memory_size: ClassVar[int] = 3
    """The average, and sum and number of the step's mean eigenvalues so far."""

    regularisation: float = 1.0
    decay: float = 0.9

    def __post_init__(self) -> None:
        require_number("regularisation", self.regularisation, above=0)
        require_number("decay", self.decay)
        if self.decay > 1:
            raise ValueError(f"decay must lie between 0 and 1, got {self.decay!r}")

    def __call__(
        self,
        gram: Float[Tensor, "*batch B B"],
        overlap: Float[Tensor, "*batch B"],
        advantages: Float[Tensor, "*batch B"],
        *,
        running_norm: Float[Tensor, "*batch"],
        memory: Float[Tensor, "*batch 3"],
    ) -> Update:
        """``lambda (K + lambda I)^-1 a``, and the memory with this microbatch's mean eigenvalue."""
        average, total, count = memory.unbind(dim=-1)
        ends = (running_norm == 0) & (count > 0)  # the last step
        mean = total / count.clamp_min(1.0)
        after = torch.where(average > 0, self.decay * average + (1 - self.decay) * mean, mean)
        average = torch.where(ends, after, average)
        total, count = torch.where(ends, 0.0, total), torch.where(ends, 0.0, count)
        own = mean_eigenvalue(gram)
        shift = self.regularisation * torch.where(average > 0, average, own)
        kept = torch.stack([average, total + own, count + 1], dim=-1)
        return Update(damped(gram, advantages, shift), memory=kept)


@register_update_rule
@dataclass(frozen=True)
class NonInteractingIsopo:
    """The non-interacting form: each sequence gradient is normalised on its own.

        u_i = a_i / (||S_i||^2 + lambda)^(power / 2)

    ``lambda`` is ``regularisation`` times the mean squared norm, which is the mean eigenvalue of K. The author's code
    (see `Isopo`) has three such powers; the other two are of overlaps with sampled tokens, which K does not know. It
    takes the mean as an exponential moving average over optimizer steps, and unless told otherwise multiplies by
    ``lambda^(power / 2)``. The size of the step then does not depend on ``power`` where all norms are small against
    lambda.

    Attributes:
        power: 1 normalises, 0 is plain accumulation (the author's ``isopo_norm_neg_power``, 0 unless set).
        regularisation: lambda in units of the mean squared norm (the author's ``isopo_norm_reg``, 1).

    Raises:
        ValueError: a setting is not a finite number of at least 0.
    """

    name: ClassVar[str] = "isopo-noninteracting"
    plain_first: ClassVar[bool] = False

    power: float = 1.0
    regularisation: float = 1.0

    def __post_init__(self) -> None:
        require_number("power", self.power)
        require_number("regularisation", self.regularisation)

    def __call__(
        self,
        gram: Float[Tensor, "*batch B B"],
        overlap: Float[Tensor, "*batch B"],
        advantages: Float[Tensor, "*batch B"],
    ) -> Float[Tensor, "*batch B"]:
        """The formula; a sequence whose gradient is zero has coefficient zero where lambda is zero, too."""
        squares = gram.diagonal(dim1=-2, dim2=-1)
        shifted = squares + self.regularisation * mean_eigenvalue(gram).unsqueeze(-1)
        return torch.where(shifted > 0, advantages / _nonzero(shifted) ** (self.power / 2), 0.0)


def damped(
    gram: Float[Tensor, "*batch B B"], advantages: Float[Tensor, "*batch B"], shift: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch B"]:
    """``shift (K + shift I)^-1 a``; the advantages themselves where K and shift are zero, or K is no Gram matrix."""
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    triangle, failed = torch.linalg.cholesky_ex(gram / _nonzero(shift)[..., None, None] + identity)
    triangle = torch.where((failed == 0)[..., None, None], triangle, identity)
    return torch.cholesky_solve(advantages.unsqueeze(-1), triangle).squeeze(-1)


def mean_eigenvalue(gram: Float[Tensor, "*batch B B"]) -> Float[Tensor, "*batch"]:
    """The trace over B, which is also the mean squared norm of the sequence gradients."""
    result: Tensor = gram.diagonal(dim1=-2, dim2=-1).mean(dim=-1)
    return result


def _nonzero(values: Tensor) -> Tensor:
    return torch.where(values > 0, values, 1.0)
