"""PROMA in TRL with samples from vLLM in the trainer's own process; `tox -e vllm` has it."""

from __future__ import annotations

import functools
import os
import warnings
from pathlib import Path

import pytest
import torch
from oracle import oracle_gradients
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from proma_bench import ProjectionConfig

os.environ.update(HF_HUB_OFFLINE="1")
pytest.importorskip("trl", reason="needs the extra [trl]")
with warnings.catch_warnings():  # of what torch has deprecated
    warnings.simplefilter("ignore")
    pytest.importorskip("vllm", reason="vLLM is not installed; tox -e vllm installs it")
    import vllm._custom_ops
    from tiny_trl import MICROBATCHES, VOCABULARY, at, make_trainer, micros, tokenizer
    from trl.generation import vllm_generation


@pytest.fixture
def engine_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL hands new weights to the layers, which on a CPU must therefore keep their own: by default vLLM packs them.

    In float32, for TRL leaves the type to vLLM. Not compiled: that takes a minute.
    """
    for name, value in {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):  # TRL sets them
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(vllm._custom_ops, "_supports_onednn", False)
    eager = functools.partial(vllm_generation.LLM, enforce_eager=True, dtype="float32")
    monkeypatch.setattr(vllm_generation, "LLM", eager)


@pytest.mark.usefixtures("engine_of_a_cpu")
@pytest.mark.filterwarnings("ignore")  # of TRL, transformers and vLLM about each other's versions
def test_samples_come_from_the_weights_of_the_moment(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 32}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    Qwen3ForCausalLM(Qwen3Config(vocab_size=VOCABULARY, **sizes, **heads)).save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    with torch.compiler.set_stance("force_eager"):
        trainer = make_trainer(
            tmp_path,
            model=model,
            use_vllm=True,
            vllm_mode="colocate",
            vllm_max_model_length=64,
            max_steps=2,
            learning_rate=0.01,
        )
        trainer.train()
    first, second = trainer.state.log_history[:2]
    assert first["local_kl"] > 0.01, "the weights of the second step are others"
    assert second["sampling/sampling_logp_difference/max"] < 1e-4
    assert 0 < first["removed_ratio"] < 1
    for step, (state, found) in enumerate(zip(trainer.states, trainer.gradients, strict=True)):
        seen = trainer.seen[step * MICROBATCHES : (step + 1) * MICROBATCHES]
        wanted = oracle_gradients(at(model, state).double(), micros(seen), ProjectionConfig())
        for name, gradient in wanted.items():
            assert float((found[name] - gradient).norm() / gradient.norm()) < 1e-3, name
