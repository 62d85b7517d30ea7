"""What a projection promises, one function per promise.

Each takes a projection ``fn(running [*W], seq_grads [B, *W]) -> [*W]`` and inputs for it, and raises AssertionError in
words, with the measured and the allowed size. Three concern a whole step
``step(running [*W] or None, seq_grads [B, *W], advantages [B]) -> [*W]`` instead.

Tolerances are relative to the norm of the running gradient. Two defaults cover the cases:

- `rounding_tolerance`: what rounding leaves when the rank is clear. It is the default of every promise that compares
  two *answers*, since these only agree where the rank of the inputs is beyond doubt.
- `worst_case_tolerance`: what the rank cut of `projection.solve` may leave; the default of the promises that hold
  however nearly dependent the sequence gradients are.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from proma_bench.projection.solve import gradient_rank_tolerance

Projection = Callable[[Tensor, Tensor], Tensor]
Step = Callable[[Tensor | None, Tensor, Tensor], Tensor]


def rounding_tolerance(*tensors: Tensor) -> float:
    """For the coarsest type among the tensors: 1e-10 in float64, 1e-4 in float32, 8 eps in 16 bits.

    A sum of some hundred products loses a few digits: hence 1e-10 rather than 1e-16. Float32 gradients that should be
    parallel are so only up to their rounding, and a rank cut that ignores it leaves up to 3e-5.
    """
    return max(_TOLERANCES.get(tensor.dtype, 8 * torch.finfo(tensor.dtype).eps) for tensor in tensors)


_TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4}


def worst_case_tolerance(running: Tensor, seq_grads: Tensor) -> float:
    """A direction below the rank cut has at most this overlap with a unit gradient: the root of the cut."""
    return rounding_tolerance(running, seq_grads) + math.sqrt(gradient_rank_tolerance(seq_grads))


# --------------------------------------------------------------------------------- promises of a single answer


def assert_finite(fn: Projection, running: Tensor, seq_grads: Tensor) -> None:
    """Finite inputs give a finite result of the running gradient's shape and type."""
    result = fn(running, seq_grads)
    if result.shape != running.shape or result.dtype != running.dtype:
        raise AssertionError(
            f"wrong kind of result: {_kind(result)} for a running gradient of {_kind(running)}; they should be the same"
        )
    bad = int((~result.isfinite()).sum())
    if bad:
        raise AssertionError(f"not finite: {bad} of {result.numel()} entries are NaN or infinite, from finite inputs")


def assert_orthogonal_to(fn: Projection, running: Tensor, seq_grads: Tensor, *, tolerance: float | None = None) -> None:
    """What the projection leaves has no component along any sequence gradient."""
    overlaps = (_unit_rows(seq_grads) @ fn(running, seq_grads).double().flatten()).abs()
    tolerance = worst_case_tolerance(running, seq_grads) if tolerance is None else tolerance
    worst = int(overlaps.argmax())
    _require(
        overlaps[worst],
        tolerance * _norm(running) + _underflow(running),
        f"not orthogonal: the result still has a component along sequence gradient {worst}",
        running,
    )


def assert_in_span(fn: Projection, running: Tensor, seq_grads: Tensor, *, tolerance: float | None = None) -> None:
    """What the projection removes is a combination of the sequence gradients."""
    removed = running.double().flatten() - fn(running, seq_grads).double().flatten()
    basis = _span(_unit_rows(seq_grads))
    tolerance = worst_case_tolerance(running, seq_grads) if tolerance is None else tolerance
    _require(
        _norm(removed - basis @ (basis.T @ removed)),
        tolerance * _norm(running) + _underflow(running),
        "not in the span: a part of what was removed is no combination of the sequence gradients",
        running,
    )


def assert_norm_not_increased(
    fn: Projection, running: Tensor, seq_grads: Tensor, *, tolerance: float | None = None
) -> None:
    """The projection never makes the running gradient longer."""
    tolerance = rounding_tolerance(running, seq_grads) if tolerance is None else tolerance
    _require(
        _norm(fn(running, seq_grads)) - _norm(running),
        tolerance * _norm(running) + _underflow(running),
        "norm increased: the result is longer than the running gradient",
        running,
    )


def assert_first_microbatch_is_plain(fn: Projection, running: Tensor, seq_grads: Tensor) -> None:
    """From a running gradient of zero nothing is removed, so the first microbatch is the plain policy gradient.

    Only the shape and type of ``running`` matter.
    """
    result = fn(torch.zeros_like(running), seq_grads)
    if bool((result != 0).any()):
        raise AssertionError(
            f"first microbatch not plain: a running gradient of zero came out with norm {_norm(result):.3g}, allowed 0"
        )


# --------------------------------------------------------------------------- promises that compare two answers


def assert_idempotent(fn: Projection, running: Tensor, seq_grads: Tensor, *, tolerance: float | None = None) -> None:
    """Projecting a second time changes nothing."""
    once = fn(running, seq_grads)
    tolerance = rounding_tolerance(running, seq_grads) if tolerance is None else tolerance
    _require(
        _norm(fn(once, seq_grads).double() - once.double()),
        tolerance * _norm(running) + _underflow(running),
        "not idempotent: projecting a second time changed the result",
        running,
    )


def assert_scale_invariant(
    fn: Projection,
    running: Tensor,
    seq_grads: Tensor,
    *,
    scales: Tensor | None = None,
    tolerance: float | None = None,
) -> None:
    """Multiplying each sequence gradient by its own non-zero number changes nothing.

    ``scales`` [B] default to powers of two, which are exact: 2^20, 2^-20 and so on. Float16 gradients are scaled in
    float32, because their own type has no room for that.
    """
    if seq_grads.dtype == torch.float16:
        seq_grads = seq_grads.float()
    if scales is None:
        scales = torch.tensor([2.0 ** (20.0 * (-1) ** i) for i in range(len(seq_grads))])
    scaled = seq_grads * scales.to(seq_grads.dtype).reshape(-1, *[1] * (seq_grads.dim() - 1))
    factors = ", ".join(f"{scale:.7g}" for scale in scales[:4].tolist()) + (", ..." if len(scales) > 4 else "")
    failure = f"not scale invariant: multiplying the sequence gradients by {factors} changed the result"
    _require_no_change(fn, running, seq_grads, scaled, tolerance, failure)


def assert_sign_invariant(
    fn: Projection, running: Tensor, seq_grads: Tensor, *, tolerance: float | None = None
) -> None:
    """Negating sequence gradients changes nothing: every other one, then all the rest."""
    failure = "not sign invariant: negating sequence gradients changed the result"
    for first in (0, 1):
        negated = seq_grads.clone()
        negated[first::2] *= -1
        _require_no_change(fn, running, seq_grads, negated, tolerance, failure)


def assert_duplicate_invariant(
    fn: Projection, running: Tensor, seq_grads: Tensor, *, tolerance: float | None = None
) -> None:
    """A sequence that occurs twice removes no more than a sequence that occurs once."""
    failure = "not duplicate invariant: repeating sequence gradients changed the result"
    repeated = torch.cat([seq_grads, seq_grads[:1], -seq_grads[-1:]])
    _require_no_change(fn, running, seq_grads, repeated, tolerance, failure)


def assert_zero_invariant(
    fn: Projection, running: Tensor, seq_grads: Tensor, *, tolerance: float | None = None
) -> None:
    """A sequence gradient of zero removes nothing, and does not disturb the others."""
    zero = torch.zeros_like(seq_grads[:1])
    failure = "not zero invariant: adding sequence gradients of zero changed the result"
    _require_no_change(fn, running, seq_grads, torch.cat([zero, seq_grads, zero]), tolerance, failure)
    _require(
        _norm(fn(running, torch.zeros_like(seq_grads)).double() - running.double()),
        0.0,
        "not zero invariant: sequence gradients that are all zero removed something",
        running,
    )


def assert_permutation_invariant(
    fn: Projection, running: Tensor, seq_grads: Tensor, *, tolerance: float | None = None
) -> None:
    """The order of the sequences within a microbatch does not matter: reversed, and moved on by one."""
    failure = "not permutation invariant: another order of the sequences changed the result"
    for reordered in (seq_grads.flip(0), seq_grads.roll(1, 0)):
        _require_no_change(fn, running, seq_grads, reordered, tolerance, failure)


# ------------------------------------------------------------------------------------ promises of a whole step


def assert_no_shrinkage_is_plain(
    step: Step, running: Tensor, seq_grads: Tensor, advantages: Tensor, *, tolerance: float | None = None
) -> None:
    """A step that is set to remove nothing (zero shrinkage, or a clamp at zero) adds the policy gradient, no more."""
    plain = running.double() + _policy_gradient(seq_grads, advantages)
    tolerance = rounding_tolerance(running, seq_grads) if tolerance is None else tolerance
    scale = max(_norm(running), _gradient_size(seq_grads, advantages))
    _require(
        _norm(step(running, seq_grads, advantages).double() - plain),
        tolerance * scale + _underflow(running),
        "not plain accumulation: a step that is to remove nothing differs from running gradient + policy gradient",
        running,
    )


def assert_clamp_respected(
    step: Step,
    running: Tensor,
    seq_grads: Tensor,
    advantages: Tensor,
    *,
    max_removed: float,
    tolerance: float | None = None,
) -> None:
    """A step removes at most ``max_removed`` times the norm of the microbatch's policy gradient.

    The tolerance is relative to the sum of all parts of the step (the running gradient and each ``a_i S_i``): parts
    that cancel leave their rounding behind.
    """
    gradient = _policy_gradient(seq_grads, advantages)
    removed = running.double() + gradient - step(running, seq_grads, advantages).double()
    tolerance = rounding_tolerance(running, seq_grads) if tolerance is None else tolerance
    scale = _norm(running) + _gradient_size(seq_grads, advantages)
    _require(
        _norm(removed) - max_removed * _norm(gradient),
        tolerance * scale + _underflow(running),
        f"clamp not respected: more than {max_removed:g} times the norm of the policy gradient was removed",
        running,
    )


# ----------------------------------------------------------------------------------------------------- helpers


def _require(excess: Tensor | float, allowed: float, failure: str, running: Tensor) -> None:
    excess = float(excess)
    if not excess <= allowed:  # so written that NaN fails
        size = _norm(running)
        raise AssertionError(
            f"{failure}: measured {excess:.3g}, allowed {allowed:.3g} (the running gradient has norm {size:.3g})"
        )


def _require_no_change(
    fn: Projection, running: Tensor, seq_grads: Tensor, changed: Tensor, tolerance: float | None, failure: str
) -> None:
    """The projection gives the same for the changed sequence gradients as for the original ones."""
    tolerance = rounding_tolerance(running, seq_grads) if tolerance is None else tolerance
    difference = _norm(fn(running, seq_grads).double() - fn(running, changed).double())
    _require(difference, tolerance * _norm(running) + _underflow(running), failure, running)


def _kind(tensor: Tensor) -> str:
    return f"shape {tuple(tensor.shape)} and type {tensor.dtype}"


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.double()))


def _underflow(running: Tensor) -> float:
    """Entries below the smallest normal number are rounded by up to the smallest subnormal one, whatever their size."""
    info = torch.finfo(running.dtype)
    return 2 * info.tiny * info.eps * math.sqrt(running.numel())


def _unit_rows(seq_grads: Tensor) -> Tensor:
    """The sequence gradients as float64 rows of norm one; rows of zeros stay."""
    rows = seq_grads.double().reshape(len(seq_grads), -1)
    rows = rows / _nonzero(rows.abs().amax(1, keepdim=True))  # the largest entry first: squares of 1e-200 vanish
    return rows / _nonzero(torch.linalg.vector_norm(rows, dim=1, keepdim=True))


def _nonzero(sizes: Tensor) -> Tensor:
    return torch.where(sizes > 0, sizes, 1.0)


def _span(units: Tensor) -> Tensor:
    """Orthonormal columns spanning the rows; only directions that are rounding themselves are left out."""
    _, singular, right = torch.linalg.svd(units, full_matrices=False)
    result: Tensor = right[singular > 8 * len(units) * torch.finfo(torch.float64).eps].T
    return result


def _policy_gradient(seq_grads: Tensor, advantages: Tensor) -> Tensor:
    result: Tensor = torch.tensordot(advantages.double(), seq_grads.double(), dims=1)
    return result


def _gradient_size(seq_grads: Tensor, advantages: Tensor) -> float:
    rows = seq_grads.double().reshape(len(seq_grads), -1)
    return float(advantages.double().abs() @ torch.linalg.vector_norm(rows, dim=1))
