"""The fourth tier: its prompts, its prefix, its precision, and its gradients against the literal ones in float64."""

import dataclasses
import json

import pytest
import torch
from small_models import save_tiny, tiny_llm
from small_runs import without_timings

from proma_bench.cli import main
from proma_bench.errors import UsageError
from proma_bench.experiments.run import run_in
from proma_bench.experiments.training import Training
from proma_bench.language.sampling.huggingface import HuggingFaceSampler
from proma_bench.learning.methods import METHODS
from proma_bench.runs.directory import read_json
from proma_bench.tiers.llm.config import TINY, LLMConfig


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def base_model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("base"), chat=False)


# ------------------------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize("method", METHODS)
def test_a_run_records_its_steps_and_what_the_sampler_said(method, model, tmp_path):
    run = run_in(tmp_path / "run", tiny_llm(model, method=method))
    assert run.finished
    assert [step["score"] is None for step in run.metrics] == [True, False, True, False]
    assert all(0 <= step["sampler_gap"] < 1e-4 for step in run.metrics)
    assert all(0 < step["tokens"] <= 5 * step["sequences"] for step in run.metrics)
    assert set(read_json(tmp_path / "run" / "summary.json")["initial"]) == {"score", "score_sampled"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_resumed_run_goes_on_as_if_it_had_never_stopped(dtype, model, tmp_path):
    config = tiny_llm(model, dtype=dtype)
    whole = run_in(tmp_path / "whole", config)

    def stop(metrics):
        if metrics["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_in(tmp_path / "stopped", config, on_step=stop)
    resumed = run_in(tmp_path / "stopped", config, resume=True)
    assert without_timings(resumed.metrics) == without_timings(whole.metrics)


def test_gsm8k_is_scored_in_both_forms(model, tmp_path):
    run = run_in(tmp_path, tiny_llm(model, task="gsm8k", task_options={}, data="synthetic", few_shot=0, steps=2))
    assert {"score", "score_lenient", "score_sampled"} <= run.metrics[-1].keys()


def test_the_test_set_is_scored_when_asked_for(model, tmp_path, capsys):
    options = (
        "--task gsm8k --data synthetic --steps 2 --prompts 2 --group-size 2 --max-prompt-tokens 500 --max-new-tokens 2"
    )
    command = ["run", "llm", "--model", model, *options.split(), "--validation-questions", "4", "--out", str(tmp_path)]
    assert main(command) == 0
    assert not (tmp_path / "test.json").exists()


def test_a_sampler_that_strays_is_remarked_once(model, tmp_path, monkeypatch):
    sample = HuggingFaceSampler.sample

    def strayed(self, *arguments):
        rollout = sample(self, *arguments)
        return dataclasses.replace(rollout, log_probs=rollout.log_probs - 0.1)

    monkeypatch.setattr(HuggingFaceSampler, "sample", strayed)
    notes = []
    run = run_in(tmp_path, tiny_llm(model), on_note=notes.append)
    assert all(step["sampler_gap"] == pytest.approx(0.1, abs=1e-3) for step in run.metrics)
    assert len(notes) == 1 and notes[0].startswith("step 1: the sampler's log-probs are 0.1 from the trainer's")


def test_a_smoke_run_needs_nothing(tmp_path):
    config = LLMConfig(**LLMConfig.smoke_run)
    assert config.title == "llm/smoke-run"
    assert run_in(tmp_path, config).finished


# ----------------------------------------------------------------------------------------- prompts and prefix


def test_solved_problems_stand_before_every_prompt_and_are_never_asked(model):
    tier = Training(tiny_llm(model)).tier
    prompting = tier.answers.prompting
    first, second = prompting.tokenizer.decode(prompting.prefix).splitlines()
    asked = {question.text for question in tier.task.training + tier.task.validation}
    for line in (first, second):
        problem, answer = line.split("=")
        assert eval(problem) == int(answer) and problem not in asked
    question = tier.task.training[0]
    assert prompting.tokenizer.decode(prompting.tokens([question])[0]) == f"{question.text}="
    ended = set(prompting.tokenizer.batch_decode([[end] for end in prompting.stop_token_ids]))
    assert ended == {"\n", "<end>"}


def test_thinking_is_asked_for_through_the_template(model):
    for thinking in (False, True):
        prompting = Training(tiny_llm(model, few_shot=0, thinking=thinking)).tier.answers.prompting
        question = Training(tiny_llm(model)).tier.task.validation[0]
        text = prompting.tokenizer.decode(prompting.tokens([question])[0])
        assert text.startswith("think: ") == thinking
        assert prompting.prefix == []


def test_no_validation_problem_has_the_numbers_of_a_training_problem(model):
    task = Training(tiny_llm(model, validation_questions=64)).tier.task
    held_out = {frozenset(question.text.replace("-", "+").split(" + ")) for question in task.validation}
    trained = {frozenset(question.text.replace("-", "+").split(" + ")) for question in task.training}
    assert len(task.validation) == 64 and not held_out & trained


# ----------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--few-shot 2 --thinking", "thinking must be off with few_shot, which has no chat, got True"),
        ("--constant-few-shot", "constant_few_shot must be off unless gradient_checkpointing is off, got True"),
        ("--few-shot-template {answer}", "few_shot_template must be a text with {question}"),
        ("--task chain_sums", "unknown task 'chain_sums'"),
        ("--task chain_sum --data x", "data must be left out unless the task is gsm8k"),
        ("--task chain_sum --evaluate test", "--evaluate test is for GSM8K"),
        ("--data nowhere", "no file nowhere/train.jsonl"),
        ("--data synthetic --model nowhere/at-all", "the model nowhere/at-all is not in "),
        ("--data synthetic --model MODEL --max-prompt-tokens 0", "max_prompt_tokens must be at least 1"),
    ],
)
def test_a_wrong_use_is_one_line(options, message, model, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "llm", *options.replace("MODEL", model).split()]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_model_without_a_chat_template_is_asked_in_plain_text(base_model):
    with pytest.raises(UsageError, match="has no chat template; --few-shot 4 asks in plain text"):
        Training(tiny_llm(base_model, few_shot=0))
    assert Training(tiny_llm(base_model)).tier.answers.prompting.prefix


def test_weights_are_read_from_safetensors_alone(tmp_path):
    folder = save_tiny(tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    torch.save({}, tmp_path / "model" / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(UsageError, match=r"cannot load weights in safetensors from .*model \("):
        Training(tiny_llm(folder))
    weights.write_bytes(b"damaged")
    with pytest.raises(UsageError, match=r"cannot load weights in safetensors"):
        Training(tiny_llm(folder))


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    folder = save_tiny(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    (tmp_path / "model" / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UsageError, match="cannot load"):
        Training(tiny_llm(folder))
    assert not (tmp_path / "ran").exists()


def test_a_tiny_random_model_has_a_name_of_its_own():
    assert LLMConfig(model=TINY).title == "llm/smoke-run" and LLMConfig(model=TINY).task == "gsm8k"
