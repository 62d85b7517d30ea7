"""The intra method: a microbatch's own gradient without what lies in its dominant subspaces."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from proma_bench.projection.gram import with_largest_one

_SPARE_DIRECTIONS, _PASSES = 16, 4  # of the subspace iteration in `dominant_directions`
_ROUNDING = 64  # eps: an output gradient that is smaller than this share of the largest row's counts as zero


def intra(
    gradient: Float[Tensor, "o i"], output_grads: Float[Tensor, "N o"], inputs: Float[Tensor, "N i"], rank: int
) -> Float[Tensor, "o i"]:
    """Intra-PROMA for the weight of a linear layer: ``g - U U' g V V'``, to be added plainly to what there is.

    This is our reading of the abstract of versions 3 and 4 of the paper, which is all that we have of them: "a factored
    projection using dominant subspaces of activations and gradient outputs, applied independently within each
    microbatch". As no microbatch meets another, it does not matter on which process one runs.

    Args:
        gradient: the microbatch's policy gradient ``g``, a combination of the rows' outer products.
        output_grads: the output gradients of the log-probs, *without* advantages, as in ``S_i``. ``U`` has their
            `dominant_directions`.
        inputs: the inputs of those rows. ``V`` has their `dominant_directions`. Rows whose output gradient is zero up
            to rounding (padding, say) do not count.
        rank: the number of directions on either side. Where neither side has more independent ones, nothing is left.

    Returns:
        What is left of the gradient.
    """
    left, core, right = dominant_part(gradient, output_grads, inputs, rank)
    return gradient - left @ core @ right.T


def dominant_part(
    gradient: Float[Tensor, "o i"], output_grads: Float[Tensor, "N o"], inputs: Float[Tensor, "N i"], rank: int
) -> tuple[Float[Tensor, "o k"], Float[Tensor, "k l"], Float[Tensor, "i l"]]:
    """``U``, ``U' g V`` and ``V``, whose product ``U U' g V V'`` is what `intra` removes."""
    contributing = inputs.where(_contributes(output_grads), 0)
    left, right = dominant_directions(output_grads, rank), dominant_directions(contributing, rank)
    return left, left.T @ gradient @ right, right


def _contributes(output_grads: Float[Tensor, "N o"]) -> Bool[Tensor, "N 1"]:
    """Which rows have an output gradient that is more than rounding.

    A query of a sequence's first token has a gradient of exactly zero in theory, and of 1e-16 in practice.
    """
    sizes: Tensor = torch.linalg.vector_norm(output_grads, ord=torch.inf, dim=1, keepdim=True)  # squares underflow
    largest = F.pad(sizes, (0, 0, 0, 1)).amax()  # zero where there are no rows
    return sizes > _ROUNDING * torch.finfo(sizes.dtype).eps * largest


def dominant_directions(rows: Float[Tensor, "N d"], rank: int) -> Float[Tensor, "d k"]:
    """Orthonormal columns that span the leading ``rank`` right singular vectors of the rows; fewer if there are fewer.

    By subspace iteration from a fixed start, which costs little beside the layer's own products. Thanks to some spare
    directions it is exact for small layers and where the singular values fall quickly; where they hardly do, the
    directions found carry nearly as much.
    """
    width = min(rank + _SPARE_DIRECTIONS, *rows.shape)
    features, waves = (torch.arange(1, n + 1, dtype=rows.dtype, device=rows.device) for n in (rows.shape[1], width))
    basis = torch.outer(features, waves).cos()
    for _ in range(_PASSES):
        basis, _ = torch.linalg.qr(rows.T @ _image(rows, basis))
    image = _image(rows, basis)
    _, by_size = torch.linalg.eigh(image.T @ image)
    result: Tensor = basis @ by_size[:, max(0, width - rank) :]
    return result


def _image(rows: Float[Tensor, "N d"], basis: Float[Tensor, "d w"]) -> Float[Tensor, "N w"]:
    image = rows @ basis
    return with_largest_one(image.flatten())[0].view_as(image)
