"""Inside the backward pass: rules, Gram matrices by tokens, tied weights, the clamp."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from checks import exercise, normal, number, pair, saying, tensor
from proma_bench.backward.factors import SequenceGrads
from proma_bench.backward.layout import Layout
from proma_bench.projection.config import ProjectionConfig
from proma_bench.projection.gram import clamp, gram_norm, removable

CLOSE = 1e-9  # relative; float64 throughout
LENGTHS = (3, 1, 4)


@exercise
def affine_rule(layer: type[nn.Module], rule: Callable[..., Mapping[str, SequenceGrads]]) -> str:
    module, draw = layer(5, 4), normal(0)
    _compare(module, rule, draw(3, 2, 5), draw(3, 2, 4), Layout(3), torch.arange(3).repeat_interleave(2))
    ids = torch.arange(3).repeat_interleave(torch.tensor(LENGTHS))
    packed, output_grads = draw(1, len(ids), 5), draw(1, len(ids), 4)
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
        hint = " That is the order of nn.Linear; here x comes first and d second." if turned else ""
        assert shape == list(parameter.shape), (
            f"{name!r}: a sequence's gradient has the parameter's shape, {list(parameter.shape)}; got {shape}.{hint}"
        )
        assert len(dense) == 3, f"{name!r}: there are 3 sequences; your first axis has {len(dense)}, tokens perhaps."
        return dense
    written = parameter.new_empty(3, *parameter.shape)
    try:
        seq_grads.write_rows(written, 0, add=False)
    except RuntimeError as error:
        raise AssertionError(f"{name!r}: these factors do not give {list(parameter.shape)}: {error}") from None
    return written.detach()


@exercise
def packed_gram(answer: Callable[..., Tensor]) -> str:
    draw = normal(0)
    for ids in ([0, 0, 0, 1, 2, 2, 2], [0, 2, 0, 1, 2, 2, 0], [3, 1, 0, 1, 2, 3, 3, 0, 1]):
        order, count = torch.tensor(ids), max(ids) + 1
        D, X = draw(len(ids), 4), draw(len(ids), 5)
        seq_grads = torch.zeros(count, 4, 5, dtype=torch.float64).index_add_(0, order, D.unsqueeze(2) * X.unsqueeze(1))
        expected = torch.einsum("ioc,joc->ij", seq_grads, seq_grads)
        found = tensor(
            answer(D, X, order, count),
            (count, count),
            f"The Gram matrix has shape {(count, count)}, as there is one entry for each pair of sequences",
        )
        separate = _blocks(D @ D.T, order) * _blocks(X @ X.T, order)
        assert not _close(found, separate), "Multiply before you sum: the blocks of DD' and XX' were summed first."
        own = expected.diag().diag_embed()
        assert not _close(found, own), (
            "The diagonal is right; sequences i and j that differ have an inner product, too."
        )
        where = "" if ids == sorted(ids) else " when the tokens of a sequence are not neighbours"
        assert _close(found, expected), f"This is not the Gram matrix of the sequence gradients{where}."
    return "A Gram matrix of gradients that were never written out."


@exercise
def tied(answer: Callable[..., tuple[Tensor, Tensor]]) -> str:
    draw = normal(0)
    for sequences in (3, 5):
        E, H, A = draw(sequences, 20), draw(sequences, 20), draw(20)
        found = pair(answer(E, H, A), "Return two tensors: K and c")
        K = tensor(found[0], (sequences, sequences), "K has an entry for each pair of sequences")
        c = tensor(found[1], (sequences,), "c has an overlap for each sequence")
        S = E + H
        for suspect, words in (
            (E @ E.T + H @ H.T, "the cross terms are missing: the tensor has one gradient per sequence, E_i + H_i"),
            (H @ H.T, "this is the Gram matrix of the head alone, but its weight is used twice"),
            (E @ E.T, "this is the Gram matrix of the embedding alone, but its weight is used twice"),
            (E @ E.T + H @ H.T + E @ H.T, "K has one of the two cross terms, and is not symmetric"),
        ):
            assert not _close(K, suspect), f"Almost: {words}."
        assert _close(K, S @ S.T), "K is not the Gram matrix of E_i + H_i."
        assert _close(c, S @ A), "K is right; c must be the overlaps of A with E_i + H_i, both uses."
    return "Two uses, one tensor, one gradient per sequence."


@exercise
def rho(answer: Callable[..., float]) -> str:
    draw = normal(0)
    for sequences in (4, 6):
        seq_grads, w, a = draw(sequences, 9), draw(sequences), draw(sequences)
        K = seq_grads @ seq_grads.T
        component, gradient = gram_norm(K, w), gram_norm(K, a)
        for beta in (0.1, float(component / gradient) / 2, float(component / gradient) * 3):
            expected = float(clamp(component, removable(gradient, ProjectionConfig(max_removed=beta))))
            found = number(answer(K, w, a, beta), "rho is one number")
            assert found <= 1 + CLOSE, f"rho came out as {found:.3g}: never remove more than the whole, rho <= 1."
            if abs(found - expected) > CLOSE:
                raise AssertionError(_what_is_wrong(found, expected, K, w, a, beta))
    return "Both norms come from the Gram matrix, so the clamp costs nothing."


def _what_is_wrong(found: float, expected: float, K: Tensor, w: Tensor, a: Tensor, beta: float) -> str:
    """Of another rho than the expected one."""
    square = float((a @ K @ a) / (w @ K @ w))
    for suspect, words in (
        (beta * square, "These are squared norms: take the roots."),
        (beta * float(a.norm() / w.norm()), "These are norms of coefficients; those of gradients need K between them."),
        (beta / square**0.5, "The wrong way round: what is added, over what could be removed."),
        (beta, "That is beta: it must be compared with how much there is to remove, by w'Kw and a'Ka."),
        (square**0.5, "Where is beta? What may be removed is beta times the norm of what is added."),
    ):
        if abs(found - min(1.0, suspect)) <= CLOSE:
            return words
    return f"With beta {beta:.2g}, rho is {expected:.4g}; yours is {found:.4g}. The norms are those of w'Kw and a'Ka."


# ----------------------------------------------------------------------------------------------------- helpers


def _blocks(pairs: Tensor, ids: Tensor) -> Tensor:
    members = torch.nn.functional.one_hot(ids).to(pairs.dtype)
    return members.T @ pairs @ members


def _close(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and bool((found - expected).norm() <= CLOSE * expected.norm())
