"""`ProjectionConfig`: how the running gradient is projected. It imports no torch, so that command lines start fast."""

from __future__ import annotations

import dataclasses
import difflib
import math
import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from proma_bench.projection.methods import PROJECTION_METHODS

if TYPE_CHECKING:
    from torch import Tensor

    from proma_bench.projection.updates import Update


def _documented(default: Any, text: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class ProjectionConfig:
    """How the running gradient is projected. The defaults are those of the paper's run.

    It is an update rule (see `proma_bench.projection.updates`), as far as the Gram matrix serves its method.

    Attributes:
        method: ``iterative`` (the paper's practical choice: subtract the component along one normalised sequence
            gradient after another), ``exact`` (Gram pseudo-inverse), ``ridge`` (the non-quick path of the author's
            published code), ``qr`` (the exact projection by QR of the stacked gradients; for `project` and
            `accumulate` only), ``intra``, which leaves the running gradient alone and takes out of each microbatch's
            gradient what lies in its dominant subspaces (see `proma_bench.projection.factored`), or a method that
            `register_projection_method` has added.
        sweeps: passes over the sequences of the iterative method.
        max_removed: the clamp beta: at most ``beta * ||g||`` is removed from the running gradient; None is no clamp.
            The intra method ignores it: what that removes is a part of ``g`` itself.
        shrinkage: the factor sigma in [0, 1] on what is removed; 0 is plain accumulation.
        rank: dominant directions on either side of a weight, of the intra method; 0 is plain accumulation.

    Raises:
        ValueError: a value is out of range, or no method has that name.
    """

    method: str = _documented(
        "iterative", "How the running gradient is projected: iterative, exact or ridge; intra is another method."
    )
    sweeps: int = _documented(2, "Passes of the iterative projection.")
    max_removed: float | None = _documented(
        0.5, "Remove at most this multiple of the microbatch gradient's norm; None removes without limit."
    )
    shrinkage: float = _documented(1.0, "The share of the projected component that is removed, 0 to 1.")
    rank: int = _documented(4, "Dominant directions on either side of a weight that the intra projection removes.")
    plain_first: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.method not in PROJECTION_METHODS:
            near = difflib.get_close_matches(str(self.method), PROJECTION_METHODS, n=1, cutoff=0.0)[0]
            raise ValueError(
                f"unknown projection method {self.method!r}; did you mean {near!r}? ({', '.join(PROJECTION_METHODS)})"
            )
        if not _is_whole(self.sweeps, least=1):
            raise ValueError(f"sweeps must be a whole number of at least 1, got {self.sweeps!r}")
        if self.max_removed is not None and not (math.isfinite(self.max_removed) and self.max_removed >= 0):
            raise ValueError(f"max_removed must be None (no clamp) or a finite number >= 0, got {self.max_removed!r}")
        if not 0 <= self.shrinkage <= 1:
            raise ValueError(f"shrinkage must lie between 0 (plain accumulation) and 1, got {self.shrinkage!r}")
        if not _is_whole(self.rank, least=0):
            raise ValueError(f"rank must be a whole number of at least 0, got {self.rank!r}")

    def __call__(self, gram: Tensor, overlap: Tensor, advantages: Tensor) -> Update:
        """One step of PROMA: the advantages less what the projection removes; see `corrected_advantages`."""
        update: Update = pkgutil.resolve_name("proma_bench.projection.gram:update")(gram, overlap, advantages, self)
        return update


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


# ------------------------------------------------------------------------ inside the configurations of others

SETTINGS = {
    "projection": "method",
    "sweeps": "sweeps",
    "max_removed": "max_removed",
    "shrinkage": "shrinkage",
    "projection_rank": "rank",
}
"""What the fields of `ProjectionConfig` are called among the settings of a run or a trainer."""


def setting(name: str) -> Any:
    """A dataclass field for one of the SETTINGS, with the default and the help text of `ProjectionConfig`."""
    field = {field.name: field for field in dataclasses.fields(ProjectionConfig)}[SETTINGS[name]]
    return dataclasses.field(default=field.default, metadata=dict(field.metadata))


def projection_config(settings: object) -> ProjectionConfig:
    """The projection that an object with the attributes SETTINGS asks for.

    Args:
        settings: a configuration of a run or a trainer.

    Returns:
        The configuration for `Proma`.

    Raises:
        ValueError: a value is out of range, or a backward pass cannot serve the method.
    """
    config = ProjectionConfig(**{field: getattr(settings, name) for name, field in SETTINGS.items()})
    require_backward_method(config)
    return config


# ------------------------------------------------------------------------------------- what a method can serve


def require_backward_method(config: ProjectionConfig) -> None:
    """Raise ValueError for a method that needs the sequence gradients written out, which no backward pass has."""
    if PROJECTION_METHODS[config.method].takes == "gradients":
        raise ValueError(
            f"method {config.method!r} stacks the sequence gradients and is for `project` and `accumulate` only; "
            "use 'exact', the same projection from the Gram matrix"
        )


def require_gram_method(config: ProjectionConfig) -> None:
    """Raise ValueError for a method that the Gram matrix alone cannot serve."""
    require_sequence_gradients(config)
    require_backward_method(config)


def require_sequence_gradients(config: ProjectionConfig) -> None:
    """Raise ValueError for a method that needs the factors of the sequence gradients."""
    if PROJECTION_METHODS[config.method].takes == "factors":
        raise ValueError(
            f"method {config.method!r} takes a layer's output gradients and inputs, not sequence gradients; call "
            "`intra` with them, or let Proma do it in a backward pass"
        )
