"""The engine against the oracle: layouts, sharing, checkpointing, and what must not change a result."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from backward_policies import (
    CONFIGS,
    EXACT,
    ITERATIVE,
    MICROS,
    TOLERANCE,
    Classifier,
    TokenPolicy,
    expected,
    initialise,
    run,
    seeded,
    token_log_probs,
)
from oracle import Micro, assert_gradients, oracle_gradients
from torch import Tensor, nn

from proma_bench import ProjectionConfig, Proma


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.method}-{config.max_removed}")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_classifier_equals_the_oracle(config: ProjectionConfig, dtype: torch.dtype) -> None:
    module = initialise(Classifier(), dtype)
    micros = []
    for seed in range(4):
        rows, actions = torch.randn(8, 6, generator=seeded(seed)), torch.randint(5, (8,), generator=seeded(seed))
        rows[3], actions[3] = rows[2], actions[2]  # a sample that repeats: rank deficiency is the normal case

        def alone(module: nn.Module, i: int, rows: Tensor = rows, actions: Tensor = actions) -> Tensor:
            dtype = next(module.parameters()).dtype
            return token_log_probs(module(rows[i : i + 1].to(dtype)), actions[i : i + 1]).sum()

        micros.append((rows, actions, Micro(alone, torch.randn(8, generator=seeded(seed + 9), dtype=torch.float64))))
    wanted = oracle_gradients(copy.deepcopy(module).double(), [micro for *_, micro in micros], config)
    with Proma(module, config) as proma:
        for rows, actions, micro in micros:
            proma.backward(token_log_probs(module(rows.to(dtype)), actions), micro.advantages.to(dtype))
    assert_gradients(module, wanted, TOLERANCE[dtype])


@pytest.mark.parametrize("layout", ["padded", "flattened", "packed"])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.method}-{config.max_removed}")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_shared_modules_equal_the_oracle(config: ProjectionConfig, layout: str, dtype: torch.dtype) -> None:
    module = initialise(TokenPolicy(), dtype)
    wanted = expected(module, config)
    run(module, layout, config)
    assert_gradients(module, wanted, TOLERANCE[dtype])


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_checkpointing_changes_nothing(layout: str, reentrant: bool) -> None:
    module = initialise(TokenPolicy(checkpointed=reentrant))
    plain = copy.deepcopy(module)
    plain.checkpointed = None
    wanted = expected(plain, ITERATIVE)
    run(module, layout, ITERATIVE)
    assert_gradients(module, wanted, 1e-9)


@pytest.mark.parametrize("workspace_bytes", [1, 1000, 4000])
def test_a_small_workspace_changes_nothing(workspace_bytes: int) -> None:
    module = initialise(TokenPolicy())
    wanted = expected(module, EXACT)
    run(module, "padded", EXACT, workspace_bytes=workspace_bytes)
    assert_gradients(module, wanted, 1e-9)


@pytest.mark.parametrize("way", ["rows", "tokens"])
def test_every_way_of_measuring_gives_the_same(way: Any) -> None:
    module = initialise(TokenPolicy())
    wanted = expected(module, EXACT)
    for layout in ("padded", "packed"):
        module.zero_grad()
        run(module, layout, EXACT, gram_method=way)
        assert_gradients(module, wanted, 1e-9)


@pytest.mark.filterwarnings("ignore:grad and param do not obey")  # what the transposed gradient is there for
@pytest.mark.parametrize("watch", ["post_accumulate", "hook", "transposed"])
def test_a_watched_parameter_sees_its_gradient_arrive(watch: str) -> None:
    """The running gradient is changed in place only where nobody can tell."""
    module = initialise(TokenPolicy())
    wanted, seen = expected(module, EXACT), []
    weight = module.mix.weight
    if watch == "post_accumulate":
        weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    elif watch == "hook":
        weight.register_hook(lambda gradient: seen.append(gradient.clone()))
    else:
        weight.grad = torch.zeros_like(weight).T.contiguous().T
    run(module, "padded", EXACT)
    assert_gradients(module, wanted, 1e-9)
    assert len(seen) == (0 if watch == "transposed" else len(MICROS))
    if watch == "hook":
        torch.testing.assert_close(torch.stack(seen).sum(0), weight.grad)


@pytest.mark.parametrize("frozen", ["embedding", "mix", "mix.bias", "norm.weight", "rms"])
def test_frozen_parameters(frozen: str) -> None:
    module = initialise(TokenPolicy())
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
    wanted = expected(module, ITERATIVE)
    run(module, "padded", ITERATIVE)
    assert_gradients(module, wanted, 1e-9)


def test_first_microbatch_is_the_plain_policy_gradient() -> None:
    module, micro = initialise(TokenPolicy()), MICROS[0]
    log_probs, _ = micro.padded(module)
    (-(micro.advantages * log_probs).sum()).backward()
    wanted = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    with Proma(module) as proma:
        log_probs, _ = micro.padded(module)
        proma.backward(log_probs, micro.advantages)
    assert_gradients(module, wanted, 1e-12)


def test_microbatch_context_is_backward() -> None:
    module = initialise(TokenPolicy())
    wanted = expected(module, ITERATIVE)
    with Proma(module) as proma:
        for micro in MICROS:
            log_probs, ids = micro.packed(module)
            with proma.microbatch(micro.advantages, ids):
                (-3.0 * log_probs.sum()).backward()  # a gradient scaler's factor
    for parameter in module.parameters():
        if parameter.grad is not None:
            parameter.grad /= 3.0
    assert_gradients(module, wanted, 1e-9)


def test_unused_and_unreached_layers_have_no_gradient() -> None:
    module = initialise(nn.ModuleDict({"used": nn.Linear(3, 4), "idle": nn.Linear(3, 4), "dead": nn.Linear(3, 4)}))
    rows = torch.randn(2, 3, dtype=torch.float64, generator=seeded(0))
    with Proma(module) as proma:
        for _ in range(2):
            module["dead"](rows)
            proma.backward(module["used"](rows).log_softmax(-1)[:, 0], torch.ones(2, dtype=torch.float64))
    assert module["used"].weight.grad is not None
    assert module["idle"].weight.grad is None and module["dead"].weight.grad is None


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_parameters_left_out_get_their_plain_gradient_and_the_others_what_they_got(layout: str) -> None:
    """The weight of embedding and head is one tensor, and left out of both."""
    plain, projected, some = (initialise(TokenPolicy()) for _ in range(3))
    run(plain, layout, ProjectionConfig(shrinkage=0.0))
    run(projected, layout, EXACT)
    run(some, layout, EXACT, unprojected=["embedding.weight", "norm.bias"])
    for name, parameter in some.named_parameters():
        source = plain if name in ("embedding.weight", "norm.bias") else projected
        torch.testing.assert_close(parameter.grad, source.get_parameter(name).grad, msg=name)
    assert not torch.allclose(plain.embedding.weight.grad, projected.embedding.weight.grad)


def test_an_unknown_parameter_cannot_be_left_out() -> None:
    with pytest.raises(ValueError, match="unprojected names no parameter of Classifier: nothing"):
        Proma(Classifier(), unprojected=["nothing"])
