"""Models and tokenizers that the fourth tier cannot train are refused in one line before anything is sampled."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import transformers
from small_models import save_tiny, tiny_llm
from tiny_configs import tiny_config

from proma_bench.cli import main
from proma_bench.errors import RunError, UsageError
from proma_bench.experiments.run import run_in
from proma_bench.experiments.training import Training
from proma_bench.language.models import Pretrained, byte_tokenizer
from proma_bench.language.sampling.huggingface import HuggingFaceSampler
from proma_bench.tiers.llm.config import STOPPING_GAP


def save(folder: Path, name: str, **settings) -> str:
    """A tiny random model of a class, with the byte tokenizer."""
    kind = getattr(transformers, name)
    config = tiny_config(kind.config_class)
    config.update({"vocab_size": 257, "use_cache": True, **settings})
    kind(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


def edit(folder: str, name: str, **values) -> None:
    path = Path(folder, name)
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.fixture(autouse=True)
def nothing_is_sampled(request, monkeypatch):
    def sample(*arguments):
        raise AssertionError("it was not refused before sampling")

    if "gap" not in request.node.name:
        monkeypatch.setattr(HuggingFaceSampler, "sample", sample)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("MambaForCausalLM", "MambaForCausalLM cannot be trained here: "),
        ("RwkvForCausalLM", "RwkvForCausalLM cannot be trained here: "),
        ("XLNetLMHeadModel", "XLNetLMHeadModel cannot be trained here: "),
        ("T5ForConditionalGeneration", "has a model of type 't5', which is no causal language model"),
        ("BartForConditionalGeneration", "has a model of type 'bart', which is no causal language model"),
        ("ViTForImageClassification", "has a model of type 'vit', which is no causal language model"),
    ],
)
def test_a_model_that_is_not_trained_token_by_token_is_one_line(name, reason, tmp_path, capsys):
    model = save(tmp_path / "model", name)
    options = (
        "--task gsm8k --data synthetic --few-shot 2 --dtype float32 --no-gradient-checkpointing --sampler huggingface"
    )
    capsys.readouterr()
    assert main(["run", "llm", "--model", model, *options.split(), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert reason in error and error.splitlines()[-1] == error.strip()
    assert not (tmp_path / "run").exists()


def test_layers_that_cannot_be_checkpointed_are_refused_with_the_setting(tmp_path, monkeypatch):
    model = save_tiny(tmp_path)
    monkeypatch.setattr(transformers.Qwen3ForCausalLM, "supports_gradient_checkpointing", False)
    monkeypatch.setattr(transformers.Qwen3Model, "supports_gradient_checkpointing", False)
    with pytest.raises(UsageError, match="turn it off with --no-gradient-checkpointing"):
        Training(tiny_llm(model))


def test_weights_that_are_missing_are_not_made_up(tmp_path):
    folder = save_tiny(tmp_path)
    model = transformers.Qwen3ForCausalLM.from_pretrained(folder)
    weights = {name: weight for name, weight in model.state_dict().items() if "layers.1.mlp.up" not in name}
    model.save_pretrained(folder, state_dict=weights)
    with pytest.raises(UsageError, match=r"are not complete: model\.layers\.1\.mlp\.up_proj\.weight is missing"):
        Training(tiny_llm(folder))


def test_a_tokenizer_with_more_tokens_than_the_embedding_is_refused(tmp_path):
    folder = save_tiny(tmp_path)
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<more>"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(UsageError, match=r"has tokens up to number 257, but the model has embeddings for 257 tokens"):
        Training(tiny_llm(folder))


@pytest.mark.parametrize("few_shot", [0, 2])
def test_a_tokenizer_without_an_end_token_is_refused(few_shot, tmp_path):
    folder = save_tiny(tmp_path)
    edit(folder, "tokenizer_config.json", eos_token=None)
    edit(folder, "generation_config.json", eos_token_id=None)
    with pytest.raises(UsageError, match="has no end token, so answers would not end; set eos_token"):
        Training(tiny_llm(folder, few_shot=few_shot))
    edit(folder, "generation_config.json", eos_token_id=0)
    Training(tiny_llm(folder, few_shot=few_shot))


def test_constant_beginnings_are_refused_where_attention_has_a_window(tmp_path):
    folder = save(tmp_path / "model", "MistralForCausalLM", sliding_window=8)
    with pytest.raises(
        UsageError, match="constant_few_shot must be off for MistralForCausalLM: its attention has a wi"
    ):
        Training(tiny_llm(folder, constant_few_shot=True, gradient_checkpointing=False))


def test_noise_is_turned_off_in_all_parts_of_a_config(tmp_path):
    folder = save(tmp_path / "model", "GPTNeoXForCausalLM", attention_dropout=0.5, hidden_dropout=0.5)
    config = Pretrained(folder, None).model().config
    assert config.attention_dropout == config.hidden_dropout == 0.0
    folder = save(tmp_path / "moe", "PhimoeForCausalLM", router_jitter_noise=0.5, input_jitter_noise=0.5)
    config = Pretrained(folder, None).model().config
    assert config.router_jitter_noise == config.input_jitter_noise == 0.0


# ------------------------------------------------------------------------------------------------ sampler's gap


@pytest.mark.parametrize(
    ("gap", "stops"), [(0.9 * STOPPING_GAP, False), (1.1 * STOPPING_GAP, True), (float("nan"), True)]
)
def test_a_run_stops_at_a_gap_that_rounding_does_not_explain(gap, stops, tmp_path, monkeypatch):
    model = save_tiny(tmp_path / "model")
    sample = HuggingFaceSampler.sample

    def strayed(self, prompts, samples, generator):
        rollout = sample(self, prompts, samples, generator)
        return dataclasses.replace(rollout, log_probs=torch.where(rollout.mask, rollout.log_probs - gap, 0.0))

    config = tiny_llm(model, steps=2)
    monkeypatch.setattr(HuggingFaceSampler, "sample", strayed)
    if not stops:
        assert run_in(tmp_path / "run", config).finished
        return
    with pytest.raises(RunError) as stop:
        run_in(tmp_path / "run", config)
    message = str(stop.value)
    assert message.startswith(
        f"optimizer step 1: the sampler's log-probs are {gap:.2g} nats per token from the trainer's on average"
    )
    assert "--sampler huggingface" in message and "--dtype float32" in message and "\n" not in message
