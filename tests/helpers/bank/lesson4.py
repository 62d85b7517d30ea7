"""Answers to the exercises of lesson 4."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from exercises import Affine, Exercise, integers
from torch import Tensor, nn

from proma_bench.backward.factors import Dense, OuterProducts
from proma_bench.backward.layout import Layout


def _rule_problem(draw: Callable[..., Tensor]) -> tuple[Any, ...]:
    module = Affine(5, 4)
    if draw(1) > 0:
        return module, (draw(3, 6, 5),), draw(3, 6, 4), Layout(3)
    return module, (draw(1, 7, 5),), draw(1, 7, 4), Layout(3, torch.tensor([[0, 1, 1, 1, 2, 2, 2]]))


def _packed_problem(draw: Callable[..., Tensor]) -> tuple[Any, ...]:
    ids = torch.cat([torch.arange(3), integers(draw, 3, 6)])
    return draw(9, 4), draw(9, 5), ids, 3


def _rho_problem(draw: Callable[..., Tensor]) -> tuple[Any, ...]:
    S = draw(4, 8)
    return S @ S.T, draw(4), draw(4), float(draw(1).abs())


def _rule(weight: Callable[[Tensor, Tensor], Tensor], bias: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    def rule(module: Any, inputs: Any, grad_output: Tensor, layout: Layout) -> dict[str, Dense]:
        G, X = layout.group(grad_output), layout.group(inputs[0])
        return {"weight": Dense(weight(X, G)), "bias": Dense(bias(G))}

    return rule


def _factors(module: Any, inputs: Any, grad_output: Tensor, layout: Layout) -> dict[str, Any]:
    G, X = layout.group(grad_output), layout.group(inputs[0])
    return {"weight": OuterProducts(X, G, X.dtype), "bias": Dense(G.sum(dim=1))}


def _ungrouped(module: Any, inputs: Any, grad_output: Tensor, layout: Layout) -> dict[str, Dense]:
    return {"weight": Dense(inputs[0].mT @ grad_output), "bias": Dense(grad_output.sum(dim=1))}


def _product(X: Tensor, G: Tensor) -> Tensor:
    return X.mT @ G


def _written_out(G: Tensor, X: Tensor, ids: Tensor, n: int) -> Tensor:
    S = torch.stack([G[ids == i].T @ X[ids == i] for i in range(n)]).flatten(1)
    return S @ S.T


def _blocks(pairs: Tensor, ids: Tensor, n: int) -> Tensor:
    members = nn.functional.one_hot(ids, n).to(pairs.dtype)
    return members.T @ pairs @ members


def _root(x: Tensor, K: Tensor) -> float:
    return float(x @ K @ x) ** 0.5


EXERCISES = [
    Exercise(
        4,
        "affine_rule",
        _rule_problem,
        [_factors, _rule(lambda X, G: torch.einsum("bti,bto->bio", X, G), lambda G: G.sum(1))],
        [
            (_rule(lambda X, G: G.mT @ X, lambda G: G.sum(1)), "here x comes first"),
            (_rule(_product, lambda G: G.mean(1)), "a mean over the tokens"),
            (_rule(_product, lambda G: G.sum((0, 1)).expand(len(G), -1)), "the sum over all sequences"),
            (_rule(lambda X, G: -_product(X, G), lambda G: G.sum(1)), "nothing is to be negated"),
            (_rule(_product, lambda G: -G.sum(1)), "nothing is to be negated"),
            (_ungrouped, "packed ones do not"),
            (_rule(lambda X, G: _product(X, G) / X.shape[1], lambda G: G.sum(1)), "a mean over the tokens"),
            (
                lambda m, i, g, layout: {"weight": Dense(_product(layout.group(i[0]), layout.group(g)))},
                "has the parameters",
            ),
            (lambda m, i, g, layout: {"weight": _product(i[0], g), "bias": g.sum(1)}, "wrap the sequence gradients"),
            (lambda m, i, g, layout: Dense(g.sum(1)), "has the parameters"),
        ],
        given=(Affine,),
    ),
    Exercise(
        4,
        "packed_gram",
        _packed_problem,
        [_written_out, lambda G, X, ids, n: _blocks((G @ G.T).mul_(X @ X.T), ids, n)],
        [
            (lambda G, X, ids, n: _blocks(G @ G.T, ids, n) * _blocks(X @ X.T, ids, n), "Multiply before you sum"),
            (lambda G, X, ids, n: (G @ G.T) * (X @ X.T), "one entry for each pair"),
            (lambda G, X, ids, n: _written_out(G, X, ids, n).diag().diag(), "The diagonal is right"),
            (lambda G, X, ids, n: _blocks(G @ G.T + X @ X.T, ids, n), "not the Gram matrix"),
            (lambda G, X, ids, n: _written_out(G, X, ids.sort().values, n), "not neighbours"),
            (lambda G, X, ids, n: _blocks(G @ G.T, ids, n), "not the Gram matrix"),
            (lambda G, X, ids, n: _written_out(G, X, ids, n) / len(ids), "not the Gram matrix"),
            (lambda G, X, ids, n: _written_out(G, X, ids, n).sum(), "one entry for each pair"),
        ],
    ),
    Exercise(
        4,
        "tied",
        lambda draw: (draw(3, 9), draw(3, 9), draw(9)),
        [
            lambda E, H, A: (E @ E.T + H @ H.T + E @ H.T + H @ E.T, E @ A + H @ A),
            lambda E, H, A: [(E.add_(H)) @ E.T, E @ A],
        ],
        [
            (lambda E, H, A: (E @ E.T + H @ H.T, (E + H) @ A), "the cross terms are missing"),
            (lambda E, H, A: (H @ H.T, H @ A), "the head alone"),
            (lambda E, H, A: (E @ E.T, E @ A), "the embedding alone"),
            (lambda E, H, A: (E @ E.T + H @ H.T + E @ H.T, (E + H) @ A), "one of the two cross terms"),
            (lambda E, H, A: ((E + H) @ (E + H).T, H @ A), "both uses"),
            (lambda E, H, A: (E + H) @ (E + H).T, "Return two"),
            (lambda E, H, A: ((E + H) @ A, (E + H) @ (E + H).T), "an entry for each pair"),
            (lambda E, H, A: ((E + H) @ (E + H).T, A), "an overlap for each sequence"),
            (lambda E, H, A: ((E - H) @ (E - H).T, (E - H) @ A), "not the Gram matrix of E_i + H_i"),
        ],
    ),
    Exercise(
        4,
        "rho",
        _rho_problem,
        [
            lambda K, w, a, beta: torch.clamp(beta * (a @ K @ a / (w @ K @ w)).sqrt(), max=1.0),
            lambda K, w, a, beta: min(1, beta * _root(a, K) / _root(w, K)),
        ],
        [
            (lambda K, w, a, beta: min(1.0, beta), "That is beta"),
            (lambda K, w, a, beta: min(1.0, float(beta * (a @ K @ a) / (w @ K @ w))), "take the roots"),
            (lambda K, w, a, beta: min(1.0, float(beta * a.norm() / w.norm())), "K between them"),
            (lambda K, w, a, beta: beta * _root(a, K) / _root(w, K), "never remove more"),
            (lambda K, w, a, beta: min(1.0, beta * _root(w, K) / _root(a, K)), "The wrong way round"),
            (lambda K, w, a, beta: min(1.0, _root(a, K) / _root(w, K)), "Where is beta?"),
            (lambda K, w, a, beta: 1.0, "With beta"),
            (lambda K, w, a, beta: max(1.0, beta * _root(a, K)), "rho"),
            (lambda K, w, a, beta: K @ w, "one number"),
        ],
    ),
]
