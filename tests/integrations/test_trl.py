"""PROMA in TRL: gradients against the float64 oracle, logs, a run that learns."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ.update(HF_HUB_OFFLINE="1", TRL_EXPERIMENTAL_SILENCE="1")  # nothing is downloaded here, and nothing reported

pytest.importorskip("trl", reason="needs the extra [trl]")

from causal_lm import next_token_log_probs, norm_in_the_type_of_its_input, tiny_qwen3
from oracle import Micro, assert_gradients, intra_gradients, oracle_gradients
from tiny_trl import (
    INTRA_RANK,
    MICROBATCHES,
    PROMPTS,
    SIZE,
    Recording,
    TokenWeight,
    at,
    make_trainer,
    micros,
    mixing_qwen3,
    own_tokens,
    token_mean,
    tokenizer,
)
from torch import Tensor, nn

from proma_bench import ProjectionConfig

__all__ = ["norm_in_the_type_of_its_input"]
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*deprecated and will be removed in v6:FutureWarning"),  # TRL uses the old name
]

RELATIVE = 1e-6  # TRL's masks make weights of float32


def check(trainer: Any, weight: TokenWeight = token_mean, config: ProjectionConfig | None = None) -> None:
    """Train, then compare every step's gradients with the oracle's."""
    config = config or ProjectionConfig()
    oracle = intra_gradients if config.method == "intra" else oracle_gradients
    trainer.train()
    assert len(trainer.gradients) == trainer.args.max_steps
    for step, (state, found) in enumerate(zip(trainer.states, trainer.gradients, strict=True)):
        model = at(trainer.model, state)
        seen = trainer.seen[step * MICROBATCHES : (step + 1) * MICROBATCHES]
        wanted = oracle(model, micros(seen, weight, trainer.temperature), config)
        assert wanted.keys() == found.keys()
        for name, parameter in model.named_parameters():
            parameter.grad = found.get(name)
        assert_gradients(model, wanted, RELATIVE)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("checkpointing", [None, False, True], ids=["kept", "checkpointed", "reentrant"])
def test_gradients_equal_the_oracle(tmp_path: Path, lora: bool, checkpointing: bool | None) -> None:
    settings: dict[str, Any] = {"activation_checkpointing": checkpointing is not None}
    if checkpointing is not None:
        settings["activation_checkpointing_kwargs"] = {"use_reentrant": checkpointing}
    check(make_trainer(tmp_path, lora=lora, **settings))


def test_settings_reach_the_projection(tmp_path: Path) -> None:
    settings = {"projection": "exact", "max_removed": None, "shrinkage": 0.7, "temperature": 0.8}
    check(make_trainer(tmp_path, **settings), config=ProjectionConfig("exact", max_removed=None, shrinkage=0.7))


def test_intra_gradients_equal_the_oracle(tmp_path: Path) -> None:
    settings = {"projection": "intra", "projection_rank": INTRA_RANK, "shrinkage": 0.7}
    check(make_trainer(tmp_path, **settings), config=ProjectionConfig("intra", rank=INTRA_RANK, shrinkage=0.7))


WEIGHTS: dict[str, TokenWeight] = {
    "bnpo": lambda step, m, i: 1 / int(own_tokens(step[m]).sum()) / MICROBATCHES,
    "grpo": lambda step, m, i: 1 / int(own_tokens(step[m])[i].sum()) / SIZE / MICROBATCHES,
    "dr_grpo": lambda step, m, i: 1 / 6 / SIZE / MICROBATCHES,
}


@pytest.mark.parametrize("loss_type", WEIGHTS)
def test_other_normalisations(tmp_path: Path, loss_type: str) -> None:
    check(make_trainer(tmp_path, loss_type=loss_type), WEIGHTS[loss_type])


def test_two_optimizer_steps_on_one_batch_of_samples(tmp_path: Path) -> None:
    """A token weighs as on average over the steps, and the second step has no likelihood ratios."""
    trainer = make_trainer(tmp_path, steps_per_generation=2 * MICROBATCHES, max_steps=2, learning_rate=0.01)
    check(trainer, lambda step, m, i: 2 / sum(int(own_tokens(inputs).sum()) for inputs in trainer.seen))


def test_tokens_of_tools_are_not_the_policys_own(tmp_path: Path) -> None:
    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(len(prompts))
        count = len(prompts)
        answers = torch.randint(2, 61, (count, 5), generator=generator).tolist()
        masks = torch.randint(2, (count, 5), generator=generator).tolist()
        lengths = [2 + number % 4 for number in range(count)]
        return {
            "prompt_ids": [[3, 4]] * count,
            "completion_ids": [ids[:n] for ids, n in zip(answers, lengths, strict=True)],
            "logprobs": [[0.0] * n for n in lengths],
            "env_mask": [mask[:n] for mask, n in zip(masks, lengths, strict=True)],
        }

    trainer = make_trainer(tmp_path, rollout_func=rollout)
    check(trainer)
    assert any((inputs["completion_mask"] > inputs["tool_mask"]).any() for inputs in trainer.seen)


def test_weights_of_whole_sequences_multiply_the_advantages(tmp_path: Path) -> None:
    class Weighted(Recording):
        changes = staticmethod(lambda inputs: {"importance_sampling_ratio": torch.tensor([[0.0], [0.5], [1.0], [2.0]])})

    check(make_trainer(tmp_path, Weighted))


def micros_as_they_were(step: list[dict[str, Any]]) -> list[Micro]:
    """A step's microbatches for the oracle, where no sequence can be alone."""
    total = sum(int(own_tokens(inputs).sum()) for inputs in step)

    def micro(inputs: dict[str, Any]) -> Micro:
        def log_prob(model: nn.Module, i: int) -> Tensor:
            tokens = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
            mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
            log_probs = next_token_log_probs(model(tokens, attention_mask=mask).logits, tokens)
            own = inputs["completion_mask"]
            return (log_probs[:, -own.shape[1] :] * own)[i].sum() / total

        return Micro(log_prob, inputs["advantages"])

    return [micro(inputs) for inputs in step]


def test_what_mixes_sequences_is_refused_unless_autograd_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mixes the rows of a batch"):
        make_trainer(tmp_path, model=mixing_qwen3())
    trainer = make_trainer(tmp_path, model=mixing_qwen3(), uncovered="autograd")
    trainer.train()
    model = at(trainer.model, trainer.states[0])
    wanted = oracle_gradients(model, micros_as_they_were(trainer.seen), ProjectionConfig())
    for name, parameter in model.named_parameters():
        parameter.grad = trainer.gradients[0].get(name)
    assert_gradients(model, wanted, RELATIVE)


# ------------------------------------------------------------------------------------------------------- logs, runs


def test_logs(tmp_path: Path) -> None:
    """local_kl is that of the last microbatch, measured here once more."""
    trainer = make_trainer(tmp_path, max_steps=2, learning_rate=0.01)
    trainer.train()
    first, second = trainer.state.log_history[:2]
    assert 0 < first["removed_ratio"] < 1 and 0 <= first["clamped"] <= 1
    assert not any("clip_ratio" in name for name in first)
    inputs = trainer.seen[MICROBATCHES - 1]
    tokens = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    length = inputs["completion_ids"].shape[1]
    before, after = (
        at(trainer.model, state)(tokens, attention_mask=mask).logits[:, -length - 1 : -1].log_softmax(-1)
        for state in trainer.states[:2]
    )
    real = inputs["completion_mask"].bool()
    divergence = (before.exp() * (before - after)).sum(-1)[real].mean().item()
    assert first["local_kl"] == pytest.approx(divergence, rel=1e-6)
    tokens_seen = sum(int(inputs["completion_mask"].sum()) for inputs in trainer.seen[:MICROBATCHES])
    assert 0 < first["loss"] < 6 and tokens_seen > 0  # nats a token
    assert second["entropy"] != first["entropy"]


def test_plain_accumulation_is_reported_as_such(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, shrinkage=0.0)
    check(trainer, config=ProjectionConfig(shrinkage=0.0))
    assert trainer.state.log_history[0]["removed_ratio"] == 0


def test_twenty_steps_improve_the_reward(tmp_path: Path) -> None:
    model = tiny_qwen3(torch.float32)
    trainer = make_trainer(tmp_path, model=model, max_steps=20, learning_rate=0.01, lr_scheduler_type="constant")
    trainer.train()
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    assert len(rewards) == 20
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.25, rewards


def test_the_model_is_left_as_it_was_and_trains_again(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    forwards = [vars(module).get("forward") for module in trainer.model.modules()]
    trainer.train()
    assert [vars(module).get("forward") for module in trainer.model.modules()][1:] == forwards[1:]
    trainer.train()
    assert len(trainer.gradients) == 2


def test_evaluation(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, eval_dataset=PROMPTS.select(range(2)), per_device_eval_batch_size=4)
    logged = trainer.evaluate()
    assert logged["eval_loss"] > 0 and logged["eval_entropy"] > 0


def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    settings = {"max_steps": 4, "learning_rate": 0.01, "save_strategy": "steps", "save_steps": 2}
    straight, resumed = (make_trainer(tmp_path, model=tiny_qwen3(torch.float32), **settings) for _ in range(2))
    straight.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for one, other in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_example_of_the_docs_runs(tmp_path: Path) -> None:
    """With a tiny model and few steps."""
    tiny_qwen3(torch.float32).save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    page = (Path(__file__).parents[2] / "docs/trl.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    small = {
        "Qwen/Qwen3-0.6B": str(tmp_path / "model"),
        "runs/sums": str(tmp_path / "run"),
        "max_steps=100": "max_steps=1, use_cpu=True",
    }
    for written, instead in small.items():
        assert code.count(written) == 1
        code = code.replace(written, instead)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/trl.md", "exec"), names)
    assert names["trainer"].state.global_step == 1
    assert names["right"]([" 7", "8"], ["7", "7"]) == [1.0, 0.0]


def example(path: Path, own_import: str | None = None) -> Any:
    """Run the script in this folder, with TRL's import in the place of ours if ``own_import`` is that; its trainer."""
    code = (Path(__file__).parents[2] / "examples/trl_drop_in.py").read_text()
    ours = "from proma_bench.integrations.trl import PROMAConfig as GRPOConfig, PROMATrainer as GRPOTrainer"
    assert code.count(ours) == 1
    small = {ours: own_import or ours, '"runs/drop-in"': f'"{path}", max_steps=3'}
    for written, instead in small.items():
        assert code.count(written) == 1
        code = code.replace(written, instead)
    names: dict[str, Any] = {}
    exec(compile(code, "examples/trl_drop_in.py", "exec"), names)
    return names["trainer"]


def test_a_script_of_trls_with_one_import_changed_is_proma(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL's default batches; TRL's own import makes it TRL's."""
    monkeypatch.setattr("sys.argv", ["trl_drop_in.py"])
    with pytest.warns(UserWarning, match="Microbatches have 4 sequences instead"):
        ours = example(tmp_path)
    assert type(ours).__name__ == "PROMATrainer"
    assert all(entry["removed_ratio"] > 0 and entry["local_kl"] > 0 for entry in ours.state.log_history[:3])
    theirs = example(tmp_path, "from trl import GRPOConfig, GRPOTrainer")
    assert type(theirs).__name__ == "GRPOTrainer" and theirs.state.global_step == ours.state.global_step == 3
