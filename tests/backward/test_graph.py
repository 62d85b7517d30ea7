"""What is read off a graph: which operations may put rows into another order, and where the terms of a loss are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from proma_bench.backward.graph import boundary, moves_rows, output_shapes, survey
from proma_bench.backward.layout import Layout

ROWS = torch.arange(3)
COLUMNS = torch.tensor([2, 0, 1])


def rows() -> Tensor:
    """An activation ``[3, 3, 4]`` with a parameter below it."""
    return torch.randn(3, 3, 4).requires_grad_().mul(2.0)


def gathered(dim: int) -> Tensor:
    return rows().gather(dim, torch.zeros(3, 3, 4, dtype=torch.long))


MOVING: dict[str, tuple[Callable[[], Tensor], list[bool]]] = {  # with one axis, and with two, that enumerate rows
    "gather 0": (lambda: gathered(0), [True, True]),
    "gather 1": (lambda: gathered(1), [False, True]),
    "gather 2": (lambda: gathered(2), [False, False]),
    "gather -1": (lambda: gathered(-1), [False, False]),
    "gather -2": (lambda: gathered(-2), [False, True]),
    "gather -3": (lambda: gathered(-3), [True, True]),
    "index_select 1": (lambda: rows().index_select(1, COLUMNS), [False, True]),
    "index_select -1": (lambda: rows().index_select(-1, COLUMNS), [False, False]),
    "[columns]": (lambda: rows()[COLUMNS], [True, True]),
    "[rows]": (lambda: rows()[ROWS], [False, False]),
    "[rows, columns]": (lambda: rows()[ROWS, COLUMNS], [False, True]),
    "[:, columns]": (lambda: rows()[:, COLUMNS], [False, True]),
    "[:, :, columns]": (lambda: rows()[..., COLUMNS], [False, False]),
    "[rows as a column]": (lambda: rows()[ROWS.unsqueeze(1), COLUMNS], [False, True]),
    "[rows as a row]": (lambda: rows()[ROWS.unsqueeze(0), COLUMNS], [True, True]),
    "[mask]": (lambda: rows()[torch.tensor([True, True, True])], [True, True]),
    "embedding of a table": (lambda: F.embedding(COLUMNS, torch.randn(3, 4, requires_grad=True)), [False, False]),
    "embedding of an activation": (lambda: F.embedding(COLUMNS, rows()[0]), [True, True]),
    "masked_select": (lambda: rows().masked_select(torch.ones(3, 3, 4, dtype=torch.bool)), [True, True]),
    "sort": (lambda: rows().sort(dim=0).values, [True, True]),
    "index_add": (lambda: torch.zeros(3, 3, 4).index_add(0, COLUMNS, rows()), [True, True]),
    "scatter_add": (lambda: torch.zeros(3, 3, 4).scatter_add(0, torch.zeros(3, 3, 4).long(), rows()), [True, True]),
}


@pytest.mark.parametrize("name", MOVING)
def test_what_may_move_rows(name: str) -> None:
    make, expected = MOVING[name]
    (node,) = [node for node in survey([make()]).moving if not type(node).__name__.startswith("Select")][:1]
    assert [moves_rows(node, 1, Layout(7)), moves_rows(node, 2, Layout(7))] == expected


def test_each_leaf_and_kind_is_seen_once() -> None:
    first, second, alone = (torch.randn(3, requires_grad=True) for _ in range(3))
    found = survey([(first * second + first).exp(), first.exp(), alone])
    assert {leaf.variable for leaf in found.leaves} == {first, second, alone} == found.parameters
    assert len(found.leaves) == 3 and not found.calls and not found.gates and not found.is_opaque
    assert {kind.__name__ for kind, *_ in found.kinds} == {"ExpBackward0", "AddBackward0", "MulBackward0"}
    assert survey([torch.zeros(1)]).leaves == []


def shapes(root: Tensor) -> list[Any]:
    edges = boundary([root], Layout(3))
    for edge in edges:
        parent, output = edge.node.next_functions[edge.number]
        assert output_shapes(parent)[output] == edge.shape
    return sorted([tuple(edge.shape) for edge in edges])


def test_the_terms_of_a_loss_are_what_its_sums_sum_up() -> None:
    assert shapes(-rows().sum()) == [(3, 3, 4)]
    assert shapes(-(rows().sum((1, 2)) * 2).sum()) == [(3,)]
    assert shapes(rows().sum() + rows().flatten(1).sum()) == [(3, 3, 4), (3, 12)]
    terms = rows().sum((1, 2))
    assert shapes(terms.sum() + terms.exp().sum()) == [(3,), (3,)]
    assert shapes((rows()[0, 0, :1] + rows()[0].sum()).sum()) == [(3, 4), (3, 4)]  # followed to rows
    assert boundary([rows()], Layout(3)) == []  # no sum: it is weighted itself


@pytest.mark.parametrize(
    "enter", [lambda sums, p: sums * p, lambda sums, p: p.sum() + sums, lambda sums, p: sums - p.exp()]
)
def test_a_parameter_after_the_sum_is_refused(enter: Callable[[Tensor, Tensor], Tensor]) -> None:
    for parameter in (torch.ones((), requires_grad=True), torch.ones(1, requires_grad=True)):
        with pytest.raises(ValueError, match="after the sum"):
            boundary([enter(rows().sum(), parameter).sum()], Layout(3))


def sum_of_two(shape: tuple[int, ...]) -> Tensor:
    return (torch.ones(shape).requires_grad_() + torch.ones(shape).requires_grad_()).sum()


def test_the_terms_must_be_those_of_the_sequences() -> None:
    tokens = torch.tensor([[0, 0, 1, 2]])
    for layout, accepted, refused in [
        (Layout(3), [(3,), (3, 4), (3, 1, 2)], [(4,), (4, 3), (1, 3), (6,)]),
        (Layout(3, tokens), [(3,), (1, 4), (1, 4, 2)], [(4,), (3, 4), (4, 1)]),
    ]:
        for shape in accepted:
            boundary([sum_of_two(shape)], layout)
        for shape in refused:
            with pytest.raises(ValueError, match="whose rows are not the 3 sequences"):
                boundary([sum_of_two(shape)], layout)


def test_rows_that_are_added_up_by_their_ids_do_not_move() -> None:
    ids = torch.tensor([0, 0, 2, 1])
    (node,) = survey([torch.zeros(3).index_add(0, ids, torch.ones(4, requires_grad=True))]).moving
    assert not moves_rows(node, 1, Layout(3, ids))
    assert moves_rows(node, 1, Layout(3, ids.flip(0))) and moves_rows(node, 1, Layout(3))
