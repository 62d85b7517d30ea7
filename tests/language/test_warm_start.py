"""The start that imitation gives: made once, the same for all, and from a teacher who errs as he should."""

import random
from pathlib import Path

import pytest
import torch

from proma_bench.errors import UsageError
from proma_bench.language.warm_start import demonstrations, flaw, warm_start
from proma_bench.tasks.reasoning import Task
from proma_bench.tiers.transformer.tier import byte_tokenizer, tiny_qwen3

TOKENIZER = byte_tokenizer()


@pytest.fixture(scope="module")
def task():
    return Task("chain_sum", 16)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMA_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def start(task, steps=2, flawed=0.5, seed=0):
    model = tiny_qwen3(len(TOKENIZER), 64)
    warm_start(model, task, TOKENIZER, steps, flawed, seed)
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def weights(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.safetensors"))


def test_it_is_trained_once_and_then_read(task, cache, capsys):
    first = start(task)
    assert "once" in capsys.readouterr().err
    assert torch.equal(start(task), first)
    assert capsys.readouterr().err == ""
    assert len(weights(cache)) == 1


def test_other_settings_have_another_start(task, cache):
    assert not torch.equal(start(task), start(task, flawed=0.0))
    assert not torch.equal(start(task), start(task, seed=1))
    assert len(weights(cache)) == 3


def test_another_seed_has_other_weights_to_begin_with():
    first, again, other = (tiny_qwen3(len(TOKENIZER), 64, seed).lm_head.weight for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_damaged_file_is_made_again(task, cache):
    first = start(task)
    weights(cache)[0].write_bytes(b"not a tensor")
    assert torch.equal(start(task), first)
    assert torch.equal(start(task), first)


def test_imitation_makes_demonstrations_likelier(task, cache):
    shown = demonstrations(task.demonstrations[:50], TOKENIZER)
    likelihoods = []
    for steps in (1, 40):
        model = tiny_qwen3(len(TOKENIZER), 64)
        warm_start(model, task, TOKENIZER, steps, 0.0)
        from proma_bench.language.policy import LanguagePolicy

        with torch.no_grad():
            likelihoods.append(shown.mean(LanguagePolicy(model).on(shown).log_prob(shown.actions)))
    assert likelihoods[1] > likelihoods[0] + 1


def test_demonstrations_are_the_question_the_answer_and_its_end():
    shown = demonstrations([("1 + 2", "3"), ("10", "-10")], TOKENIZER)
    for row, text in zip(shown.observations, ("1 + 2\n3<end>", "10\n-10<end>"), strict=True):
        assert TOKENIZER.decode(row[row >= 0]) == text
    assert shown.mask.sum(dim=1).tolist() == [2, 4]


def test_a_flaw_is_near_the_answer():
    chance = random.Random(0)
    numbers = {int(flaw("-4", chance)) for _ in range(100)}
    assert numbers == {-14, -5, -3, 6}
    words = {flaw("word", chance) for _ in range(100)}
    assert all(len(word) == 4 and sum(a != b for a, b in zip(word, "word", strict=True)) <= 1 for word in words)
    assert flaw("", chance) == ""


def test_a_task_without_answers_cannot_be_imitated(cache):
    task = Task.__new__(Task)
    task.name, task.training, task.validation = "riddles", [], []
    with pytest.raises(UsageError, match="no question of riddles has an answer to imitate"):
        start(task)
