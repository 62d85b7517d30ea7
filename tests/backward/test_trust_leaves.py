"""Whatever a loss depends on has the gradient of the definition, wherever it is kept, or the use is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from trust import WAYS, X2, Batch, Case, X, assert_outcome, double, in_all_ways, outcome, score

from proma_bench import Proma


def mlp(seed: int = 0) -> Any:
    return double(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), seed)


def plain(model: Any) -> Tensor:
    return score(model(X))


def twice(change: Callable[[Any], object]) -> list[Batch]:
    """Two microbatches, with a change of the model between them."""
    return [Batch(plain), Batch(lambda model: score(model(X2)), before=change)]


def foreign_parameter() -> Case:
    t = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
    return Case(mlp(), lambda model: plain(model) * t.exp(), "raised", "raised", leaves=lambda _: [t])


def foreign_tensor() -> Case:
    log_std = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    use = lambda model: score((model(X) - X[:, :3]) * (-log_std).exp()) - log_std.sum()  # noqa: E731
    return Case(mlp(), use, "raised", "raised", leaves=lambda _: [log_std])


def foreign_tensor_between_layers() -> Case:
    shift = torch.full((5,), 0.2, dtype=torch.float64, requires_grad=True)
    use = lambda model: score(model[2](model[0](X).tanh() + shift))  # noqa: E731
    return Case(mlp(), use, "raised", "raised", leaves=lambda _: [shift])


class WithTensor(nn.Module):
    """A leaf that is an attribute, not a parameter, of the attached module itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.log_std = torch.zeros(3, dtype=torch.float64, requires_grad=True)

    def forward(self, rows: Tensor) -> Tensor:
        return self.layer(rows) * self.log_std.exp()


def tensor_inside() -> Case:
    return Case(double(WithTensor()), plain, "raised", "either", leaves=lambda model: [model.log_std])


def foreign_head() -> Case:
    head = double(nn.Linear(3, 2), 7)
    leaves = lambda _: list(head.parameters())  # noqa: E731
    return Case(mlp(), lambda model: score(head(model(X))), "raised", "raised", leaves=leaves)


def two_promas(asked: int) -> Case:
    model = double(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)))

    def attach(model: Any, config: Any, **options: Any) -> list[Proma]:
        found = [Proma(layer, config, **options) for layer in model]
        return found if asked == 0 else found[::-1]

    return Case(model, plain, "raised", "raised", attach=attach)


def foreign_and_frozen() -> Case:
    head = double(nn.Linear(3, 2), 7).requires_grad_(False)
    return Case(mlp(), lambda model: score(head(model(X))), "right")


def replaced_before_the_first() -> Case:
    return Case(mlp(), [Batch(plain, before=replace)], "either", "either")


def replace(model: Any) -> None:
    model[0] = double(nn.Linear(6, 5), 3)


def replaced_later() -> Case:
    return Case(mlp(), twice(replace), "either", "either")


def replaced_by_another_kind() -> Case:
    def change(model: Any) -> None:
        model[1] = double(nn.LayerNorm(5), 3)  # where there was no parameter before

    return Case(mlp(), twice(change), "either", "either")


def parameter_replaced() -> Case:
    def change(model: Any) -> None:
        model[0].weight = nn.Parameter(torch.ones_like(model[0].weight) * 0.1)

    return Case(mlp(), twice(change), "either", "either")


def tied_later() -> Case:
    def change(model: Any) -> None:
        model[1].weight = model[0].weight

    return Case(double(nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))), twice(change), "either", "either")


def unfrozen_later() -> Case:
    model = mlp()
    model[0].requires_grad_(False)
    return Case(model, twice(lambda model: model[0].requires_grad_(True)), "right")


def unfrozen_weight_later() -> Case:
    model = mlp()
    model[0].weight.requires_grad_(False)
    return Case(model, twice(lambda model: model[0].weight.requires_grad_(True)), "right")


def frozen_later() -> Case:
    return Case(mlp(), twice(lambda model: model[2].requires_grad_(False)), "right")


class WithAdapter(nn.Module):
    """A frozen layer, and a low-rank adapter that is off, and frozen, at first."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.head = nn.Linear(6, 5), nn.Linear(5, 3)
        self.down, self.up = nn.Linear(6, 2, bias=False), nn.Linear(2, 5, bias=False)
        self.enabled = False

    def enable(self) -> None:
        self.enabled = True
        self.down.requires_grad_(True)
        self.up.requires_grad_(True)

    def forward(self, rows: Tensor) -> Tensor:
        hidden = self.base(rows)
        return self.head(torch.tanh(hidden + self.up(self.down(rows)) if self.enabled else hidden))


def adapter_enabled_later() -> Case:
    model = double(WithAdapter())
    for layer in (model.base, model.down, model.up):
        layer.requires_grad_(False)
    return Case(model, twice(WithAdapter.enable), "right")


class Gaussian(nn.Module):
    """The usual policy of continuous control: a parameter of its own beside a network."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.log_std = nn.Linear(6, 3), nn.Parameter(torch.zeros(3))

    def forward(self, rows: Tensor) -> Tensor:
        noise = (rows[:, :3] - self.mean(rows)) * torch.exp(-self.log_std)
        return -(0.5 * noise.square() + self.log_std)


def parameter_beside_layers() -> Case:
    return Case(double(Gaussian()), [Batch(plain), Batch(lambda model: score(model(X2)))])


def input_that_requires_grad() -> Case:
    return Case(mlp(), lambda model: score(model(X.clone().requires_grad_())), "right")


def embeddings_that_require_grad() -> Case:
    """As `enable_input_require_grads` of transformers makes them: by a hook on a frozen embedding."""
    model = double(nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 3)))
    model[0].requires_grad_(False)
    model[0].register_forward_hook(lambda _, __, output: output.requires_grad_(True))
    return Case(model, lambda model: score(model(torch.arange(8).view(4, 2))), "right")


def weight_used_beside() -> Case:
    return Case(mlp(), lambda model: plain(model) + score(F.linear(X, model[0].weight)), with_autograd="either")


def weight_used_alone() -> Case:
    return Case(
        mlp(), lambda model: score(model[2](F.linear(X, model[0].weight, model[0].bias))), with_autograd="either"
    )


def weight_penalty() -> Case:
    return Case(mlp(), lambda model: plain(model) - 0.1 * model[0].weight.square().sum(), with_autograd="either")


class Prompt(nn.Module):
    """A parameter of which a layer makes what all sequences, or each, get."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.prompt, self.encoder, self.head = nn.Parameter(torch.zeros(rows, 6)), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(torch.tanh(rows + self.encoder(self.prompt)))


def prompt_through_a_layer() -> Case:
    return Case(double(Prompt(1)), twice(lambda model: None), "raised")


def prompt_of_each_sequence_through_a_layer() -> Case:
    return Case(double(Prompt(4)), twice(lambda model: None))


class Expanded(Prompt):
    """Likewise, with the prompt as a row of each sequence before the layer."""

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(torch.tanh(rows + self.encoder(self.prompt.expand(len(rows), -1) * rows)))


def prompt_beside_rows_through_a_layer() -> Case:
    return Case(double(Expanded(1)), twice(lambda model: None), "right")


def tied_head() -> Case:
    model = double(nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 6)))
    tokens = torch.arange(8).view(4, 2)
    return Case(model, lambda model: score(F.linear(model(tokens), model[0].weight)), with_autograd="either")


def captured_in_a_list() -> Case:
    """A network inside a plain list is no submodule."""

    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.head = [double(nn.Linear(6, 5), 5)], nn.Linear(5, 3)

        def forward(self, rows: Tensor) -> Tensor:
            return self.head(self.layers[0](rows).tanh())

    leaves = lambda model: list(model.layers[0].parameters())  # noqa: E731
    return Case(double(Hidden()), plain, "raised", "either", leaves=leaves)


CASES = [
    foreign_parameter, foreign_tensor, foreign_tensor_between_layers, tensor_inside, foreign_head, foreign_and_frozen,
    replaced_before_the_first, replaced_later, replaced_by_another_kind, parameter_replaced, tied_later, unfrozen_later,
    unfrozen_weight_later, frozen_later, adapter_enabled_later, parameter_beside_layers, input_that_requires_grad,
    embeddings_that_require_grad, weight_used_beside, weight_used_alone, weight_penalty,
    prompt_through_a_layer, prompt_of_each_sequence_through_a_layer, prompt_beside_rows_through_a_layer,
    tied_head, captured_in_a_list,
]  # fmt: skip


@in_all_ways(CASES)
def test_leaves(case: Callable[[], Case], way: str, uncovered: bool) -> None:
    assert_outcome(case(), way, uncovered)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("asked", [0, 1], ids=["encoder", "head"])
def test_of_two_promas_one_is_asked(asked: int, way: str) -> None:
    assert_outcome(two_promas(asked), way)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", [foreign_parameter, foreign_tensor, foreign_head], ids=lambda case: case.__name__)
def test_without_a_check_of_rows_leaves_of_others_are_refused_all_the_same(case: Callable[[], Case], way: str) -> None:
    assert outcome(case(), way, check=False) == "raised"


def lora(**options: Any) -> Any:
    """Two LoRA adapters, the second of which is off and frozen, on a small network."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["0", "2"], init_lora_weights=False, **options)
    model = peft.get_peft_model(mlp(), config)
    model.add_adapter("second", config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora" in name:
                generator = torch.Generator().manual_seed(len(name))
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.double()


def without_adapters(model: Any) -> Tensor:
    with model.disable_adapter():
        return score(model(X2)).detach()


CHANGES: dict[str, Callable[[Any], object]] = {
    "nothing": lambda model: None,
    "set_adapter": lambda model: model.set_adapter("second"),
    "off and on": lambda model: (model.base_model.disable_adapter_layers(), model.base_model.enable_adapter_layers()),
    "a pass without": without_adapters,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("way", WAYS)
def test_lora_adapters_may_be_switched(way: str, change: str) -> None:
    assert outcome(Case(lora(), twice(CHANGES[change])), way) == "right"


@pytest.mark.parametrize("way", WAYS)
def test_lora_adapters_may_be_off_when_attached(way: str) -> None:
    model = lora()
    model.base_model.disable_adapter_layers()
    model.base_model.model[2].base_layer.requires_grad_(True)
    batches = twice(lambda model: model.base_model.enable_adapter_layers())
    assert outcome(Case(model, batches), way) == "right"


@pytest.mark.parametrize("way", WAYS)
def test_a_reference_pass_without_adapters_may_be_part_of_the_loss(way: str) -> None:
    use = lambda model: score(model(X)) - without_adapters(model)  # noqa: E731
    assert outcome(Case(lora(), use), way) == "right"
