"""Update rules in Gram space against the same rules on written-out gradients."""

import dataclasses
import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import literal_step
from projection_oracles import EPS, combine, configs, gram_of, norm, normal, parts, rows_of
from rule_oracles import CASES
from scipy.optimize import nnls
from torch import Tensor

from proma_bench import ProjectionConfig
from proma_bench.projection.gram import corrected_advantages
from proma_bench.projection.recursion import Before, successive_updates
from proma_bench.projection.rules import UPDATE_RULES
from proma_bench.projection.rules.clip import Clip
from proma_bench.projection.rules.elsewhere import Elsewhere
from proma_bench.projection.rules.isopo import AveragedIsopo, Isopo, NonInteractingIsopo
from proma_bench.projection.rules.observe import Observe
from proma_bench.projection.rules.shrink import Shrink
from proma_bench.projection.rules.upgrad import UPGrad
from proma_bench.projection.successive import successive_removals
from proma_bench.projection.updates import RuleError, Update, UpdateRule, as_rule, extras_of, memory_size
from proma_bench.testing import check_rule, projection_problems

RULES = [rule for rule, _ in CASES]
NAMES = [f"{type(rule).__name__}-{number}" for number, rule in enumerate(RULES)]
each_case = pytest.mark.parametrize(("rule", "literal"), CASES, ids=NAMES)
each_rule = pytest.mark.parametrize("rule", RULES, ids=NAMES)


def extras_for(rule, norms):
    known = {"running_norm": norms, "memory": norms.new_zeros(*norms.shape, memory_size(rule))}
    return {name: known[name] for name in extras_of(rule)}


def update_of(rule, problem):
    gram, overlap = gram_of(problem)
    extras = extras_for(rule, problem.running.double().norm())
    result = rule(gram, overlap, problem.advantages.double(), **extras)
    return result if isinstance(result, Update) else Update(result)


def step_of(rule, problem):
    update = update_of(rule, problem)
    return update.kept * problem.running.double() + combine(update.coefficients, problem.seq_grads)


# ---------------------------------------------------------------------------------------- against literal loops


@each_case
@settings(max_examples=50)
@given(problem=projection_problems(balanced=True, scale=1.0))
def test_a_rule_is_its_formula(rule, literal, problem):
    wanted = literal(problem.running.flatten(), rows_of(problem.seq_grads), problem.advantages)
    found = step_of(rule, problem).flatten()
    # the norm that a clamp allows is a root of x'Kx, which loses half its digits where advantages cancel
    slack = math.sqrt(64 * EPS) if isinstance(rule, Shrink) else 1e-9
    assert norm(found - wanted) <= slack * (parts(problem) + norm(wanted))


@pytest.mark.parametrize("count", [2, 4, 6])
@pytest.mark.parametrize("seed", range(4))
def test_upgrad_is_the_sum_of_projections_on_the_dual_cone(count, seed):
    """Against nonnegative least squares: v = g + G'w, the shortest such vector with w >= 0."""
    seq_grads = normal(count, 12, seed=seed) + normal(12, seed=9)  # they have a direction in common
    advantages = normal(count, seed=seed + 50).abs() * torch.tensor([1, -1]).repeat(count // 2)
    tasks = (advantages[:, None] * seq_grads).numpy()
    wanted = sum(task + tasks.T @ nnls(tasks.T, -task)[0] for task in tasks)
    found = (UPGrad(500)(seq_grads @ seq_grads.T, torch.zeros(count).double(), advantages) @ seq_grads).numpy()
    assert (tasks @ tasks.T < 0).any()  # there is a conflict to resolve
    np.testing.assert_allclose(found, wanted, atol=1e-8)
    assert (tasks @ found > -1e-8).all()


@each_case
@pytest.mark.parametrize("sizes", [(3, 3, 2), (2, 2, 2, 2), (8,)], ids=str)
def test_successive_microbatches_are_literal_steps(rule, literal, sizes):
    """Also what the records say: norm of the change, and of what it is relative to."""
    seq_grads, advantages = normal(8, 30, seed=1), normal(8, seed=2)
    seq_grads[3] = seq_grads[1]
    running, start, changes, wholes = normal(30, seed=3), 0, [], []
    found = successive_updates(
        (seq_grads @ seq_grads.T).unsqueeze(0),
        (seq_grads @ running).unsqueeze(0),
        advantages,
        sizes[0],
        rule,
        Before(running.norm().unsqueeze(0), torch.zeros(1, memory_size(rule)).double()),
    )
    first = running
    for size in sizes:
        own, values = seq_grads[start : start + size], advantages[start : start + size]
        plain, before = running + values @ own, running
        running, start = literal(running, own, values), start + size
        changes.append(norm(running - plain))
        wholes.append(norm(before if rule.plain_first else plain))
    kept = 1.0 if found.kept is None else found.kept[0]
    torch.testing.assert_close(kept * first + found.coefficients[0] @ seq_grads, running, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.changes.changed[0].tolist(), changes, rtol=1e-7, atol=1e-6)
    torch.testing.assert_close(found.changes.norm[0].tolist(), wholes, rtol=1e-7, atol=1e-9)
    assert (found.kept is None) == (not isinstance(rule, Shrink))


@settings(max_examples=50)
@given(projection_problems(balanced=True), configs())
def test_a_projection_config_is_a_rule(problem, config):
    gram, overlap = gram_of(problem)
    assert isinstance(config, UpdateRule) and as_rule(config) is config and config.plain_first
    update = config(gram, overlap, problem.advantages)
    assert torch.equal(update.coefficients, corrected_advantages(gram, overlap, problem.advantages, config))
    assert update.kept == 1


@settings(max_examples=50)
@given(config=configs(), size=st.integers(1, 7), seed=st.integers(0, 100))
def test_the_general_recursion_gives_what_the_projections_own_gives(config, size, seed):
    seq_grads, advantages, running = normal(6, 20, seed=seed), normal(6, seed=seed + 1), normal(20, seed=seed + 2)
    arguments = (seq_grads @ seq_grads.T)[None], (seq_grads @ running)[None], advantages, size, config
    found, wanted = successive_updates(*arguments, Before(running.norm()[None])), successive_removals(*arguments)
    torch.testing.assert_close(found.coefficients, advantages - wanted.coefficients)
    torch.testing.assert_close(found.changes.changed, wanted.norm, rtol=1e-6, atol=1e-7)
    assert torch.equal(found.changes.clamped, wanted.clamped)


@each_rule
def test_leading_axes_are_independent_problems(rule):
    seq_grads, running, advantages = normal(2, 3, 5, 9, seed=1), normal(2, 3, 9, seed=2), normal(5, seed=3)
    extras = extras_for(rule, running.norm(dim=-1))
    gram, overlap = seq_grads @ seq_grads.mT, (seq_grads @ running.unsqueeze(-1)).squeeze(-1)
    together = rule(gram, overlap, advantages.expand(2, 3, 5), **extras)
    for i in range(2):
        for j in range(3):
            own = {name: value[i, j] for name, value in extras.items()}
            alone = rule(gram[i, j], overlap[i, j], advantages, **own)
            if isinstance(together, Update):
                torch.testing.assert_close(together.coefficients[i, j], alone.coefficients)
                assert bool(torch.as_tensor(together.clamped).expand(2, 3)[i, j]) == bool(alone.clamped)
            else:
                torch.testing.assert_close(together[i, j], alone)


@each_rule
@settings(max_examples=50)
@given(problem=projection_problems(near_duplicates=True))
def test_hostile_gradients_give_finite_numbers(rule, problem):
    update = update_of(rule, problem)
    assert update.coefficients.isfinite().all() and torch.as_tensor(update.kept).isfinite().all()


# ------------------------------------------------------------------------------------------------ what they mean


def test_isopo_is_plain_for_much_regularisation_and_isometric_for_little():
    """With little of it, all directions of the microbatch's log-probs move alike: ``K u`` is ``lambda a``."""
    seq_grads, advantages = normal(4, 10), normal(4, seed=1)
    gram, nothing = seq_grads @ seq_grads.T, torch.zeros(4).double()
    torch.testing.assert_close(Isopo(1e9)(gram, nothing, advantages), advantages, rtol=1e-6, atol=1e-6)
    shift = 1e-9 * float(gram.diagonal().mean())
    moved = gram @ Isopo(1e-9)(gram, nothing, advantages)
    torch.testing.assert_close(moved / shift, advantages, rtol=1e-5, atol=1e-5)


def test_a_matrix_that_is_no_gram_matrix_leaves_the_advantages():
    gram = torch.tensor([[1.0, 5.0], [5.0, 1.0]]).double()
    assert Isopo(0.1)(gram, gram[0], gram[0]).tolist() == gram[0].tolist()


def test_shrinking_takes_out_what_the_projection_would():
    seq_grads, running, advantages = normal(3, 8), normal(8, seed=1), normal(3, seed=2)
    config = ProjectionConfig("exact", max_removed=None)
    gram, overlap = seq_grads @ seq_grads.T, seq_grads @ running
    update = Shrink(config)(gram, overlap, advantages, running_norm=running.norm())
    projected = literal_step(running, seq_grads, torch.zeros(3).double(), config)
    assert float((1 - update.kept) * running.norm()) == pytest.approx(norm(running - projected))
    assert torch.equal(update.coefficients, advantages)
    assert Shrink(config)(gram, 0 * overlap, advantages, running_norm=0 * running.norm()).kept == 1


def test_nothing_is_kept_where_the_iterative_projection_removes_more_than_there_is():
    """Two sweeps over four gradients that span all: what they take out is longer than A."""
    rows = [[0.1832, -0.1392, 0.2702], [-0.2042, 0.2709, 0.1115], [-0.1509, 0.3148, 0.3599], [0.4282, 0.1988, -0.2621]]
    seq_grads, running = torch.tensor(rows).double(), torch.tensor([0.1703, -0.0324, -0.2408]).double()
    advantages = torch.tensor([4.3420, -0.8218, -4.3460, 1.0527]).double()
    removed = running - literal_step(running, seq_grads, 0 * advantages, ProjectionConfig(max_removed=None))
    assert norm(removed) > norm(running)
    update = Shrink()(seq_grads @ seq_grads.T, seq_grads @ running, advantages, running_norm=running.norm())
    assert update.kept == 0


def test_a_function_that_writes_to_its_arguments_harms_nobody():
    def plain(gram, overlap, advantages):
        return advantages / gram.diagonal(dim1=-2, dim2=-1)

    def writes(gram, overlap, advantages):
        result = plain(gram, overlap, advantages)
        for values in (gram, overlap, advantages):
            values.zero_()
        return result

    seq_grads = normal(6, 9)
    gram, overlap, advantages = (seq_grads @ seq_grads.T)[None], normal(1, 6, seed=1), normal(6, seed=2)
    before = [values.clone() for values in (gram, overlap, advantages)]
    found = successive_updates(gram, overlap, advantages, 6, as_rule(writes), Before(torch.ones(1).double()))
    wanted = successive_updates(*before, 6, as_rule(plain), Before(torch.ones(1).double()))
    assert torch.equal(found.coefficients, wanted.coefficients)
    assert torch.equal(found.changes.changed, wanted.changes.changed)
    assert all(torch.equal(*pair) for pair in zip((gram, overlap, advantages), before, strict=True))


@pytest.mark.parametrize("config", [ProjectionConfig(), ProjectionConfig("exact", max_removed=None, shrinkage=0.7)])
@pytest.mark.parametrize("sizes", [(3, 3, 2), (4, 4)], ids=str)
def test_elsewhere_projects_on_the_span_of_mixtures_of_all_sequences(config, sizes):
    seq_grads, advantages = normal(8, 30, seed=1), normal(8, seed=2)
    running = normal(30, seed=3)
    arguments = (seq_grads @ seq_grads.T)[None], (seq_grads @ running)[None], advantages, sizes[0]
    found = successive_updates(*arguments, Elsewhere(config), Before(running.norm()[None]))
    first, rows, values = running, seq_grads.split(list(sizes)), advantages.split(list(sizes))
    changes, norms = [], []
    for number in range(len(sizes)):
        start, gradient = sum(sizes[:number]), values[number] @ rows[number]
        other = torch.stack(
            [
                sum(math.cos(math.pi * (2 * n + 1) * j / 16) * row for n, row in enumerate(seq_grads))
                for j in range(start, start + sizes[number])
            ]
        )
        free = dataclasses.replace(config, max_removed=None)
        component = running - literal_step(running, other, torch.zeros(len(other)).double(), free)
        allowed = math.inf if config.max_removed is None else config.max_removed * norm(gradient)
        removed = min(1.0, config.shrinkage * allowed / norm(component)) * component
        changes.append(norm(removed))
        norms.append(norm(running))
        running = running - removed + gradient
    torch.testing.assert_close(first + found.coefficients[0] @ seq_grads, running, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(found.changes.changed[0].tolist(), changes, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(found.changes.norm[0].tolist(), norms, rtol=1e-7, atol=1e-9)
    with pytest.raises(RuleError, match="another microbatch in the same backward pass"):
        successive_updates(*arguments[:3], 8, Elsewhere(config))


def test_observations_are_what_literal_loops_see():
    seq_grads, advantages = normal(5, 12, seed=4), normal(5, seed=5)
    seq_grads[3] = -seq_grads[0]
    observed = Observe()(seq_grads @ seq_grads.T, torch.zeros(5).double(), advantages).observed
    tasks = [float(a) * row for a, row in zip(advantages, seq_grads, strict=True)]
    mean = sum(tasks) / 5
    noise = sum(float((task - mean) @ (task - mean)) for task in tasks) / 4
    pairs = [(i, j) for i in range(5) for j in range(i)]
    conflicts = sum(float(tasks[i] @ tasks[j]) < 0 for i, j in pairs)
    values = torch.linalg.eigvalsh(seq_grads @ seq_grads.T)
    torch.testing.assert_close(observed["norms"], torch.stack([row.norm() for row in seq_grads]))
    assert float(observed["effective_rank"]) == pytest.approx(float(values.sum() ** 2 / values.square().sum()))
    assert float(observed["conflicts"]) == pytest.approx(conflicts / len(pairs)) and 0 < conflicts < len(pairs)
    assert float(observed["noise"]) == pytest.approx(noise)
    assert float(observed["signal"]) == pytest.approx(float(mean @ mean) - noise / 5)


def test_noise_and_signal_are_right_on_average():
    """Of gradients around (1, 0, ..., 0) with variance 0.25 in each of 16 directions: noise 4, signal 1."""
    seq_grads = 0.5 * normal(4000, 8, 16, seed=6)
    seq_grads[..., 0] += 1
    ones = torch.ones(4000, 8).double()
    observed = Observe()(seq_grads @ seq_grads.mT, 0 * ones, ones).observed
    assert float(observed["noise"].mean()) == pytest.approx(4, rel=0.02)
    assert float(observed["signal"].mean()) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("count", [1, 2])
def test_nothing_is_observed_of_gradients_that_are_zero(count):
    nothing = torch.zeros(count, count).double()
    observed = Observe()(nothing, nothing[0], torch.ones(count).double()).observed
    assert all(not values.any() for values in observed.values())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Isopo(0.0),
        lambda: Isopo(math.nan),
        lambda: AveragedIsopo(decay=1.1),
        lambda: NonInteractingIsopo(power=-1),
        lambda: NonInteractingIsopo(regularisation=math.inf),
        lambda: Clip(0.0),
        lambda: Clip(True),
        lambda: Shrink(ProjectionConfig("intra")),
    ],
)
def test_a_setting_out_of_range_is_refused_with_its_value(make):
    with pytest.raises(ValueError, match=r"got|for `project`|takes a layer"):
        make()


def test_every_rule_is_in_the_table_under_its_name():
    assert {type(rule) for rule in RULES} <= set(UPDATE_RULES.values())
    for name, rule in UPDATE_RULES.items():
        assert rule.name == name and dataclasses.is_dataclass(rule) and rule.__dataclass_params__.frozen
        assert "::" in rule.__doc__ or "    " in rule.__doc__, f"{name} has no formula"


@each_rule
def test_every_rule_keeps_what_every_rule_must_keep(rule):
    check_rule(rule, examples=30)


@pytest.mark.parametrize("method", ["iterative", "exact", "ridge"])
@pytest.mark.parametrize("kind", ["shrink", "elsewhere", "a user's own"])
def test_dependent_sequences_in_float32_are_no_excuse_to_remove_nothing(kind: str, method: str) -> None:
    """Rounding makes their Gram matrix indefinite, which to an exact solver is no Gram matrix."""
    projection = ProjectionConfig(method)
    rules: dict[str, Any] = {
        "shrink": Shrink(projection),
        "elsewhere": Elsewhere(projection),
        "a user's own": lambda gram, overlap, advantages: corrected_advantages(gram, overlap, advantages, projection),
    }
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(16, 4, generator=generator, dtype=torch.float64)
    rows = mixed @ torch.randn(4, 200, generator=generator, dtype=torch.float64)
    running = rows.sum(0) + torch.randn(200, generator=generator, dtype=torch.float64)
    advantages = torch.randn(16, generator=generator, dtype=torch.float64)
    norms, steps = running.norm()[None], []
    for dtype in (torch.float64, torch.float32):
        own = rows.to(dtype)
        gram, overlap = (own @ own.T)[None], (own @ running.to(dtype))[None]
        done = successive_updates(gram, overlap, advantages.to(dtype), 8, as_rule(rules[kind]), Before(norms))
        kept = 1.0 if done.kept is None else float(done.kept)
        steps.append(kept * running + done.coefficients[0] @ rows)
    plain = running + advantages @ rows
    assert float((steps[0] - plain).norm()) > 0.1 * float(running.norm()), "the test's own: nothing is to be removed"
    assert float((steps[1] - steps[0]).norm()) < 1e-3 * float((steps[0] - plain).norm())


def test_a_rule_that_says_it_begins_plainly_must() -> None:
    class Halved:
        plain_first = True

        def __call__(self, gram: Tensor, overlap: Tensor, advantages: Tensor) -> Tensor:
            return advantages / 2

    with pytest.raises(RuleError, match="plain_first = True, but does not return the advantages"):
        as_rule(Halved())


def test_settings_that_are_bound_hide_no_attribute() -> None:
    def rule(gram: Tensor, overlap: Tensor, advantages: Tensor, *, strength: float) -> Tensor:
        return advantages - strength * overlap

    rule.plain_first = True  # type: ignore[attr-defined]
    assert as_rule(functools.partial(rule, strength=0.5)).plain_first
