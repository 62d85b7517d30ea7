"""Beside ``torch.compile``, in either order: the gradients of the definition, and no layer that gets none in silence.

``aot_eager`` makes the nodes of compiled regions as they are in the graph of any backend, and needs no C++ compiler.
"""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from causal_lm import Answers, tiny_qwen3
from torch import Tensor, nn
from trust import (
    ADVANTAGES,
    WAYS,
    X2,
    Batch,
    Case,
    X,
    assert_right,
    double,
    leaves_of,
    outcome,
    score,
    snapshot,
    wanted_gradients,
)

from proma_bench import ProjectionConfig, Proma

# What any compiled function that is given the result of another layer makes torch say.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")

BACKEND = "aot_eager"


@pytest.fixture(autouse=True)
def compiler() -> Iterator[None]:
    config: Any = torch._functorch.config
    before = config.donated_buffer
    config.donated_buffer = True  # as it is in a new process
    torch.compiler.reset()
    yield
    torch.compiler.reset()
    config.donated_buffer = before


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, 5), nn.Linear(5, 6)

    def forward(self, rows: Tensor) -> Tensor:
        return rows + self.down(torch.sin(2 * self.up(self.norm(rows)).tanh()).relu())


class Blocks(nn.Module):
    """Two blocks with a function between them."""

    between: Callable[[Tensor], Tensor] = staticmethod(torch.sin)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Block(), Block()

    def forward(self, rows: Tensor) -> Tensor:
        return self.second(self.between(self.first(rows)))


def shaken(rows: Tensor) -> Tensor:
    return (2 * rows.sin()).tanh() + rows


def mixed(rows: Tensor) -> Tensor:
    return (rows - rows.mean(0)).sin()


class Direct(nn.Module):
    """Parameters of its own, between two layers and without one."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.gain, self.shift = nn.Linear(6, 5), nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))

    def forward(self, rows: Tensor) -> Tensor:
        return (self.up(rows).tanh() * self.gain.exp() + self.shift).sin()


class Reordered(nn.Module):
    """Rows in an order of each microbatch's own, within a compiled region."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, rows: Tensor, order: Tensor) -> Tensor:
        return self.down(self.up(rows[order]).sin())[order.argsort()].tanh()


BATCHES = [Batch(lambda model, rows=rows: score(model(rows))) for rows in (X, X2, X)]
COMPILED: dict[str, Callable[[Any], object]] = {
    "the model": lambda model: model.compile(backend=BACKEND),
    "a block": lambda model: model.first.compile(backend=BACKEND),
    "a forward": lambda model: setattr(model.second, "forward", torch.compile(model.second.forward, backend=BACKEND)),
    "a layer": lambda model: model.first.up.compile(backend=BACKEND),
    "a function": lambda model: setattr(model, "between", torch.compile(shaken, backend=BACKEND)),
}


def with_compiled(what: str, when: str) -> Callable[..., list[Proma]]:
    def attach(model: Any, config: ProjectionConfig, **options: Any) -> list[Proma]:
        if when == "attached first":
            promas = [Proma(model, config, **options)]
            COMPILED[what](model)
            return promas
        COMPILED[what](model)
        if when == "run first":
            score(model(X)).sum().backward()
            model.zero_grad()
        return [Proma(model, config, **options)]

    return attach


def blocks(what: str) -> Any:
    model = double(Blocks())
    model.between = shaken if what == "a function" else torch.sin
    return model


@pytest.mark.parametrize("when", ["attached first", "compiled first", "run first"])
@pytest.mark.parametrize("what", COMPILED)
def test_compiled(what: str, when: str) -> None:
    """A function without layers that has run is no other after attaching, and can be differentiated once."""
    expected = "raised" if (what, when) == ("a function", "run first") else "right"
    assert outcome(Case(blocks(what), BATCHES, attach=with_compiled(what, when)), "backward") == expected


@pytest.mark.parametrize("attach_to", ["module", "compiled"])
def test_a_compiled_wrapper_and_plain_gradients(attach_to: str) -> None:
    """The wrapper that torch.compile returns; plain gradients while it is attached, and when it no longer is."""
    model = double(Blocks())
    wanted = torch.autograd.grad(score(model(X)).sum(), list(model.parameters()))
    compiled: Any = torch.compile(model, backend=BACKEND)
    compiled(X)
    for _ in range(10):  # more often than the compiler would compile one function again
        with Proma(model if attach_to == "module" else compiled):
            assert_plain(compiled, wanted)
        assert_plain(compiled, wanted)


def assert_plain(model: Any, wanted: tuple[Tensor, ...]) -> None:
    model.zero_grad()
    score(model(X)).sum().backward()
    for parameter, gradient in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("way", WAYS)
def test_a_compiled_step(way: str) -> None:
    """Proma is called by compiled code, and autograd is."""
    model = double(Blocks())
    wanted = wanted_gradients(Case(model, BATCHES), BATCHES)
    with Proma(model, ProjectionConfig("iterative")) as proma:

        @torch.compile(backend=BACKEND)
        def step(rows: Tensor) -> None:
            log_probs = score(model(rows))
            if way == "backward":
                proma.backward(log_probs, ADVANTAGES)
            else:
                with proma.microbatch(ADVANTAGES):
                    (-log_probs.sum()).backward()

        for rows, want in zip((X, X2, X), wanted, strict=True):
            step(rows)
            assert_right(snapshot(leaves_of(Case(model, BATCHES), model)), want)


def compile_all(model: Any, config: ProjectionConfig, **options: Any) -> list[Proma]:
    model.compile(backend=BACKEND)
    return [Proma(model, config, **options)]


@pytest.mark.parametrize("uncovered", ["refuse", "autograd"])
def test_parameters_used_in_a_compiled_region(uncovered: str) -> None:
    assert outcome(Case(double(Direct()), BATCHES, attach=compile_all), "backward", uncovered=uncovered) == "right"


@pytest.mark.parametrize("uncovered", ["refuse", "autograd"])
def test_a_compiled_region_that_mixes_rows(uncovered: str) -> None:
    model = double(Blocks())
    model.between = mixed
    found = outcome(Case(model, BATCHES, attach=compile_all), "backward", uncovered=uncovered)
    assert found == ("right" if uncovered == "autograd" else "raised")


def test_a_compiled_region_that_moves_rows() -> None:
    orders = [torch.tensor(order) for order in ([2, 0, 3, 1], [1, 0, 2, 3], [3, 2, 1, 0])]
    batches = [Batch(lambda model, order=order: score(model(X, order))) for order in orders]
    assert outcome(Case(double(Reordered()), batches, attach=compile_all), "backward") == "right"


def test_a_language_model() -> None:
    eager = tiny_qwen3(torch.float32)
    compiled = copy.deepcopy(eager)
    for model in (eager, compiled):
        with Proma(model, ProjectionConfig("exact")) as proma:
            if model is compiled:
                model.compile(backend=BACKEND)
            for answers in (Answers(1, (5, 9, 4)), Answers(2, (9, 6, 7))):  # of one length: compiled once
                proma.backward(answers.padded(model), answers.advantages.float())
    for one, other in zip(compiled.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what inductor imports
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_by_inductor(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model = double(Direct())

    def attach(model: Any, config: ProjectionConfig, **options: Any) -> list[Proma]:
        model.compile()
        return [Proma(model, config, **options)]

    assert outcome(Case(model, BATCHES[:2], attach=attach), "backward") == "right"


# ------------------------------------------------------------------------------------------------ refused


def test_donated_buffers_are_refused() -> None:
    """A graph from before attaching, of a region that can be differentiated once."""
    model = double(Blocks())
    log_probs = score(torch.compile(model, backend=BACKEND)(X))
    with Proma(model) as proma:
        with pytest.raises(ValueError, match="differentiated only once"):
            proma.backward(log_probs, ADVANTAGES)
        assert all(parameter.grad is None for parameter in model.parameters())
        torch.compiler.reset()
        proma.backward(score(torch.compile(model, backend=BACKEND)(X)), ADVANTAGES)


def test_compiled_autograd_is_refused() -> None:
    model = double(Blocks())
    compiled_autograd: Any = torch._dynamo.compiled_autograd
    with (
        Proma(model) as proma,
        compiled_autograd._enable(torch.compile(backend="eager")),
        pytest.raises(ValueError, match="leave out compiled autograd"),
    ):
        proma.backward(score(model(X)), ADVANTAGES)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_full_graph_is_refused_by_the_compiler() -> None:
    model = double(Blocks())
    with Proma(model), pytest.raises(RuntimeError, match="a Proma is attached; compile without fullgraph=True"):
        torch.compile(model, backend=BACKEND, fullgraph=True)(X)


def test_the_compiler_is_not_imported() -> None:
    program = """if True:
        import sys, torch
        from proma_bench import Proma
        model = torch.nn.Linear(2, 1)
        with Proma(model) as proma:
            proma.backward(model(torch.ones(1, 2))[:, 0], torch.ones(1))
        assert "torch._dynamo" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", program], check=True)
