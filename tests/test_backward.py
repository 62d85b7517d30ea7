"""The backward engine against the oracle, in every situation that it promises to handle."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from oracle import Micro, assert_gradients, oracle_gradients
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from proma_bench import ProjectionConfig, Proma, register_rule
from proma_bench.backward.layers.generic import generic

EXACT, ITERATIVE, RIDGE = (ProjectionConfig(method) for method in ("exact", "iterative", "ridge"))
TIERS = [EXACT, ITERATIVE, RIDGE, ProjectionConfig("exact", max_removed=None, shrinkage=0.7)]
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
VOCABULARY = 17


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def initialise(module: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Weights from an explicit generator, gains and offsets away from their uninformative start."""
    module = module.to(dtype)
    generator = seeded(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            if parameter.ndim == 1:
                parameter.add_(0.5)
    return module


# ---------------------------------------------------------------------------------------------------- policies


class Classifier(nn.Module):
    """An MLP over vectors; an action is a class."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(6, 24), nn.ReLU(inplace=True), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 5)
        )

    def forward(self, rows: Tensor) -> Tensor:
        return self.layers(rows)


class TokenPolicy(nn.Module):
    """Next-token logits with everything awkward: a tied head, modules called twice, and norms."""

    def __init__(self, checkpointed: bool | None = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 12)
        self.mix = nn.Linear(12, 12)
        self.norm, self.rms = nn.LayerNorm(12), nn.RMSNorm(12)
        self.head = nn.Linear(12, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight
        self.checkpointed = checkpointed

    def block(self, hidden: Tensor) -> Tensor:
        hidden = hidden + F.relu(self.mix(self.norm(hidden)), inplace=True)
        return hidden + self.mix(self.rms(hidden)).tanh()

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens)
        if self.checkpointed is None:
            hidden = self.block(hidden)
        else:
            hidden = checkpoint(self.block, hidden, use_reentrant=self.checkpointed)
        return self.head(hidden)


def token_log_probs(logits: Tensor, actions: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)


class TokenMicro:
    """Sequences of unequal length, as a padded batch, flattened, or packed."""

    def __init__(self, seed: int, lengths: tuple[int, ...] = (3, 7, 1, 5, 7)) -> None:
        generator = seeded(seed)
        self.lengths = torch.tensor(lengths)
        self.tokens = [torch.randint(VOCABULARY, (n,), generator=generator) for n in lengths]
        self.actions = [torch.randint(VOCABULARY, (n,), generator=generator) for n in lengths]
        self.advantages = torch.randn(len(lengths), generator=generator, dtype=torch.float64)
        self.advantages[0] = 0.0  # it still names a direction

    def alone(self, module: nn.Module, i: int) -> Tensor:
        logits = module(self.tokens[i].unsqueeze(0))
        return token_log_probs(logits, self.actions[i].unsqueeze(0)).sum()

    def padded(self, module: nn.Module) -> tuple[Tensor, None]:
        tokens = nn.utils.rnn.pad_sequence(self.tokens, batch_first=True)
        actions = nn.utils.rnn.pad_sequence(self.actions, batch_first=True)
        mask = torch.arange(tokens.shape[1]) < self.lengths.unsqueeze(1)
        return torch.where(mask, token_log_probs(module(tokens), actions), 0).sum(1), None

    def rows(self, module: nn.Module, leading: tuple[int, ...], order: Tensor) -> tuple[Tensor, Tensor]:
        ids = torch.arange(len(self.lengths)).repeat_interleave(self.lengths)[order]
        tokens, actions = torch.cat(self.tokens)[order], torch.cat(self.actions)[order]
        log_probs = token_log_probs(module(tokens.reshape(leading)), actions.reshape(leading)).flatten()
        return log_probs.new_zeros(len(self.lengths)).index_add(0, ids, log_probs), ids.reshape(leading)

    def flattened(self, module: nn.Module) -> tuple[Tensor, Tensor]:
        order = torch.randperm(int(self.lengths.sum()), generator=seeded(1))  # rows need not be in order
        return self.rows(module, (-1,), order)

    def packed(self, module: nn.Module) -> tuple[Tensor, Tensor]:
        return self.rows(module, (1, -1), torch.arange(int(self.lengths.sum())))

    @property
    def micro(self) -> Micro:
        return Micro(self.alone, self.advantages)


MICROS = [TokenMicro(1), TokenMicro(2, (4, 4, 2)), TokenMicro(3, (6,)), TokenMicro(4, (2, 9, 9, 1, 3, 5))]


def run(module: nn.Module, layout: str, config: ProjectionConfig, **options: Any) -> None:
    with Proma(module, config, **options) as proma:
        for micro in MICROS:
            log_probs, ids = getattr(micro, layout)(module)
            proma.backward(log_probs, micro.advantages.to(log_probs.dtype), ids)


def expected(module: nn.Module, config: ProjectionConfig) -> dict[str, Tensor]:
    return oracle_gradients(copy.deepcopy(module).double(), [micro.micro for micro in MICROS], config)


# ------------------------------------------------------------------------------------------------ against the oracle


@pytest.mark.parametrize("config", TIERS, ids=lambda config: f"{config.method}-{config.max_removed}")
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
@pytest.mark.parametrize("config", TIERS, ids=lambda config: f"{config.method}-{config.max_removed}")
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


@pytest.mark.parametrize("workspace_bytes", [2**8, 2**20])
def test_a_large_embedding_is_projected_on_the_rows_that_occur(workspace_bytes: int) -> None:
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(400, 12, padding_idx=3), nn.Linear(12, VOCABULARY)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head((self.embedding(tokens * 5 + 2) + self.embedding(tokens * 7 + 3)).tanh())

    module = initialise(Large())
    wanted = expected(module, EXACT)
    run(module, "padded", EXACT, workspace_bytes=workspace_bytes)
    assert_gradients(module, wanted, 1e-9)
    with Proma(module, EXACT, record=True) as proma:
        log_probs, _ = MICROS[0].padded(module)
        proma.backward(log_probs, MICROS[0].advantages)
        (way,) = {record.gram_method for record in proma.stats() if record.parameter == "embedding.weight"}
    assert way.endswith("of tokens that occur")


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


@pytest.mark.parametrize("sizes", [(2, None), (3, 7), (1, 9)], ids=str)
@pytest.mark.parametrize("config", TIERS, ids=lambda config: f"{config.method}-{config.max_removed}")
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_virtual_microbatches_are_microbatches(layout: str, config: ProjectionConfig, sizes: tuple[int, Any]) -> None:
    """One backward pass over several microbatches equals one each, whether or not there was a gradient before."""
    size, workspace = sizes[0], {} if sizes[1] is None else {"workspace_bytes": 2 ** sizes[1]}
    module = initialise(TokenPolicy())
    pieces = []
    for micro in MICROS:
        for start in range(0, len(micro.lengths), size):
            rows = range(start, min(start + size, len(micro.lengths)))
            alone = lambda m, i, micro=micro, rows=rows: micro.alone(m, rows[i])  # noqa: E731
            pieces.append(Micro(alone, micro.advantages[list(rows)]))
    wanted = oracle_gradients(module, pieces, config)
    with Proma(module, config, record=True, **workspace) as proma:
        for micro in MICROS:
            log_probs, ids = getattr(micro, layout)(module)
            proma.backward(log_probs, micro.advantages, ids, microbatch_size=size)
        records = proma.stats()
    assert_gradients(module, wanted, 1e-9)
    assert {record.microbatch for record in records} == set(range(1, len(pieces)))


def test_virtual_microbatches_have_the_same_stats() -> None:
    module = initialise(Classifier())
    rows = torch.randn(12, 6, dtype=torch.float64, generator=seeded(0))
    advantages = torch.randn(12, dtype=torch.float64, generator=seeded(1))

    def stats(passes: int) -> list[Any]:
        module.zero_grad()
        with Proma(module, ProjectionConfig(), record=True) as proma:
            for part, weights in zip(rows.chunk(passes), advantages.chunk(passes), strict=True):
                proma.backward(module(part).log_softmax(-1)[:, 0], weights, microbatch_size=2)
            return sorted(proma.stats())

    separate, joined = stats(6), stats(1)
    assert [row[:2] for row in separate] == [row[:2] for row in joined]
    for first, second in zip(separate, joined, strict=True):
        assert first.removed_norm == pytest.approx(second.removed_norm, rel=1e-9)
        assert first.removed_ratio == pytest.approx(second.removed_ratio, rel=1e-9)
        assert first.clamped == second.clamped
    with Proma(module) as proma, pytest.raises(ValueError, match="microbatch_size must be at least 1, got 0"):
        proma.backward(module(rows)[:, 0], advantages, microbatch_size=0)


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


# --------------------------------------------------------------------------------------------------- generic rule


class Gain(nn.Module):
    """A user's layer with a scalar and a vector parameter and two arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.tensor(0.7)), nn.Parameter(torch.randn(6))

    def forward(self, rows: Tensor, temperature: Tensor, power: float = 1.0) -> Tensor:
        return (self.scale * rows + self.shift).tanh() / temperature**power


class Image(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.GroupNorm(2, 6)
        self.gain, self.out = Gain(), nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.relu(self.norm(self.conv(images)), inplace=True).mean((-1, -2))
        return self.out(self.gain(hidden, power=2.0, temperature=torch.full_like(hidden, 1.5)))


def test_generic_rule_equals_the_oracle() -> None:
    module = initialise(Image())
    images = torch.randn(3, 5, 1, 6, 6, dtype=torch.float64, generator=seeded(0))
    advantages = torch.randn(3, 5, dtype=torch.float64, generator=seeded(1))
    micros = [
        Micro(lambda m, i, x=x: m(x[i : i + 1]).log_softmax(-1)[0, i % 4], a)
        for x, a in zip(images, advantages, strict=True)
    ]
    wanted = oracle_gradients(module, micros, EXACT)
    with Proma(module, EXACT) as proma:
        for batch, weights in zip(images, advantages, strict=True):
            proma.backward(module(batch).log_softmax(-1)[range(5), torch.arange(5) % 4], weights)
    assert_gradients(module, wanted, 1e-9)


def test_a_registered_module_is_one_layer() -> None:
    class Actor(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.log_std, self.body = nn.Parameter(torch.zeros(2)), nn.Linear(3, 2)

        def forward(self, rows: Tensor) -> Tensor:
            return self.body(rows) * self.log_std.exp()

    module = initialise(Actor())
    with pytest.raises(ValueError, match=r"Actor.*log_std.*register_rule\(Actor\)\(generic\)"):
        Proma(module)
    register_rule(Actor)(generic)
    rows = torch.randn(2, 4, 3, dtype=torch.float64, generator=seeded(0))
    micros = [Micro(lambda m, i, x=x: m(x[i : i + 1]).sum(), torch.ones(4, dtype=torch.float64)) for x in rows]
    wanted = oracle_gradients(module, micros, ITERATIVE)
    with Proma(module) as proma:
        for x in rows:
            proma.backward(module(x).sum(1), torch.ones(4, dtype=torch.float64))
    assert_gradients(module, wanted, 1e-9)


class Mixing(nn.Module):
    """Rows that see each other: no rule can tell their gradients apart."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, rows: Tensor) -> Tensor:
        return (rows - rows.mean(0)) * self.weight


def test_rows_that_are_not_independent_are_noticed() -> None:
    module = nn.Sequential(nn.Linear(3, 3), Mixing()).double()
    with Proma(module) as proma, pytest.raises(ValueError, match=r"'1' \(Mixing\).*rows are not independent"):
        proma.backward(module(torch.randn(4, 3).double()).pow(2).sum(1), torch.ones(4).double())


def test_a_wrong_rule_is_noticed() -> None:
    class Mine(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input)

    register_rule(Mine)(lambda m, inputs, grad, layout: generic(m, inputs, grad * 2, layout))
    module = nn.Sequential(Mine(3, 2))
    with Proma(module) as proma, pytest.raises(ValueError, match=r"'0' .*its rule is wrong"):
        proma.backward(module(torch.randn(4, 3)).sum(1), torch.ones(4))
    register_rule(Mine)(lambda m, inputs, grad, layout: {})
    with Proma(module) as proma, pytest.raises(ValueError, match="its rule gives gradients for"):
        proma.backward(module(torch.randn(4, 3)).sum(1), torch.ones(4))


# ------------------------------------------------------------------------------------------ leaving no trace behind


def snapshot(module: nn.Module) -> list[Any]:
    return [{k: id(v) for k, v in child.__dict__.items()} for child in module.modules()]


def test_attach_and_remove_leaves_autograd_bit_identical() -> None:
    module = initialise(TokenPolicy(), torch.float32)

    def gradients() -> list[Tensor]:
        module.zero_grad()
        MICROS[0].padded(module)[0].sum().backward()
        return [p.grad for p in module.parameters() if p.grad is not None]

    before, state = gradients(), snapshot(module)
    proma = Proma(module)
    MICROS[1].padded(module)
    proma.remove()
    proma.remove()
    assert snapshot(module) == state
    assert not any(p._backward_hooks for p in module.parameters())
    for first, second in zip(before, gradients(), strict=True):
        assert torch.equal(first, second)


def test_forward_is_bit_identical_while_attached() -> None:
    module = initialise(TokenPolicy(), torch.float32)
    before = MICROS[0].padded(module)[0]
    with Proma(module):
        assert torch.equal(MICROS[0].padded(module)[0], before)
        with torch.no_grad():
            assert torch.equal(MICROS[0].padded(module)[0], before)
        with torch.inference_mode():
            assert torch.equal(MICROS[0].padded(module)[0], before)


def test_backward_outside_of_a_microbatch_is_plain() -> None:
    module = initialise(TokenPolicy())
    MICROS[0].padded(module)[0].sum().backward()
    wanted = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    for layout in ("padded", "packed"):
        module.zero_grad()
        with Proma(module):
            getattr(MICROS[0], layout)(module)[0].sum().backward()
        assert_gradients(module, wanted, 1e-12)


def test_a_failed_attach_leaves_no_trace() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    state = snapshot(module)
    with pytest.raises(ValueError, match=r"'1' \(BatchNorm1d\).*weight, bias.*GroupNorm"):
        Proma(module)
    assert snapshot(module) == state and not module[0].weight._backward_hooks


def test_copies_and_pickles_of_an_attached_module_are_ordinary() -> None:
    module = initialise(Classifier(), torch.float32)
    rows = torch.randn(4, 6)
    with Proma(module) as proma:
        for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            with torch.no_grad():
                other.layers[0].weight.zero_()
                other.layers[0].bias.zero_()
            assert not torch.equal(other(rows), module(rows))
            other(rows).sum().backward()
        assert all(p.grad is None for p in module.parameters())
        proma.backward(module(rows).sum(1), torch.ones(4))
    torch.save(module.state_dict(), io.BytesIO())


def test_a_forward_replaced_on_the_instance_is_refused_where_a_rule_would_be_blind_to_it() -> None:
    module = initialise(Classifier(), torch.float32)
    module.forward = lambda rows: module.layers(rows) * 2.0  # on a container nothing depends on it
    with Proma(module) as proma:
        proma.backward(module(torch.randn(4, 6))[:, 0], torch.ones(4))
    plain = module.layers[0].forward
    module.layers[0].forward = lambda rows: plain(rows) * 2
    with pytest.raises(ValueError, match=r"'layers.0' \(Linear\).*forward was replaced"):
        Proma(module)


def test_a_pass_that_wants_another_gradient_leaves_nothing_behind() -> None:
    module = initialise(Classifier(), torch.float32)
    rows = torch.randn(4, 6, requires_grad=True)
    module(rows).sum().backward()
    wanted = {name: p.grad.clone() for name, p in module.named_parameters()}
    with Proma(module) as proma:
        module.zero_grad()
        torch.autograd.grad(module(rows).sum(), rows)
        module(rows).sum().backward()
        assert_gradients(module, wanted, 1e-6)
        module.zero_grad()
        torch.autograd.grad(module(rows[:2]).sum(), rows)
        proma.backward(module(rows).sum(1), torch.ones(4))
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(parameter.grad, -wanted[name])


def test_gradients_are_complete_when_the_backward_pass_returns() -> None:
    module = initialise(TokenPolicy())
    wanted = expected(module, EXACT)
    with Proma(module, EXACT) as proma:
        for micro in MICROS:
            log_probs, _ = micro.padded(module)
            with proma.microbatch(micro.advantages):
                (-log_probs.sum()).backward()
                if micro is MICROS[-1]:
                    assert_gradients(module, wanted, 1e-9)


def test_an_error_half_way_leaves_nothing_behind() -> None:
    module = initialise(TokenPolicy())
    wanted = expected(module, EXACT)
    with Proma(module, EXACT) as proma:
        handle = module.embedding.weight.register_hook(lambda _: 1 / 0)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                proma.backward(MICROS[0].padded(module)[0], MICROS[0].advantages)
        handle.remove()
        module.zero_grad()
        for micro in MICROS:
            proma.backward(micro.padded(module)[0], micro.advantages)
    assert_gradients(module, wanted, 1e-9)


def test_parameters_of_others_are_refused() -> None:
    module, temperature = initialise(Classifier(), torch.float32), nn.Parameter(torch.ones(()))
    with Proma(module) as proma, pytest.raises(ValueError, match=r"shape \[\] that is not part of the module"):
        proma.backward(module(torch.randn(4, 6))[:, 0] * temperature, torch.ones(4))


def test_a_layer_may_keep_its_output() -> None:
    class Sigmoid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, generator=seeded(0)))

        def forward(self, rows: Tensor, *, scale: float = 1.0) -> Tensor:
            return torch.sigmoid(rows * self.weight * scale)

    module = Sigmoid().double()
    rows = torch.randn(2, 4, 6, dtype=torch.float64, generator=seeded(0))
    micros = [Micro(lambda m, i, x=x: m(x[i : i + 1]).sum(), torch.ones(4, dtype=torch.float64)) for x in rows]
    wanted = oracle_gradients(module, micros, EXACT)
    with Proma(module, EXACT) as proma:
        for x in rows:
            proma.backward(module(x).sum(1), torch.ones(4, dtype=torch.float64))
        assert_gradients(module, wanted, 1e-9)
        with pytest.raises(TypeError, match="arguments by position; got scale"):
            module(rows[0], scale=2.0)


def test_a_gradient_of_zero_proves_nothing_about_a_rule() -> None:
    module = nn.Sequential(Mixing(), nn.Linear(3, 1, bias=False)).double()
    nn.init.zeros_(module[1].weight)
    rows, ones = torch.randn(4, 3, generator=seeded(0)).double(), torch.ones(4).double()
    with Proma(module) as proma:
        proma.backward(module(rows).squeeze(1), ones)
        nn.init.ones_(module[1].weight)
        with pytest.raises(ValueError, match="rows are not independent"):
            proma.backward(module(rows).squeeze(1).square(), ones)


# ------------------------------------------------------------------------------------------------- what it costs


class CountProducts(TorchDispatchMode):
    """Counts matrix products by the number of elements of their result."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket.__name__.rstrip("_") in {"mm", "addmm", "bmm", "baddbmm"}:
            self.sizes.append(result.numel())
        return result


def test_autograd_computes_no_weight_gradient() -> None:
    module = initialise(Classifier(), torch.float32)
    rows = torch.randn(8, 6)

    def products(backward: Callable[[Tensor], None]) -> list[int]:
        log_probs = token_log_probs(module(rows), torch.zeros(8, dtype=torch.long))
        with CountProducts() as counter:
            backward(log_probs)
        return sorted(size for size in counter.sizes if size > 24)  # those of the biases are B products with vectors

    plain = products(lambda log_probs: log_probs.sum().backward())
    with Proma(module) as proma:
        module.zero_grad()
        assert products(lambda log_probs: proma.backward(log_probs, torch.ones(8))) == plain


def test_activations_are_kept_not_copied() -> None:
    layer = nn.Linear(6, 5)
    rows = torch.randn(8, 6, requires_grad=True)
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.data_ptr())
        return tensor

    with Proma(layer), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = layer(rows)
    assert rows.data_ptr() in kept and output.data_ptr() not in kept
    assert len(kept) == 2  # the input for the weight's gradient and the weight for the input's


def test_gradients_are_released_layer_by_layer() -> None:
    """A layer's gradient is made before the layers below run: nothing is held until the end of the pass."""
    module = nn.Sequential(*[nn.Linear(3, 3) for _ in range(4)])
    order: list[str] = []
    for number, layer in enumerate(module):
        layer.weight.register_post_accumulate_grad_hook(lambda _, n=number: order.append(f"weight {n}"))
        layer.register_full_backward_pre_hook(lambda *_, n=number: order.append(f"output {n}"))
    with Proma(module) as proma:
        proma.backward(module(torch.randn(2, 3, requires_grad=True)).sum(1), torch.ones(2))
    assert order == [f"{what} {n}" for n in (3, 2, 1, 0) for what in ("output", "weight")]


# --------------------------------------------------------------------------------------------------------- stats


def test_stats() -> None:
    module = initialise(Classifier())
    rows = torch.randn(8, 6, dtype=torch.float64, generator=seeded(0))
    ones = torch.ones(8, dtype=torch.float64)
    with Proma(module, ProjectionConfig("exact", max_removed=None), record=True) as proma:
        proma.backward(module(rows).log_softmax(-1)[:, 0], ones)
        assert proma.stats() == []  # the first microbatch has nothing to project
        before = {name: p.grad.clone() for name, p in module.named_parameters()}
        proma.backward(module(rows).log_softmax(-1)[:, 0], 0 * ones)
        records = {record.parameter: record for record in proma.stats()}
        assert set(records) == set(before)
        for name, parameter in module.named_parameters():
            removed = (before[name] - parameter.grad).norm()
            assert records[name].removed_norm == pytest.approx(float(removed), rel=1e-9)
            assert records[name].removed_ratio == pytest.approx(float(removed / before[name].norm()), rel=1e-9)
            assert records[name].microbatch == 1 and not records[name].clamped
            assert records[name].removed_ratio == pytest.approx(1, rel=1e-6)  # the very same sequences again
        proma.clear_stats()
        assert proma.stats() == []
    with Proma(module) as proma, pytest.raises(RuntimeError, match="record=True"):
        proma.stats()


# --------------------------------------------------------------------------------------------------- wrong uses


@contextmanager
def unchecked_shapes() -> Iterator[None]:
    """As outside of pytest: the annotations are not checked."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def attached(module: nn.Module | None = None) -> tuple[nn.Module, Proma, Tensor]:
    module = module or initialise(Classifier(), torch.float32)
    return module, Proma(module), torch.randn(4, 6)


@pytest.mark.parametrize(
    ("log_probs", "advantages", "ids", "message"),
    [
        (lambda out: out[:, 0], torch.ones(3), None, r"log_probs has shape \[4\] and advantages \[3\]"),
        (lambda out: out[:, 0], torch.ones(4, 1), None, r"advantages \[4, 1\]"),
        (lambda out: out, torch.ones(4, 5), None, r"log_probs must be .*\[4, 5\]"),
        (lambda out: out[:0, 0], torch.ones(0), None, r"log_probs must be .*\[0\]"),
        (lambda out: out[:, 0] / 0, torch.ones(4), None, "log_probs must be finite"),
        (lambda out: out[:, 0], torch.tensor([1, 2, float("nan"), 3]), None, r"sequences \[2\]"),
        (lambda out: out[:, 0], torch.ones(4, dtype=torch.long), None, "advantages must be floating-point"),
        (lambda out: out[:, 0].detach(), torch.ones(4), None, "does not depend on the module"),
        (lambda out: torch.randn(4, requires_grad=True), torch.ones(4), None, "does not depend on the module"),
        (lambda out: out[:2, 0], torch.ones(2), None, r"shape \[4, 5\], whose first axis is not the 2 sequences"),
        (lambda out: out[:2, 0], torch.ones(2), torch.tensor([0, 0, 1]), r"\[4, 5\].*sequence_ids, \[3\]"),
        (lambda out: out[:2, 0], torch.ones(2), torch.tensor([0, 0, 1, 2]), "between 0 and 1.* from 0 to 2"),
        (lambda out: out[:2, 0], torch.ones(2), torch.tensor([0.0, 0, 1, 1]), "whole numbers"),
        (lambda out: out[:2, 0], torch.ones(2), torch.zeros(0, dtype=torch.long), "sequence_ids is empty"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_changes(
    log_probs: Callable[[Tensor], Tensor], advantages: Tensor, ids: Tensor | None, message: str
) -> None:
    module, proma, rows = attached()
    proma.backward(module(rows)[:, 0], torch.ones(4))
    before = [p.grad.clone() for p in module.parameters()]
    with pytest.raises(ValueError, match=message), unchecked_shapes():
        proma.backward(log_probs(module(rows)), advantages, ids)
    assert all(torch.equal(p.grad, old) for p, old in zip(module.parameters(), before, strict=True))
    proma.backward(module(rows)[:, 0], torch.ones(4))  # and the engine goes on working


def test_a_graph_from_before_the_attach_is_refused() -> None:
    module = initialise(Classifier(), torch.float32)
    log_probs = module(torch.randn(4, 6))[:, 0]
    with Proma(module) as proma, pytest.raises(ValueError, match="does not depend on the module"):
        proma.backward(log_probs, torch.ones(4))


def test_a_second_proma_is_refused() -> None:
    module, proma, _ = attached()
    with pytest.raises(ValueError, match="has a Proma attached already"):
        Proma(module)
    proma.remove()
    Proma(module).remove()


def test_microbatches_do_not_nest_and_must_reach_the_module() -> None:
    _, proma, _ = attached()
    with (
        pytest.raises(RuntimeError, match="cannot be nested"),
        proma.microbatch(torch.ones(4)),
        proma.microbatch(torch.ones(4)),
    ):
        pass
    with pytest.raises(RuntimeError, match="no gradient of this microbatch"), proma.microbatch(torch.ones(4)):
        pass


def test_a_weight_used_directly_is_noticed() -> None:
    module, proma, rows = attached()
    hidden = module(rows)
    leak = F.linear(rows, module.layers[0].weight).sum(1)
    with pytest.raises(RuntimeError, match=r"'layers.0.weight'.*outside of its module's forward"):
        proma.backward(hidden.sum(1) + leak, torch.ones(4))
    with pytest.raises(RuntimeError, match=r"outside of its module's forward"), proma.microbatch(torch.ones(4)):
        (module(rows).sum() + module.layers[2].bias.sum()).backward()


def test_positions_that_are_shared_by_the_batch_are_refused() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = nn.Embedding(5, 6), nn.Linear(6, 3)

        def forward(self, rows: Tensor) -> Tensor:
            return self.out(rows + self.table(torch.arange(5).unsqueeze(0)))

    module = Positions()
    with Proma(module) as proma, pytest.raises(ValueError, match=r"'table' \(Embedding\).*expand it over the batch"):
        proma.backward(module(torch.randn(4, 5, 6)).sum((1, 2)), torch.ones(4))


def test_a_module_shared_between_reentrant_checkpoints_is_refused() -> None:
    layer = nn.Linear(3, 3)
    with Proma(layer) as proma, pytest.raises(RuntimeError, match="use_reentrant=False"):
        hidden = checkpoint(layer, torch.randn(2, 3, requires_grad=True), use_reentrant=True)
        proma.backward(checkpoint(layer, hidden, use_reentrant=True).sum(1), torch.ones(2))
    with Proma(layer) as proma:
        hidden = checkpoint(layer, torch.randn(2, 3), use_reentrant=False)
        proma.backward(checkpoint(layer, hidden, use_reentrant=False).sum(1), torch.ones(2))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.GRU(3, 3), r"the module \(GRU\).*cell of Linear layers"),
        (nn.MultiheadAttention(4, 2), "without calling their modules"),
        (nn.Sequential(nn.Embedding(4, 4, max_norm=1.0)), r"'0' \(Embedding\).*max_norm"),
        (nn.EmbeddingBag(4, 4), "sums rows"),
        (nn.utils.parametrizations.orthogonal(nn.Linear(3, 3)), "parametrized weight"),
        (nn.ReLU(), "ReLU has no trainable parameter"),
    ],
)
def test_uncovered_modules_are_refused_by_name(module: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Proma(module)


def test_qr_is_refused_in_the_engine() -> None:
    with pytest.raises(ValueError, match="use 'exact'"):
        Proma(nn.Linear(2, 2), ProjectionConfig("qr"))


def test_a_layer_that_returns_a_tuple_is_refused() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
            return rows * self.weight, rows

    module = Two()
    with Proma(module), pytest.raises(TypeError, match=r"the module \(Two\): forward returned a tuple"):
        module(torch.randn(2, 3))


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
