"""The fused kernel against the solve in torch, in Triton's interpreter on a CPU; and compiled, where Triton can."""

from __future__ import annotations

import pytest
import torch
from kernels import DEVICE, needs_triton
from torch import Tensor

from proma_bench import ProjectionConfig
from proma_bench.projection import fused
from proma_bench.projection.gram import Removal, gram_norm, removal
from proma_bench.projection.methods import PROJECTION_METHODS, ProjectionMethod

CONFIGS = [
    ProjectionConfig("iterative"),
    ProjectionConfig("iterative", sweeps=1, max_removed=None, shrinkage=0.3),
    ProjectionConfig("exact"),
    ProjectionConfig("exact", max_removed=0.0),
    ProjectionConfig("ridge", max_removed=1.7, shrinkage=0.9),
]


def problems(sequences: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Gram matrices, overlaps and advantages of five tensors: usual, rank deficient, with zeros, tiny, and huge."""
    generator = torch.Generator().manual_seed(sequences)
    rows = torch.randn(5, sequences, 40, generator=generator, dtype=torch.float64)
    running = 5 * torch.randn(5, 40, generator=generator, dtype=torch.float64)
    rows[1] = rows[1, :1] * torch.linspace(1, -2, sequences, dtype=torch.float64).unsqueeze(1)
    rows[2, sequences // 2] = 0
    rows[3] *= 1e-10
    rows[4] *= 1e10
    gram, overlap = rows @ rows.mT, (rows @ running.unsqueeze(2)).squeeze(2)
    return gram.to(dtype), overlap.to(dtype), torch.randn(sequences, generator=generator).to(dtype)


def by_kernel(gram: Tensor, overlap: Tensor, advantages: Tensor, config: ProjectionConfig) -> Removal:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "has_kernel", lambda _: True)
        found = removal(gram.to(DEVICE), overlap.to(DEVICE), advantages.to(DEVICE), config)
    return Removal(*(part.cpu() for part in found))


def assert_same(found: Removal, wanted: Removal, gram: Tensor) -> None:
    """What is removed is the same; coefficients may differ where gradients cancel, as those of parallel ones."""
    difference = found.coefficients - wanted.coefficients
    error = gram_norm(gram.double(), difference)
    assert bool((error <= 1e-7 * gram_norm(gram.double(), wanted.coefficients)).all()), error
    torch.testing.assert_close(found.norm, wanted.norm, rtol=1e-7, atol=1e-300)
    assert torch.equal(found.clamped, wanted.clamped)


@needs_triton
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.method}-{config.max_removed}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("sequences", [1, 2, 5, 8])
def test_the_kernel_is_the_solve_in_torch(sequences: int, dtype: torch.dtype, config: ProjectionConfig) -> None:
    arguments = problems(sequences, dtype)
    assert_same(by_kernel(*arguments, config), removal(*arguments, config), arguments[0])


@needs_triton
def test_what_is_not_positive_semi_definite_removes_nothing() -> None:
    gram, overlap, advantages = problems(4, torch.float64)
    gram[0] = -gram[0].abs()
    gram[1, 0, 1] = gram[1, 1, 0] = -3 * gram[1, 0, 0]
    found = by_kernel(gram, overlap, advantages, ProjectionConfig("exact"))
    assert_same(found, removal(gram, overlap, advantages, ProjectionConfig("exact")), gram)


@needs_triton
def test_advantages_of_each_tensor_and_gradients_of_none() -> None:
    gram, overlap, _ = problems(3, torch.float32)
    each = torch.arange(15.0).view(5, 3)
    assert_same(by_kernel(gram, overlap, each, CONFIGS[0]), removal(gram, overlap, each, CONFIGS[0]), gram)
    nothing = by_kernel(0 * gram, 0 * overlap, each, CONFIGS[0])
    assert not nothing.coefficients.any() and not nothing.norm.any() and not nothing.clamped.any()


def test_a_cpu_another_solver_and_a_large_microbatch_take_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    gram, _, advantages = problems(4, torch.float32)
    assert fused.fused_settings(gram, advantages, CONFIGS[0]) is None
    monkeypatch.setattr(fused, "has_kernel", lambda _: True)
    assert fused.fused_settings(gram, advantages, CONFIGS[0]) == fused.Settings(2, 0, 0.0, 0.5, 1.0)
    large = torch.zeros(1, fused.LARGEST + 1, fused.LARGEST + 1)
    assert fused.fused_settings(large, torch.zeros(fused.LARGEST + 1), CONFIGS[0]) is None
    own = ProjectionMethod("own", "another solver", solver=object())  # type: ignore[arg-type]
    monkeypatch.setitem(PROJECTION_METHODS, "own", own)
    assert fused.fused_settings(gram, advantages, ProjectionConfig("own")) is None


def test_where_triton_does_not_work_torch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    monkeypatch.setattr(fused, "find_spec", lambda _: object())
    monkeypatch.setattr(fused, "fused_removal", fail)
    fused.works_on.cache_clear()
    with pytest.warns(UserWarning, match=r"cannot be used on cpu \(RuntimeError: Failed to find C compiler\.\)"):
        assert not fused.works_on(torch.device("cpu"))
    fused.works_on.cache_clear()


def test_what_is_to_be_differentiated_takes_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "has_kernel", lambda _: True)
    gram, _, advantages = problems(4, torch.float64)
    assert fused.fused_settings(gram, advantages.requires_grad_(), CONFIGS[0]) is None
    with torch.no_grad():
        assert fused.fused_settings(gram, advantages, CONFIGS[0]) is not None
