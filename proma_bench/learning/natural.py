"""The step of TRPO: along the natural gradient, as far as a KL divergence allows (Schulman et al., arXiv 1502.05477).

It is the limit that proximal methods approximate, and the yardstick for policies that are small enough: the Fisher
matrix of the whole step is exact, used in products with vectors alone, and solved by conjugate gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parameters_to_vector

from proma_bench.errors import RunError
from proma_bench.learning.divergences import divergence
from proma_bench.learning.experience import Experience

if TYPE_CHECKING:
    from proma_bench.learning.config import RunConfig
    from proma_bench.learning.policy import Policy

DAMPING = 1e-3  # in the solve alone: directions that the policy does not depend on
ITERATIONS, TOLERANCE = 100, 1e-5  # of conjugate gradients; what is left of the right side
HALVINGS = 10  # of the step, before it is given up
SLACK = 1.5  # on the radius, which the quadratic model meets only nearly

Vector = Float[Tensor, " n"]
Step = Callable[["Policy", Sequence[Experience], Callable[[], float], "RunConfig"], None]
"""``step(policy, microbatches, objective, config)``, as `natural_step`."""


def natural_step(
    policy: Policy, microbatches: Sequence[Experience], objective: Callable[[], float], config: RunConfig
) -> None:
    """Move the policy from its accumulated gradients by a step of TRPO; the learning rate is the radius in nats.

    The step is ``sqrt(2 radius / x'Fx) x`` with ``(F + damping I) x = -gradient``, halved until the divergence from the
    policy before is within 1.5 times the radius and the objective is higher; after ten tries it is given up.

    Args:
        policy: the policy, whose parameters have the gradient of the negative objective.
        microbatches: the sequences of the step.
        objective: computes the objective of the step for the policy as it is.
        config: the settings; ``learning_rate`` is used.
    """
    parameters = [parameter for parameter in policy.parameters() if parameter.grad is not None]
    if not any(bool(parameter.grad.any()) for parameter in parameters if parameter.grad is not None):
        return
    gradient = parameters_to_vector([parameter.grad for parameter in parameters if parameter.grad is not None])
    experience, radius = Experience.join(microbatches), config.learning_rate
    with sdpa_kernel(SDPBackend.MATH):  # the only attention that can be differentiated twice
        with torch.no_grad():
            before = policy.on(experience)
        product = fisher_product(_mean_divergence(before, policy.on(experience), experience), parameters)
        direction = conjugate_gradients(lambda vector: product(vector) + DAMPING * vector, -gradient)
        curvature = direction @ product(direction)
    step = (2 * radius / curvature.clamp_min(torch.finfo(curvature.dtype).tiny)).sqrt() * direction

    start = parameters_to_vector(parameters).detach()
    with torch.no_grad():
        reached = objective()
        for halving in range(HALVINGS):
            _put(start + 0.5**halving * step, parameters)
            divergence = float(_mean_divergence(before, policy.on(experience), experience))
            if divergence <= SLACK * radius and objective() > reached:
                return
        _put(start, parameters)


def fisher_product(divergence: Tensor, parameters: Sequence[Tensor]) -> Callable[[Vector], Vector]:
    """Products with the Hessian of a divergence where it is zero, which is the Fisher matrix."""
    gradients = torch.autograd.grad(divergence, parameters, create_graph=True, materialize_grads=True)
    flat = parameters_to_vector(gradients)

    def product(vector: Vector) -> Vector:
        found = torch.autograd.grad(flat @ vector, parameters, retain_graph=True, materialize_grads=True)
        return parameters_to_vector([part.contiguous() for part in found])

    return product


def conjugate_gradients(product: Callable[[Vector], Vector], right: Vector) -> Vector:
    """``x`` with ``product(x) = right``, for a symmetric positive definite product, from zero."""
    solution, residual = torch.zeros_like(right), right.clone()
    direction, square = residual.clone(), residual @ residual
    smallest = TOLERANCE**2 * square
    for _ in range(ITERATIONS):
        if square <= smallest:
            break
        image = product(direction)
        length = square / (direction @ image)
        solution += length * direction
        residual -= length * image
        square, previous = residual @ residual, square
        direction = residual + (square / previous) * direction
    return solution


def _put(vector: Vector, parameters: Sequence[Tensor]) -> None:
    """In place: torch's own function makes all parameters views of one vector, which no checkpoint can hold."""
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, part in zip(parameters, vector.split(sizes), strict=True):
        parameter.copy_(part.view_as(parameter))


def _mean_divergence(before: Distribution, after: Distribution, experience: Experience) -> Tensor:
    try:
        values = divergence(before, after)
    except NotImplementedError as error:
        raise RunError(
            "TRPO needs the divergence between two policies as a function of the weights, which a "
            f"{type(after).__name__} does not give; it is for small policies"
        ) from error
    return experience.per_sequence(values).sum() / experience.rows
