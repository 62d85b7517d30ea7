"""Checks of lesson 7, *Your own projection*."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from checks import Failed, Raised, exercise, normal, number, tensor
from proma_bench import project
from proma_bench.cli.verify import describe
from proma_bench.testing import Finding, assert_permutation_invariant, examine_projection, rounding_tolerance

Projection = Callable[[Tensor, Tensor], Tensor]

MEANINGS = {  # the first one that applies is said
    "finite": "It does not return a finite tensor of the running gradient's shape",
    "orthogonal to": "Something is left that a sequence still sees",
    "norm not increased": "It overshoots: the step got longer than it was",
    "in span": "It removes something that no sequence of the microbatch sees",
    "first microbatch is plain": "From a running gradient of zero something was removed",
    "scale invariant": "It depends on how long the sequence gradients are, and only their directions matter",
    "sign invariant": "It tells S from −S, and both span the same line",
    "zero invariant": "A gradient of zero, a sequence that sees nothing, disturbs it",
    "duplicate invariant": "A sample that occurs twice is removed twice",
    "permutation invariant": "It depends on the order of the sequences",
    "idempotent": "Doing it twice removes more than doing it once",
}

SHOWN = "A small input that shows it:"


@exercise
def own_projection(answer: Projection) -> str:
    """A projection of the reader's against every promise."""
    findings = examine_projection(answer, examples=100)
    broken = {finding.name: finding for finding in findings if not finding.holds}
    tried = {name: _tried(answer, broken[name]) for name in MEANINGS if name in broken}
    for failed, inputs in tried.values():
        if isinstance(failed, Raised):
            raise AssertionError(f"{failed}. {SHOWN}\n\n```\n{inputs}\n```")
        if failed is not None:
            raise failed
    count = f"{len(broken)} of {len(findings)} promises {'is' if len(broken) == 1 else 'are'} broken"
    for name, (_, inputs) in tried.items():
        raise AssertionError(f"{count}. {MEANINGS[name]} ({broken[name].failure}). {SHOWN}\n\n```\n{inputs}\n```")
    return f"All {len(findings)} promises hold on everything that Hypothesis drew. It is a projection."


def _tried(answer: Projection, finding: Finding) -> tuple[Failed | None, str]:
    """Try a broken promise again on its counterexample.

    Returns:
        Why the answer gave no result, if it did not, and all that it was asked, with what it returned: a promise that
        compares two answers asks for the second one with other gradients.
    """
    asked: dict[str, None] = {}

    def observed(running: Tensor, seq_grads: Tensor) -> Tensor:
        words = describe(answer, finding.counterexample._replace(running=running, seq_grads=seq_grads))
        try:
            result = answer(running, seq_grads)
        except Failed:
            words = words[: words.rindex("\n")]  # there is no result
            raise
        finally:
            asked[words] = None
        return result

    failed = None
    try:
        finding.invariant(observed, finding.counterexample.running, finding.counterexample.seq_grads)
    except Failed as error:
        failed = error
    except Exception:  # the promise is broken, as is known
        pass
    return failed, "\n\n".join(asked)


@exercise
def order_matters(running: Tensor, seq_grads: Tensor) -> str:
    """An input on which one sweep of sequential subtraction depends on the order of the sequences."""
    what = "Two sequences and two parameters: running [2] and seq_grads [2, 2]"
    running, seq_grads = tensor(running, (2,), what), tensor(seq_grads, (2, 2), what)
    assert bool(seq_grads.any(dim=1).all()), "A gradient of zero removes nothing, first or last."
    unit = torch.nn.functional.normalize(seq_grads, dim=1)
    cosine = float(unit[0] @ unit[1])
    assert abs(cosine) > 1e-9, "Perpendicular gradients do not disturb each other: any order gives the same."
    assert abs(cosine) < 1 - 1e-9, "Parallel gradients span one line: any order gives the same."
    try:
        assert_permutation_invariant(one_sweep, running, seq_grads)
    except AssertionError:
        first, second = (_vector(one_sweep(running, rows), running) for rows in (seq_grads, seq_grads.flip(0)))
        return (
            f"The cosine of your gradients is {cosine:.2g}. One sweep leaves {first} of the running gradient in your "
            f"order, and {second} in the other order."
        )
    raise AssertionError("The gradients are fine, but of this running gradient neither order leaves anything else.")


def _vector(values: Tensor, running: Tensor) -> str:
    """In a few digits, with zeros for what is rounding beside the running gradient."""
    shown = torch.where(values.abs() > rounding_tolerance(running) * running.norm(), values, 0.0)
    return f"({', '.join(f'{value:.3g}' for value in shown.tolist())})"


def one_sweep(running: Tensor, seq_grads: Tensor) -> Tensor:
    """One after another, once."""
    return project(running, seq_grads, method="iterative", sweeps=1)


@exercise
def span_invariant(answer: Callable[[Projection, Tensor, Tensor], bool]) -> str:
    """A promise of the reader's: only the span of the sequence gradients matters."""
    draw = normal(1)
    problems = [(draw(5), draw(3, 5)), (draw(2, 4), draw(3, 2, 4))]
    for running, seq_grads in problems:
        assert _truth(answer(project, running, seq_grads)), (
            "You accuse the exact projection, which keeps this promise. Are the new gradients a basis of the same "
            "span, and do you leave room for rounding?"
        )
    for wrong, words in WRONG.items():
        for running, seq_grads in problems:
            assert not _truth(answer(wrong, running, seq_grads)), (
                f"{words} breaks this promise, and you let it pass. {MIX}"
            )
    return f"The exact projection passes, and {len(WRONG)} others are caught, each for a reason of its own."


def _truth(found: object) -> bool:
    """True or False, of whatever library."""
    truth = number(found, "Return True or False")
    assert truth in (True, False), f"Return True or False, and not {truth:g}."
    return bool(truth)


def first_alone(running: Tensor, seq_grads: Tensor) -> Tensor:
    """Away from the first sequence, whatever the others are."""
    return project(running, seq_grads[:1])


def all_at_once(running: Tensor, seq_grads: Tensor) -> Tensor:
    """The components along all sequences, subtracted at once; in any order, of any length and sign the same."""
    units = torch.nn.functional.normalize(seq_grads.reshape(len(seq_grads), -1), dim=1)
    return running - ((units @ running.flatten()) @ units).reshape(running.shape)


WRONG = {
    one_sweep: "One sweep of sequential subtraction",
    first_alone: "A projection that looks at the first sequence only",
    all_at_once: "Subtracting all components at once, as at the beginning of this lesson,",
}
MIX = "Scaling, negating or reordering is not enough: mix the gradients."
