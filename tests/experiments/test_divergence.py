"""Runs whose numbers cease to be finite end with their last good state, say why in one line, and are counted."""

import dataclasses
import io
import json
import math

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from small_runs import tiny, tiny_gym, tiny_transformer, without_timings
from torch import nn

from proma_bench.cli import main
from proma_bench.errors import DivergenceError, RunError
from proma_bench.experiments.jobs import Job
from proma_bench.experiments.ladder import finish
from proma_bench.experiments.run import run_in
from proma_bench.experiments.training import Training, train
from proma_bench.learning import divergences
from proma_bench.projection.methods import PROJECTION_METHODS
from proma_bench.runs.directory import read_run
from proma_bench.tiers.bandit.tier import Bandit, BanditPolicy
from proma_bench.tiers.transformer.tier import Transformer


def from_step(number, change):
    """Damage training from this optimizer step on: ``change(training)`` is called before every such step."""
    plain = Training._warm_up

    def damage(monkeypatch):
        def warm_up(training):
            plain(training)
            if training.step + 1 >= number:
                change(training)

        monkeypatch.setattr(Training, "_warm_up", warm_up)

    return damage


def learning_rate(rate):
    def change(training):
        for group in training.optimizer.param_groups:
            group["lr"] = rate

    return from_step(4, change)


class Scaled(torch.autograd.Function):
    """The identity, with a gradient that is multiplied."""

    @staticmethod
    def forward(ctx, values, scale):
        ctx.scale = scale
        return values.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.scale, None


class Activation(nn.ReLU):
    scale = 1.0

    def forward(self, values):
        return Scaled.apply(super().forward(values), self.scale)


def gradient(scale):
    def change(training):
        if training.step == 0:
            training.policy.layers[1] = Activation()
        training.policy.layers[1].scale = scale if training.step >= 3 else 1.0

    return from_step(1, change)


def weights(training):
    """The optimizer's steps end with a weight that is not finite."""
    step = training.optimizer.step

    def damaged():
        step()
        with torch.no_grad():
            training.policy.layers[2].weight[0, 0] = math.inf

    training.optimizer.step = damaged


def third_batch(**changes):
    """Values of the experience of the batch for steps 5 and 6."""

    def damage(monkeypatch):
        plain, batches = Bandit.sample, []

        def sample(tier, policy, generators):
            experience = plain(tier, policy, generators)
            batches.append(experience)
            if len(batches) < 3:
                return experience
            for name, value in changes.items():
                getattr(experience, name)[5] = value
            return experience

        monkeypatch.setattr(Bandit, "sample", sample)

    return damage


def entropy(value):
    def damage(monkeypatch):
        plain, measured = divergences.entropy, []

        def entropy(*arguments):
            measured.append(plain(*arguments))
            return measured[-1] if len(measured) < 4 else value

        monkeypatch.setattr(divergences, "entropy", entropy)

    return damage


def outputs(monkeypatch):
    """Logits are infinite when the third batch is sampled, though all weights are finite."""
    plain, batches = Bandit.sample, []

    def sample(tier, policy, generators):
        batches.append(policy)
        with monkeypatch.context() as broken:
            if len(batches) == 3:
                broken.setattr(BanditPolicy, "forward", lambda self, rows: torch.full((len(rows), 10), math.inf))
            return plain(tier, policy, generators)

    monkeypatch.setattr(Bandit, "sample", sample)


CASES = {
    "step": (learning_rate(3e38), 4, "the step is beyond float32"),
    "weights": (from_step(4, weights), 4, "the weight layers.2.weight is not finite after the step"),
    "outputs": (learning_rate(1e20), 4, "the metric score_sampled is nan"),
    "gradient NaN": (gradient(math.nan), 4, "gradient of layers.0.weight is not finite"),
    "gradient infinite": (gradient(math.inf), 4, "gradient of layers.0.weight is not finite"),
    "second moment": (gradient(1e28), 4, "exp_avg_sq of layers.0.weight is not finite after the step"),
    "reward NaN": (third_batch(rewards=math.nan), 5, "the reward of sequence 5 of the batch is nan"),
    "reward infinite": (third_batch(rewards=-math.inf), 5, "the reward of sequence 5 of the batch is -inf"),
    "reward huge": (third_batch(rewards=1e38), 5, "the reward of sequence 5 of the batch is 1e+38; rewards must be"),
    "log-prob": (third_batch(old_log_probs=-math.inf), 5, "log-probabilities are no longer finite"),
    "entropy": (entropy(-math.inf), 4, "the metric entropy is -inf"),
    "sampling": (outputs, 5, "the outputs of the policy are not finite"),
}


def strictly(text):
    return json.loads(text, parse_constant=pytest.fail)


def files(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


OPTIONS = "--steps 6 --initial-states 8 --group-size 4 --microbatch-size 4 --hidden 16 --checkpoint-every 2".split()


@pytest.mark.parametrize("name", CASES)
def test_a_run_ends_with_its_last_good_state_and_one_line(name, tmp_path, monkeypatch, capsys):
    damage, step, reason = CASES[name]
    damage(monkeypatch)
    config = tiny(method="grpo")
    with pytest.raises(DivergenceError) as caught:
        run_in(tmp_path / "run", config)
    assert str(caught.value).startswith(f"diverged at step {step}: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    run = read_run(tmp_path / "run")
    assert not run.finished
    assert (run.diverged.step, len(run.metrics)) == (step, step - 1)
    assert reason in run.diverged.reason
    strictly((run.path / "diverged.json").read_text())
    for line in (run.path / "metrics.jsonl").read_text().splitlines():
        strictly(line)
    newest = max((run.path / "checkpoint").iterdir())
    assert newest.name == f"step-{(step - 1) // 2 * 2:08d}"
    for tensors in newest.glob("*.safetensors"):
        assert all(value.isfinite().all() for value in load_file(tensors).values())
    before = files(run.path)
    assert main(["run", "bandit", "--method", "grpo", *OPTIONS, "--out", str(run.path), "--resume"]) == 1
    assert main(["run", "bandit", "--method", "grpo", *OPTIONS, "--out", str(run.path)]) == 2
    resumed, again = capsys.readouterr().err.splitlines()
    assert f"diverged at step {step}: {run.diverged.reason}; it would diverge again" in resumed
    assert f"holds this run already, which diverged at step {step}" in again
    assert files(run.path) == before


def test_without_the_record_a_run_is_continued(tmp_path, monkeypatch):
    with monkeypatch.context() as damaged:
        CASES["entropy"][0](damaged)
        with pytest.raises(DivergenceError):
            run_in(tmp_path, tiny())
    with pytest.raises(RunError, match=r"without its diverged.json, --resume tries again"):
        run_in(tmp_path, tiny(), resume=True)
    (tmp_path / "diverged.json").unlink()
    resumed = run_in(tmp_path, tiny(), resume=True)
    assert without_timings(resumed.metrics) == without_timings(train(tiny()))


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("projection", [name for name, method in PROJECTION_METHODS.items() if name != "qr"])
def test_no_projection_hides_a_gradient_that_is_not_finite(projection, wrong, monkeypatch):
    """Neither does one fail with another error, nor are damaged weights left unnoticed."""
    gradient(wrong)(monkeypatch)
    config = tiny(method="proma", projection=projection, max_removed=None)
    try:
        history = train(config)
    except DivergenceError as error:
        assert error.step == 4
    else:
        assert wrong == 1e30  # finite, and so is what this method makes of it
        assert all(math.isfinite(step["grad_norm"]) for step in history)


def some_right(experience):
    """Rewards that differ, though the model can do nothing yet."""
    return dataclasses.replace(experience, rewards=(experience.actions[:, 0] % 2).float())


@pytest.mark.parametrize("method", ["grpo", "proma"])
@pytest.mark.parametrize(
    "config",
    [
        tiny(steps=12),
        tiny_gym(steps=12),
        tiny_gym(steps=12, env="Pendulum-v1", max_episode_steps=10),
        tiny_transformer(steps=6),
    ],
    ids=["bandit", "cartpole", "pendulum", "transformer"],
)
@pytest.mark.parametrize("rate", [1e6, 1e38])
def test_whatever_the_learning_rate_only_finite_numbers_are_recorded(config, method, rate, tmp_path, monkeypatch):
    sample = Transformer.sample
    monkeypatch.setattr(Transformer, "sample", lambda *arguments: some_right(sample(*arguments)))
    try:
        run_in(tmp_path, dataclasses.replace(config, method=method, learning_rate=rate))
    except DivergenceError as error:
        assert error.step == read_run(tmp_path).diverged.step
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        strictly(line)


def test_the_norm_of_a_large_gradient_does_not_overflow(monkeypatch):
    gradient(1e20)(monkeypatch)
    history = train(tiny(method="grpo"))
    assert 1e17 < history[-1]["grad_norm"] < math.inf


def test_a_ladder_goes_on_and_does_not_repeat_what_diverged(tmp_path):
    rates = {"steady": 0.01, "wild": 3e38}
    jobs = [Job(tmp_path / name / "seed-0", tiny(learning_rate=rate, method="grpo")) for name, rate in rates.items()]
    console = Console(file=io.StringIO(), width=300)
    finish(jobs[::-1], 1, console)
    text = console.file.getvalue()
    assert "bandit grpo lr 3e+38 seed 0 diverged at step 1: the step is beyond float32" in text
    assert "once more" not in text
    assert "1 of 2 runs diverged" in text
    assert read_run(jobs[0].path).finished
    before = files(tmp_path)
    finish(jobs, 1, console)
    assert files(tmp_path) == before
    assert console.file.getvalue().count("diverged at step 1") == 1
