"""Random networks of sound and unsound parts in random uses: right, or refused with no gradient changed.

What limits the number of examples is the definition: a backward pass for each sequence, and a literal projection. So
networks have three features, and microbatches at most four sequences.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from composed import BETWEEN, EVENTS, SOUND, SOUND_EVENTS, UNSOUND, WIDTH, Composed, failing
from hypothesis import event, given, seed, settings
from hypothesis import strategies as st
from torch import Tensor
from trust import Batch, Case, outcome, score

from proma_bench import ProjectionConfig

LAYOUTS = ("padded", "flattened", "packed")
CONFIGS = [
    ProjectionConfig("iterative"),
    ProjectionConfig("iterative", max_removed=None),
    ProjectionConfig("ridge"),
    ProjectionConfig(shrinkage=0.0),
]


class Step(NamedTuple):
    """One microbatch: lengths of its sequences, size of virtual ones, and what happens to the model meanwhile."""

    lengths: list[int]
    size: int | None
    before: str
    between: str
    fails: bool


class Recipe(NamedTuple):
    """A network and its use."""

    parts: list[str]
    layout: str
    steps: list[Step]
    way: str
    config: ProjectionConfig
    frozen: int | None
    uncovered: bool

    @property
    def is_sound(self) -> bool:
        """Whether a refusal would be one too many."""
        parts = SOUND.keys() >= set(self.parts) and self.frozen is None
        return parts and all(step.before in SOUND_EVENTS and step.between == "nothing" for step in self.steps)


def _mostly(usual: Any, others: Any) -> st.SearchStrategy[Any]:
    return st.one_of(st.just(usual), st.just(usual), st.just(usual), others)


def _steps(square: bool) -> st.SearchStrategy[list[Step]]:
    """``square``: as many sequences as steps of time, and all of one length."""
    unequal = st.lists(st.integers(1, 4), min_size=1, max_size=4)
    equal = st.integers(1, 4).map(lambda size: [size] * size)
    step = st.builds(
        Step,
        equal if square else unequal,
        _mostly(None, st.integers(1, 3)),
        _mostly("nothing", st.sampled_from(sorted(EVENTS))),
        _mostly("nothing", st.sampled_from(sorted(BETWEEN))),
        _mostly(False, st.just(True)),
    )
    return st.lists(step, min_size=1, max_size=3)


def recipes() -> st.SearchStrategy[Recipe]:
    sound, unsound = st.sampled_from(sorted(SOUND)), st.sampled_from(sorted(UNSOUND))
    return st.builds(
        Recipe,
        st.one_of(
            st.lists(sound, max_size=4),
            st.tuples(st.lists(sound, max_size=2), unsound, st.lists(sound, max_size=2)).map(
                lambda found: [*found[0], found[1], *found[2]]
            ),
            st.lists(st.one_of(sound, unsound), max_size=4),
        ),
        st.sampled_from(LAYOUTS),
        st.booleans().flatmap(_steps),
        st.sampled_from(["backward", "microbatch", "inside"]),
        st.sampled_from(CONFIGS),
        _mostly(None, st.integers(0, 4)),
        st.booleans(),
    )


def _batch(recipe: Recipe, number: int) -> Batch:
    """The microbatch's rows and advantages come from its number and lengths, so that an example says all about it."""
    step = recipe.steps[number]
    lengths = torch.tensor(step.lengths)
    generator = torch.Generator().manual_seed(1000 * number + int(lengths.sum()))
    shape = (len(lengths), int(lengths.max())) if recipe.layout == "padded" else (int(lengths.sum()),)
    rows = torch.randn(*shape, WIDTH, generator=generator, dtype=torch.float64)
    advantages = torch.randn(len(lengths), generator=generator, dtype=torch.float64)
    mask = torch.arange(shape[-1]) < lengths.unsqueeze(1)
    ids = torch.arange(len(lengths)).repeat_interleave(lengths)
    ids = ids[torch.randperm(len(ids), generator=generator)] if recipe.layout == "flattened" else ids.unsqueeze(0)

    def log_probs(model: Composed) -> Tensor:
        model.size, model.axis = len(lengths), int(recipe.layout == "packed")
        if recipe.layout == "padded":
            return score(torch.where(mask.unsqueeze(-1), model(rows), 0))
        found = score(model(rows.view(*ids.shape, WIDTH)).flatten(0, -2))
        return found.new_zeros(len(lengths)).index_add(0, ids.flatten(), found)

    return Batch(
        log_probs,
        advantages,
        None if recipe.layout == "padded" else ids,
        step.size,
        EVENTS[step.before],
        BETWEEN[step.between],
        failing if step.fails else None,
    )


def _case(recipe: Recipe) -> Case:
    model = Composed(recipe.parts)
    if recipe.frozen is not None:
        for layer in [model.first, *model.layers][recipe.frozen : recipe.frozen + 2]:
            layer.requires_grad_(False)
    batches = [_batch(recipe, number) for number in range(len(recipe.steps))]
    plainly = lambda model: setattr(model, "plain", True)  # noqa: E731
    return Case(model, batches, leaves=lambda model: model.others, plainly=plainly, config=recipe.config)


def _short(lengths: list[int], before: str = "nothing") -> Step:
    return Step(lengths, None, before, "nothing", False)


# Sequences of one row each: only their sequence_ids tell rows from sums of rows, and those may be in order by chance.
FOUND_BEFORE = [
    Recipe(
        ["scale", "batch norm", "scale"],
        "flattened",
        [_short([1, 1, 1], "freeze"), _short([1, 1, 1])],
        "backward",
        CONFIGS[0],
        None,
        False,
    ),
    Recipe(
        [],
        "flattened",
        [_short([1, 1, 2], "replace forward"), _short([1, 1, 1])],
        "backward",
        CONFIGS[0],
        None,
        False,
    ),
    Recipe(  # batch norm of what is zero but for rounding
        ["centred", "checkpointed", "checkpointed", "batch norm"], "padded", [_short([2])], "backward", CONFIGS[0],
        None, False,
    ),
]  # fmt: skip


def _check(recipe: Recipe) -> str:
    """What came out, which must be right or a refusal of what is unsound."""
    options = {"uncovered": "autograd"} if recipe.uncovered else {}
    found = outcome(_case(recipe), recipe.way, **options)
    assert found == "right" or not recipe.is_sound, "a sound use was refused"
    return f"{found}, {'sound' if recipe.is_sound else 'unsound'}"


@pytest.mark.parametrize("number", range(4))  # four searches of 500, as one test is one process's
def test_composed_networks_are_right_or_refused(number: int) -> None:
    @seed(number)
    @settings(max_examples=5 * settings.default.max_examples // 2)
    @given(recipes())
    def search(recipe: Recipe) -> None:
        event(_check(recipe))

    search()


@pytest.mark.parametrize("recipe", FOUND_BEFORE)
def test_networks_that_were_wrong_once(recipe: Recipe) -> None:
    _check(recipe)
