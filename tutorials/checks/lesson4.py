"""Inside the backward pass: rules, Gram matrices by tokens, tied weights, the clamp."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from checks import exercise, saying
from proma_bench.backward.factors import SequenceGrads
from proma_bench.backward.layout import Layout
from proma_bench.projection.config import ProjectionConfig
from proma_bench.projection.gram import clamp, gram_norm, removable

CLOSE = 1e-9  # relative; float64 throughout
LENGTHS = (3, 1, 4)


@exercise
def affine_rule(layer: type[nn.Module], rule: Callable[..., Mapping[str, SequenceGrads]]) -> str:
    module = layer(5, 4)
    padded = _normal(3, 2, 5)
    _compare(module, rule, padded, _normal(3, 2, 4), Layout(3), torch.arange(3).repeat_interleave(2))
    ids = torch.arange(3).repeat_interleave(torch.tensor(LENGTHS))
    packed, output_grads = _normal(1, len(ids), 5), _normal(1, len(ids), 4)
    with saying("Padded rows come out right, packed ones do not: group inputs and output gradients with layout.group"):
        _compare(module, rule, packed, output_grads, Layout(3, ids.unsqueeze(0)), ids)
    return "Each sequence has its own gradient, from one backward pass, padded or packed."


def _compare(
    module: nn.Module, rule: Callable[..., object], rows: Tensor, grads: Tensor, layout: Layout, ids: Tensor
) -> None:
    found = rule(module, (rows,), grads, layout)
    names = [name for name, _ in module.named_parameters()]
    given = sorted(found) if isinstance(found, Mapping) else type(found).__name__
    assert given == sorted(names), f"The layer has the parameters {sorted(names)}; your rule gives {given}."
    for name, parameter in module.named_parameters():
        seq_grads = found[name]
        kind = type(seq_grads).__name__
        assert isinstance(seq_grads, SequenceGrads), f"{name!r}: wrap the sequence gradients, Dense(...), not a {kind}."
        _compare_one(name, parameter, _written(name, seq_grads, parameter), module, rows, grads, ids)


def _compare_one(
    name: str, parameter: nn.Parameter, found: Tensor, module: nn.Module, rows: Tensor, grads: Tensor, ids: Tensor
) -> None:
    flat, flat_grads = rows.flatten(0, -2), grads.flatten(0, -2)
    expected = torch.stack(
        [
            torch.autograd.grad((module(flat[ids == i]) * flat_grads[ids == i]).sum(), parameter)[0]
            for i in range(int(ids.max()) + 1)
        ]
    )
    lengths = torch.bincount(ids).to(expected.dtype).view(-1, *[1] * parameter.ndim)
    for suspect, words in (
        (expected / lengths, "a mean over the tokens of a sequence; its log-prob is a sum, and so is its gradient"),
        (expected.sum(0).expand_as(expected), "the sum over all sequences; each must have its own"),
        (-expected, "right but for the sign; nothing is to be negated here"),
    ):
        assert not _close(found, suspect), f"{name!r}: this is {words}."
    assert _close(found, expected), (
        f"{name!r}: sequence {int((found - expected).flatten(1).norm(dim=1).argmax())} differs most from autograd's "
        f"gradient of that sequence alone (relative error {float((found - expected).norm() / expected.norm()):.1e})."
    )


def _written(name: str, seq_grads: SequenceGrads, parameter: Tensor) -> Tensor:
    """The sequence gradients [B, *W], however the rule returned them."""
    dense = getattr(seq_grads, "seq_grads", None)
    if dense is not None:
        shape = list(dense.shape[1:])
        turned = shape == list(parameter.shape[::-1]) and shape != list(parameter.shape)
        hint = " That is the order of nn.Linear; here x comes first and g second." if turned else ""
        assert shape == list(parameter.shape), (
            f"{name!r}: a sequence's gradient has the parameter's shape, {list(parameter.shape)}; got {shape}.{hint}"
        )
        return dense
    written = parameter.new_empty(3, *parameter.shape)
    try:
        seq_grads.write_rows(written, 0, add=False)
    except RuntimeError as error:
        raise AssertionError(f"{name!r}: these factors do not give {list(parameter.shape)}: {error}") from None
    return written.detach()


@exercise
def packed_gram(answer: Callable[..., Tensor]) -> str:
    ids = torch.tensor([0, 2, 0, 1, 2, 2, 0])  # tokens of a sequence need not even be neighbours
    for order in (ids.sort().values, ids):
        G, X = _normal(len(ids), 4), _normal(len(ids), 5)
        seq_grads = torch.zeros(3, 4, 5, dtype=torch.float64).index_add_(0, order, G.unsqueeze(2) * X.unsqueeze(1))
        expected = torch.einsum("ioc,joc->ij", seq_grads, seq_grads)
        found = answer(G, X, order, 3)
        _require_shape("The Gram matrix", found, (3, 3), "there is one entry for each pair of sequences")
        separate = _blocks(G @ G.T, order) * _blocks(X @ X.T, order)
        assert not _close(found, separate), "Multiply before you sum: the blocks of GG' and XX' were summed first."
        own = expected.diag().diag_embed()
        assert not _close(found, own), (
            "The diagonal is right; sequences i and j that differ have an inner product, too."
        )
        where = "" if order is not ids else " when the tokens of a sequence are not neighbours"
        assert _close(found, expected), f"This is not the Gram matrix of the sequence gradients{where}."
    return "A Gram matrix of gradients that were never written out."


@exercise
def tied(answer: Callable[..., tuple[Tensor, Tensor]]) -> str:
    E, H, A = _normal(3, 20), _normal(3, 20), _normal(20)
    found, overlap = answer(E, H, A)
    expected = (E + H) @ (E + H).T
    _require_shape("K", found, (3, 3), "there is one entry for each pair of sequences")
    _require_shape("c", overlap, (3,), "there is one overlap for each sequence")
    for suspect, words in (
        (E @ E.T + H @ H.T, "the cross terms <E_i, H_j> and <H_i, E_j> are missing from K"),
        (H @ H.T, "K has forgotten the embedding: the tensor is used twice"),
        (E @ E.T, "K has forgotten the head: the tensor is used twice"),
        (E @ E.T + H @ H.T + E @ H.T, "K has one of the two cross terms, and is not symmetric"),
    ):
        assert not _close(found, suspect), f"Almost: {words}."
    assert _close(found, expected), "K is not the Gram matrix of E_i + H_i."
    assert _close(overlap, (E + H) @ A), "K is right; c must be the overlaps of A with E_i + H_i, both uses."
    return "Two uses, one tensor, one gradient per sequence."


@exercise
def rho(answer: Callable[..., float]) -> str:
    seq_grads, w, a = _normal(4, 9), _normal(4), _normal(4)
    K = seq_grads @ seq_grads.T
    component, gradient = gram_norm(K, w), gram_norm(K, a)
    for beta in (0.1, float(component / gradient) * 3):
        expected = float(clamp(component, removable(gradient, ProjectionConfig(max_removed=beta))))
        found = float(answer(K, w, a, beta))
        assert found <= 1 + CLOSE, f"rho came out as {found:.3g}: never remove more than the whole component, rho <= 1."
        square = min(1.0, beta * float((gradient / component) ** 2))
        assert abs(found - square) > CLOSE or abs(found - expected) <= CLOSE, "These are squared norms: take the roots."
        plain = min(1.0, beta * float(a.norm() / w.norm()))
        assert abs(found - plain) > CLOSE or abs(found - expected) <= CLOSE, (
            "These are norms of coefficients; those of gradients need K between them: w'Kw and a'Ka."
        )
        assert abs(found - expected) <= CLOSE, f"With beta {beta:.2g}, rho is {expected:.4g}; yours is {found:.4g}."
    return "Both norms come from the Gram matrix, so the clamp costs nothing."


# ----------------------------------------------------------------------------------------------------- helpers


def _normal(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def _blocks(pairs: Tensor, ids: Tensor) -> Tensor:
    members = torch.nn.functional.one_hot(ids).to(pairs.dtype)
    return members.T @ pairs @ members


def _close(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and bool((found - expected).norm() <= CLOSE * expected.norm())


def _require_shape(name: str, found: object, shape: tuple[int, ...], why: str) -> None:
    got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
    assert got == shape, f"{name} has shape {shape}, as {why}; yours is {got}."
