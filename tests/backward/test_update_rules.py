"""Any update rule in a backward pass, against the same rule on gradients that are written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from backward_policies import MICROS, Classifier, TokenPolicy, initialise, seeded
from oracle import assert_gradients
from rule_oracles import CASES, isopo, literal_gradients, noninteracting, norm, pieces_of, shrink
from torch import Tensor, nn

from proma_bench import ProjectionConfig, Proma
from proma_bench.projection.rules.isopo import Isopo, NonInteractingIsopo
from proma_bench.projection.rules.observe import Observe
from proma_bench.projection.rules.shrink import Shrink
from proma_bench.projection.updates import RuleError, Update

NAMES = [f"{type(rule).__name__}-{number}" for number, (rule, _) in enumerate(CASES)]


@pytest.mark.parametrize("size", [None, 2])
@pytest.mark.parametrize(("rule", "literal"), CASES, ids=NAMES)
def test_a_rule_is_what_it_is_on_written_out_gradients(rule: Any, literal: Any, size: int | None) -> None:
    """Also for virtual microbatches; a tied weight is one tensor."""
    module = initialise(TokenPolicy())
    wanted = literal_gradients(module, pieces_of(size or 100), literal)
    with Proma(module, rule) as proma:
        for micro in MICROS:
            log_probs, ids = micro.packed(module)
            proma.backward(log_probs, micro.advantages, ids, microbatch_size=size)
    assert_gradients(module, wanted, 1e-6 if isinstance(rule, Shrink) else 1e-9)


@pytest.mark.parametrize("watched", [False, True], ids=["in place", "watched"])
@pytest.mark.parametrize("workspace", [2**20, 2**8])
@pytest.mark.parametrize(
    ("rule", "literal"), [(Isopo(), isopo(1.0)), (Shrink(), shrink(ProjectionConfig()))], ids=["isopo", "shrink"]
)
def test_however_the_gradient_gets_there(rule: Any, literal: Any, workspace: int, watched: bool) -> None:
    """Added in place or returned to autograd, in one flush or in many, and on top of a gradient from elsewhere."""
    module = initialise(TokenPolicy())
    if watched:
        for parameter in module.parameters():
            parameter.register_post_accumulate_grad_hook(lambda parameter: None)
    before = {name: torch.randn(p.shape, dtype=p.dtype, generator=seeded(3)) for name, p in module.named_parameters()}
    wanted = literal_gradients(module, pieces_of(3), literal, before)
    for name, parameter in module.named_parameters():
        parameter.grad = before[name].clone()
    with Proma(module, rule, workspace_bytes=workspace) as proma:
        for micro in MICROS:
            log_probs, _ = micro.padded(module)
            proma.backward(log_probs, micro.advantages, microbatch_size=3)
    assert_gradients(module, wanted, 1e-6)


def test_unprojected_parameters_accumulate_plainly() -> None:
    module, micro = initialise(TokenPolicy()), MICROS[0]
    plain = torch.autograd.grad(-(micro.advantages * micro.padded(module)[0]).sum(), module.mix.weight)[0]
    with Proma(module, Isopo(), unprojected=["mix.weight"]) as proma:
        proma.backward(micro.padded(module)[0], micro.advantages)
    torch.testing.assert_close(module.mix.weight.grad, plain)


# ----------------------------------------------------------------------------------------------- your own function


def normalised(gram: Tensor, overlap: Tensor, advantages: Tensor) -> Tensor:
    return advantages / (gram.diagonal(dim1=-2, dim2=-1) + gram.diagonal(dim1=-2, dim2=-1).mean(-1, True)).sqrt()


def test_a_plain_function_is_a_rule() -> None:
    module = initialise(TokenPolicy())
    wanted = literal_gradients(module, pieces_of(2), noninteracting(1.0, 1.0))
    with Proma(module, normalised) as proma:
        for micro in MICROS:
            proma.backward(micro.padded(module)[0], micro.advantages, microbatch_size=2)
    assert_gradients(module, wanted, 1e-9)


def test_a_function_sees_float64_with_one_row_of_advantages_for_each_tensor() -> None:
    module, seen = initialise(Classifier(), torch.float32), []

    def looks(gram: Tensor, overlap: Tensor, advantages: Tensor, *, running_norm: Tensor) -> Update:
        seen.append((gram, overlap, advantages, running_norm))
        gram.zero_()  # its own copies
        return Update(advantages, kept=0.5)

    rows = torch.randn(4, 6, generator=seeded(0))
    before = {name: torch.ones_like(p) for name, p in module.named_parameters()}
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    with Proma(module, looks) as proma:
        proma.backward(module(rows).log_softmax(-1)[:, 0], torch.ones(4))
    tensors = len(before)
    for gram, overlap, advantages, running_norm in seen:
        assert all(values.dtype == torch.float64 for values in (gram, overlap, advantages, running_norm))
        assert gram.shape[1:] == (4, 4) and overlap.shape == advantages.shape == gram.shape[:2]
        assert running_norm.shape == gram.shape[:1]
    assert sum(len(gram) for gram, *_ in seen) == tensors
    plain = torch.autograd.grad(-module(rows).log_softmax(-1)[:, 0].sum(), list(module.parameters()))
    for parameter, gradient in zip(module.parameters(), plain, strict=True):
        torch.testing.assert_close(parameter.grad, gradient + 0.5)


def raises(gram: Tensor, overlap: Tensor, advantages: Tensor) -> Tensor:
    return gram @ torch.ones(99, dtype=torch.float64)


FAULTS = {
    "raises": (raises, "raised RuntimeError: "),
    "nothing": (lambda gram, overlap, advantages: None, "returned coefficients, which must be a tensor: None"),
    "a sum": (lambda gram, overlap, advantages: advantages.sum(-1), r"of shape \[[0-9]+\]; it must be \[[0-9]+, 4\]"),
    "float32": (lambda gram, overlap, advantages: advantages.float(), "in torch.float32 on cpu; it must be torch.fl"),
    "NaN": (lambda gram, overlap, advantages: advantages / 0, "with NaN or infinity, from finite arguments"),
    "a factor": (
        lambda gram, overlap, advantages: Update(advantages, kept=advantages),
        r"a factor on the running gradient of shape \[[0-9]+, 4\]",
    ),
    "no factor": (
        lambda gram, overlap, advantages: Update(advantages, kept=float("nan")),
        "which must be a tensor: nan",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_a_function_is_one_line_that_names_it(fault: str) -> None:
    rule, message = FAULTS[fault]
    module = initialise(Classifier())
    rows, zeros = torch.randn(4, 6, dtype=torch.float64, generator=seeded(0)), torch.zeros(4, dtype=torch.float64)
    with Proma(module, rule) as proma, pytest.raises(RuleError, match=message) as caught:
        proma.backward(module(rows).log_softmax(-1)[:, 0], zeros)
    assert "\n" not in str(caught.value) and __file__ in str(caught.value)
    assert rule.__qualname__ in str(caught.value)
    assert all(parameter.grad is None for parameter in module.parameters())


def two(gram: Tensor, overlap: Tensor) -> Tensor:
    return overlap


def asks_for_more(gram: Tensor, overlap: Tensor, advantages: Tensor, *, weights: Tensor) -> Tensor:
    return overlap


@pytest.mark.parametrize("rule", [two, asks_for_more, Isopo])
def test_what_cannot_be_a_rule_is_refused_before_anything_is_attached(rule: Any) -> None:
    module = nn.Linear(2, 2)
    with pytest.raises(RuleError, match=r"gram, overlap, advantages"):
        Proma(module, rule)
    Proma(module).remove()


# ------------------------------------------------------------------------------------------------------- records


@pytest.mark.parametrize("size", [None, 2])
def test_records_are_of_the_change_from_plain_accumulation(size: int | None) -> None:
    module, literal = initialise(Classifier()), noninteracting(1.0, 1.0)
    rows = torch.randn(6, 6, dtype=torch.float64, generator=seeded(0))
    advantages = torch.randn(6, dtype=torch.float64, generator=seeded(1))
    with Proma(module, NonInteractingIsopo(), record=True) as proma:
        for part, weights in zip(rows.split(6 if size else 2), advantages.split(6 if size else 2), strict=True):
            proma.backward(module(part).log_softmax(-1)[:, 0], weights, microbatch_size=size)
        records = {(record.parameter, record.microbatch): record for record in proma.stats()}
    for name, parameter in module.named_parameters():
        running = torch.zeros(parameter.numel(), dtype=torch.float64)
        for number in range(3):
            seq_grads = []
            for row in rows[2 * number : 2 * number + 2]:
                (gradient,) = torch.autograd.grad(-module(row).log_softmax(-1)[0], parameter)
                seq_grads.append(gradient.flatten())
            own = advantages[2 * number : 2 * number + 2]
            plain = running + own @ torch.stack(seq_grads)
            running = literal(running, torch.stack(seq_grads), own)
            record = records.pop((name, number))
            assert record.removed_norm == pytest.approx(norm(running - plain), rel=1e-6)
            assert record.removed_ratio == pytest.approx(norm(running - plain) / norm(plain), rel=1e-6)
    assert not records


def test_a_rule_that_leaves_the_first_microbatch_has_no_record_of_it() -> None:
    module = initialise(Classifier())
    rows, ones = torch.randn(4, 6, dtype=torch.float64, generator=seeded(0)), torch.ones(4, dtype=torch.float64)
    with Proma(module, Shrink(ProjectionConfig("exact", max_removed=None)), record=True) as proma:
        for _ in range(2):
            proma.backward(module(rows).log_softmax(-1)[:, 0], ones)
        records = proma.stats()
    assert {record.microbatch for record in records} == {1}
    assert all(record.removed_ratio == pytest.approx(1, rel=1e-5) for record in records)  # the very same sequences


def test_observations_are_in_the_records_of_each_tensor_and_microbatch() -> None:
    module, advantages = initialise(Classifier()), torch.tensor([1.0, -1.0, 2.0, 1.0, 1.0], dtype=torch.float64)
    rows = torch.randn(5, 6, dtype=torch.float64, generator=seeded(0))
    with Proma(module, Observe(), record=True) as proma:
        proma.backward(module(rows).log_softmax(-1)[:, 0], advantages, microbatch_size=2)
        records = proma.stats()
    names = [name for name, _ in module.named_parameters()]
    assert {(record.parameter, record.microbatch) for record in records} == {(n, m) for n in names for m in range(3)}
    for record in records:
        start = 2 * record.microbatch
        parameter = module.get_parameter(record.parameter)
        norms = [
            float(torch.autograd.grad(module(row).log_softmax(-1)[0], parameter)[0].norm())
            for row in rows[start : start + 2]
        ]
        assert record.observed["norms"] == pytest.approx(norms)
        assert 1 - 1e-9 <= record.observed["effective_rank"] <= len(norms) + 1e-9
        assert record.removed_norm == record.removed_ratio == 0


def test_what_a_rule_keeps_is_not_rounded_with_what_it_adds() -> None:
    """A hook must not change the result. In 16 bits, a large gradient that is taken away would drown a small one."""

    def gradient(*, watched: bool) -> Tensor:
        module = nn.Linear(3, 1, bias=False).to(torch.bfloat16)
        module.weight.grad = torch.full_like(module.weight, 1e3)
        if watched:
            module.weight.register_post_accumulate_grad_hook(lambda _: None)
        with Proma(module, lambda gram, overlap, advantages: Update(advantages, kept=0.0)) as proma:
            rows = torch.tensor([[0.3, 0.7, 0.2], [0.9, 0.1, 0.4]], dtype=torch.bfloat16)
            proma.backward(module(rows).flatten(), torch.tensor([1.0, 0.5]))
        return module.weight.grad

    assert torch.equal(gradient(watched=True), gradient(watched=False))


def test_a_rule_that_fails_changes_nothing_or_the_error_says_what_has_changed() -> None:
    def failing(gram: Tensor, overlap: Tensor, advantages: Tensor) -> Tensor:
        raise ArithmeticError("no step")

    for watched in (False, True):
        module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1).double())
        module[1].register_forward_pre_hook(lambda _, rows: rows[0].double())
        if watched:  # its gradient is returned to autograd at once, and is plain
            module[1].weight.register_hook(lambda gradient: None)
        left_out = ["1.weight"] if watched else []
        with Proma(module, failing, unprojected=left_out) as proma, pytest.raises(RuleError) as error:
            proma.backward(module(torch.randn(2, 3)).flatten(), torch.ones(2))
        changed = [name for name, parameter in module.named_parameters() if parameter.grad is not None]
        assert changed == (["1.weight"] if watched else [])
        assert any("zero_grad" in note for note in getattr(error.value, "__notes__", [])) == watched
