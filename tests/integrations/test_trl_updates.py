"""PROMA in TRL: microbatches within a device's batch, update rules, terms beside the projected one, the local KL."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ.update(HF_HUB_OFFLINE="1", TRL_EXPERIMENTAL_SILENCE="1")  # nothing is downloaded here, and nothing reported

pytest.importorskip("trl", reason="needs the extra [trl]")

import zoo
from causal_lm import norm_in_the_type_of_its_input, tiny_qwen3
from oracle import Micro, assert_near, oracle_gradients
from tiny_trl import (
    CHECKPOINTING,
    LORA,
    PROMPTS,
    Recording,
    TokenWeight,
    at,
    early_letters,
    gradients,
    kl_gradients,
    make_trainer,
    micros,
    own_tokens,
    split,
    token_mean,
    tokenizer,
)
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeForCausalLM
from trl import GRPOConfig, GRPOTrainer

from proma_bench import ProjectionConfig
from proma_bench.projection.rules.elsewhere import Elsewhere
from proma_bench.projection.rules.isopo import AveragedIsopo, Isopo

__all__ = ["norm_in_the_type_of_its_input"]
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*deprecated and will be removed in v6:FutureWarning"),  # TRL uses the old name
]

RELATIVE = 1e-6  # TRL's masks make weights of float32


def batches(sequences: int, passes: int, size: int) -> dict[str, int]:
    """Settings: sequences in a backward pass, passes in a step, and sequences in a microbatch."""
    return {
        "per_device_train_batch_size": sequences,
        "gradient_accumulation_steps": passes,
        "projection_microbatch": size,
    }


def microbatches(trainer: Any, weight: TokenWeight = token_mean) -> list[Micro]:
    size = trainer.args.projection_microbatch
    return [part for micro in micros(trainer.seen, weight) for part in split(micro, size)]


# ----------------------------------------------------------------------------------------------------- microbatches


def of_its_backward_pass(step: list[dict[str, Any]], m: int, i: int) -> float:
    return 1 / int(own_tokens(step[m]).sum()) / len(step)


@pytest.mark.parametrize("sizes", [(12, 1, 4), (6, 2, 4), (4, 3, 1)], ids=["one pass", "uneven", "one sequence each"])
@pytest.mark.parametrize(
    ("loss_type", "weight"), [("dapo", token_mean), ("bnpo", of_its_backward_pass)], ids=["dapo", "bnpo"]
)
def test_a_devices_batch_is_split_into_microbatches(
    tmp_path: Path, sizes: tuple[int, int, int], loss_type: str, weight: TokenWeight
) -> None:
    """The literal accumulation over them; tokens weigh what TRL gives them in the backward pass."""
    trainer = make_trainer(tmp_path, loss_type=loss_type, **batches(*sizes))
    trainer.train()
    model = at(trainer.model, trainer.states[0])
    wanted = oracle_gradients(model, microbatches(trainer, weight), ProjectionConfig())
    assert_near(trainer.gradients[0], wanted, RELATIVE)
    assert trainer.state.log_history[0]["removed_ratio"] > 0


def test_a_step_of_one_microbatch_is_halved_with_a_warning(tmp_path: Path) -> None:
    """TRL's defaults: a step has one backward pass of eight sequences."""
    with pytest.warns(
        UserWarning, match="would be a single microbatch of projection_microbatch=8, .* have 4 sequences"
    ):
        trainer = make_trainer(tmp_path, **batches(8, 1, 8))
    trainer.args.projection_microbatch = 4  # for the oracle
    trainer.train()
    wanted = oracle_gradients(at(trainer.model, trainer.states[0]), microbatches(trainer), ProjectionConfig())
    assert_near(trainer.gradients[0], wanted, RELATIVE)
    assert trainer.state.log_history[0]["removed_ratio"] > 0


@pytest.mark.parametrize(
    "settings", [{"shrinkage": 0.0}, {"max_removed": 0.0}, {"projection": "intra"}, {"projection": "isopo"}]
)
def test_a_step_of_one_microbatch_is_left_to_whom_it_is_enough(tmp_path: Path, settings: dict[str, Any]) -> None:
    assert make_trainer(tmp_path, **batches(8, 1, 8), **settings).microbatch_size == 8


def test_the_control_elsewhere_needs_two_microbatches_in_a_backward_pass(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="have 2 sequences instead"):
        trainer = make_trainer(tmp_path, projection="elsewhere", shrinkage=0.7, **batches(4, 3, 4))
    assert trainer.rule == Elsewhere(ProjectionConfig(shrinkage=0.7))
    trainer.train()
    assert trainer.state.log_history[0]["removed_ratio"] > 0


def test_a_step_of_one_sequence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has a single sequence, and PROMA nothing to project"):
        make_trainer(tmp_path, steps_per_generation=4, **batches(1, 1, 8))


@pytest.mark.parametrize("size", [0, True])
def test_a_size_that_is_none_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(ValueError, match="projection_microbatch must be a whole number of at least 1, got"):
        make_trainer(tmp_path, projection_microbatch=size)


# ----------------------------------------------------------------------------------------------------- update rules


def isopo_gradients(model: nn.Module, parts: list[Micro], regularisation: float) -> dict[str, Tensor]:
    """``sum_i u_i S_i`` with ``u = lambda (K + lambda I)^-1 a``, from gradients of one sequence after another."""
    parameters = dict(model.named_parameters())
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for micro in parts:
        rows = [torch.autograd.grad(-micro.log_prob(model, i), list(parameters.values())) for i in range(len(micro[1]))]
        for name, column in zip(parameters, zip(*rows, strict=True), strict=True):
            flat = torch.stack(column).flatten(1)
            gram = flat @ flat.T
            shift = regularisation * gram.trace() / len(gram) * torch.eye(len(gram), dtype=gram.dtype)
            damped = shift @ torch.linalg.solve(gram + shift, micro.advantages.double())
            total[name] += (damped @ flat).view_as(column[0])
    return total


@pytest.mark.parametrize("how", ["by name", "as an object", "as a function"])
def test_any_update_rule_works(tmp_path: Path, how: str) -> None:
    settings: dict[str, Any] = {"projection": "isopo"} if how == "by name" else {"rule": Isopo(2.0)}
    if how == "as a function":
        settings = {"rule": lambda gram, overlap, advantages: Isopo(2.0)(gram, overlap, advantages)}
    trainer = make_trainer(tmp_path, **batches(6, 2, 3), **settings)
    trainer.train()
    model = at(trainer.model, trainer.states[0])
    wanted = isopo_gradients(model, microbatches(trainer), 1.0 if how == "by name" else 2.0)
    assert_near(trainer.gradients[0], wanted, RELATIVE)


def test_settings_without_effect_on_a_rule_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"sweeps=3 has no effect on the update rule isopo; leave it at 2"):
        make_trainer(tmp_path, projection="isopo", sweeps=3)
    with pytest.raises(ValueError, match=r"projection='exact' has no effect on a rule that the trainer is given"):
        make_trainer(tmp_path, projection="exact", rule=Isopo())
    with pytest.raises(ValueError, match=r"projection='isop' is none of .*exact.*, and no update rule \(.*isopo"):
        make_trainer(tmp_path, projection="isop")


def test_a_resumed_run_has_the_memory_of_its_rule(tmp_path: Path) -> None:
    settings = {"max_steps": 4, "learning_rate": 0.01, "save_strategy": "steps", "save_steps": 2}
    straight, resumed = (
        make_trainer(tmp_path, model=tiny_qwen3(torch.float32), rule=AveragedIsopo(), **settings) for _ in range(2)
    )
    straight.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for one, other in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    (tmp_path / "checkpoint-2" / "update_rule_0.safetensors").unlink()
    with pytest.raises(ValueError, match=r"update_rule_0.safetensors is missing, without which the update rule"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


# ------------------------------------------------------------------------------------- terms beside the projected one


class Gradients(TrainerCallback):
    """Those of a trainer of TRL's own."""

    def __init__(self) -> None:
        self.found: list[dict[str, Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
        self.found.append(gradients(model))


TERMS: dict[str, dict[str, Any]] = {
    "kl": {"beta": 0.3},
    "kl, dr_grpo": {"beta": 0.3, "loss_type": "dr_grpo", "use_bias_correction_kl": False},
    "entropy": {"entropy_coef": 0.2},
    "adaptive entropy": {"use_adaptive_entropy": True, "entropy_target": 9.0, "entropy_coef": 0.2},
}


@pytest.mark.parametrize("term", TERMS)
def test_without_projection_the_gradient_is_that_of_grpo(tmp_path: Path, term: str) -> None:
    """Over two steps, as neither an adaptive coefficient nor a KL from the reference begins at once."""
    compare_with_grpo(tmp_path, TERMS[term], lambda: tiny_qwen3(torch.float64), lora=True)


@pytest.mark.filterwarnings("ignore")
def test_the_auxiliary_loss_of_experts_is_that_of_grpo(tmp_path: Path) -> None:
    with zoo.precision(torch.float64):
        compare_with_grpo(
            tmp_path,
            {"router_aux_loss_coef": 0.5, "max_steps": 1},
            lambda: zoo.build(Qwen3MoeForCausalLM, torch.float64),
            lora=False,
        )


def compare_with_grpo(tmp_path: Path, term: dict[str, Any], make_model: Callable[[], nn.Module], lora: bool) -> None:
    settings = {"max_steps": 2, "learning_rate": 0.01} | term
    trainer = make_trainer(tmp_path, model=make_model(), lora=lora, shrinkage=0.0, **settings)
    names = {"per_device_train_batch_size", "gradient_accumulation_steps", "num_generations", "max_completion_length"}
    others = {"use_cpu", "bf16", "report_to", "save_strategy", "max_grad_norm", CHECKPOINTING, "output_dir"}
    same = {name: getattr(trainer.args, name) for name in names | others}
    start = {name: parameter.clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    args = GRPOConfig(**same | settings)
    adapter = LORA if lora else None
    theirs = GRPOTrainer(make_model(), early_letters, args, PROMPTS, processing_class=tokenizer(), peft_config=adapter)
    for name, parameter in theirs.model.named_parameters():
        parameter.data.copy_(start[name])
    theirs.add_callback(seen := Gradients())
    theirs.train()
    for found, wanted in zip(trainer.gradients, seen.found, strict=True):
        assert_near(found, wanted, RELATIVE)


def test_a_kl_penalty_is_added_to_what_was_projected_without_it(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, lora=True, beta=0.3, use_bias_correction_kl=False, **batches(6, 2, 3))
    trainer.train()
    model = at(trainer.model, trainer.states[0])
    projected = oracle_gradients(model, microbatches(trainer), ProjectionConfig())
    penalty = kl_gradients(model, trainer.seen, 0.3 * token_mean(trainer.seen, 0, 0))
    assert all(float(penalty[name].norm() / projected[name].norm()) > 1e-3 for name in projected)
    assert_near(trainer.gradients[0], {name: projected[name] + penalty[name] for name in projected}, RELATIVE)
    logged = trainer.state.log_history[0]
    assert logged["kl"] > 0 and logged["removed_ratio"] > 0 and "aux_loss" not in logged
    assert not any("clip_ratio" in name for name in logged)


def test_a_term_that_is_off_costs_no_pass(tmp_path: Path) -> None:
    assert make_trainer(tmp_path)._plain_terms is None


# --------------------------------------------------------------------------------------------------------- local KL


class Counting(Recording):
    """The numbers of logits that measurements have made."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.logits: list[int] = []

    def _logits(self, model: nn.Module, inputs: dict[str, Any], positions: Any = None) -> Tensor:
        result = super()._logits(model, inputs, positions)
        if positions is not None:
            self.logits.append(result.numel())
        return result


@pytest.mark.parametrize(("every", "measured"), [(0, []), (1, [0, 1, 2, 3]), (2, [0, 2])])
def test_local_kl_is_measured_every_so_many_steps(tmp_path: Path, every: int, measured: list[int]) -> None:
    trainer = make_trainer(tmp_path, Counting, max_steps=4, learning_rate=0.01, local_kl_every=every)
    trainer.train()
    assert [step for step, logged in enumerate(trainer.state.log_history[:4]) if "local_kl" in logged] == measured
    assert len(trainer.logits) == 2 * len(measured)


def test_local_kl_takes_one_microbatch_and_no_more_logits_than_a_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(tmp_path, Counting, learning_rate=0.01, **batches(12, 1, 5))
    monkeypatch.setattr("proma_bench.integrations.trl.trainer.CHUNK", 2 * 3 * 61)
    trainer.train()
    inputs, (before, after) = trainer.seen[0], trainer.logits
    assert before == after <= 2 * 3 * 61
    tokens, mask = (
        torch.cat([inputs[f"prompt_{kind}"], inputs[f"completion_{kind}"]], dim=1)[10:] for kind in ("ids", "mask")
    )
    length = inputs["completion_ids"].shape[1]
    spaced = slice(0, length, -(-length * 2 * 61 // (2 * 3 * 61)))
    one, other = (
        at(trainer.model, {name: value.detach() for name, value in state.items()})(tokens, attention_mask=mask)
        .logits[:, -length - 1 : -1]
        .log_softmax(-1)[:, spaced]
        for state in (trainer.states[0], dict(trainer.model.named_parameters()))
    )
    real = inputs["completion_mask"][10:, spaced].bool()
    wanted = (one.exp() * (one - other)).sum(-1)[real].mean().item()
    assert trainer.state.log_history[0]["local_kl"] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("every", [-1, True])
def test_local_kl_every_must_be_a_whole_number(tmp_path: Path, every: int) -> None:
    with pytest.raises(ValueError, match="local_kl_every must be a whole number of at least 0"):
        make_trainer(tmp_path, local_kl_every=every)
