"""A supervised warm start for an untrained model, from demonstrations that are often wrong.

A part of the demonstrations (half of them by default) is wrong, and the mistakes are different each time. Therefore the
model learns to answer, but with uncertainty: its most likely answer is better than its sampled answers. Reinforcement
learning can then improve on that, which imitation of wrong demonstrations cannot. The learning rate falls to zero;
otherwise the first progress of reinforcement learning would only be the recovery from a noisy last step.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import os
import random
import re
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from proma_bench import files
from proma_bench.console import printable
from proma_bench.errors import UsageError
from proma_bench.language.policy import LanguagePolicy
from proma_bench.language.prompts import prompt_of
from proma_bench.language.sampling import padded_left
from proma_bench.learning.experience import PADDING, Experience
from proma_bench.tasks.reasoning import POOL, Task

BATCH = 128
PEAK_RATE = 3e-3
WARMUP_STEPS = 50
LARGEST = 1024 * files.MEGABYTE


def warm_start(
    model: PreTrainedModel,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    steps: int,
    flawed: float,
    seed: int = 0,
) -> None:
    """Load the weights of the warm start from the cache; if they are not there, train the model and store them.

    If several processes need the same warm start, one of them trains it and the others wait.

    Args:
        model: an untrained model, which is changed; its weights are those of ``seed``.
        task: the questions.
        tokenizer: the tokenizer of the model.
        steps: number of optimizer steps.
        flawed: share of the demonstrations that are wrong.
        seed: of the demonstrations and of their mistakes.

    Raises:
        UsageError: no training question has an answer that can be imitated.
    """
    settings = {
        "task": [task.name, POOL, len(task.validation)],
        "training": [seed, steps, flawed, BATCH, PEAK_RATE, WARMUP_STEPS],
        "model": model.config.to_diff_dict(),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "reasoning-gym")},
    }
    name = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]
    path = cache_folder() / f"warm-start-{name}.safetensors"
    folder = files.make_folder(path.parent)
    with files.open_lock(folder, f"{path.stem}.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        try:
            files.opened(path, LARGEST).close()
            load_model(model, str(path))
        except (OSError, RuntimeError, SafetensorError):  # missing, damaged or of another model
            model.load_state_dict(initial)
            words = f"training the warm start for {task.name}, once, a minute or two: {path}"
            print(printable(words), file=sys.stderr)
            imitate(model, task, tokenizer, steps, flawed, seed)
            with files.scratch(folder) as unfinished:
                save_model(model, str(unfinished / path.name))
                files.move(unfinished / path.name, path)


def cache_folder() -> Path:
    """The folder where warm starts are stored: PROMA_BENCH_CACHE, or ``~/.cache/proma_bench`` if that is not set."""
    return Path(os.environ.get("PROMA_BENCH_CACHE") or Path.home() / ".cache" / "proma_bench")


def imitate(
    model: PreTrainedModel, task: Task, tokenizer: PreTrainedTokenizerBase, steps: int, flawed: float, seed: int
) -> None:
    """Train a model to maximise the likelihood of demonstrations.

    Args:
        model: the model, which is changed.
        task: the questions.
        tokenizer: the tokenizer of the model.
        steps: number of optimizer steps.
        flawed: share of the demonstrations that are wrong.
        seed: of the demonstrations and of their mistakes.

    Raises:
        UsageError: no training question has an answer that can be imitated.
    """
    if not task.demonstrations:
        raise UsageError(f"no question of {task.name} has an answer to imitate; set warm_start_steps to 0")
    policy, chance = LanguagePolicy(model), random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP_STEPS, 1.0) * (1 - step / steps)
    )
    for _ in range(steps):
        shown = chance.choices(task.demonstrations, k=BATCH)
        pairs = [(text, flaw(answer, chance) if chance.random() < flawed else answer) for text, answer in shown]
        experience = demonstrations(pairs, tokenizer)
        log_probs = policy.on(experience).log_prob(experience.actions)
        loss = -experience.per_sequence(log_probs).sum() / experience.rows
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def demonstrations(pairs: list[tuple[str, str]], tokenizer: PreTrainedTokenizerBase) -> Experience:
    """Convert demonstrations to the form that policies take.

    Args:
        pairs: pairs of a question and an answer.
        tokenizer: the tokenizer of the model.

    Returns:
        The demonstrations as sequences. Log-probabilities, rewards and advantages are 0.
    """
    prompts = tokenizer([prompt_of(text) for text, _ in pairs], add_special_tokens=False)["input_ids"]
    answers = tokenizer([answer + tokenizer.eos_token for _, answer in pairs], add_special_tokens=False)["input_ids"]
    actions = padded_left([answer[::-1] for answer in answers]).flip(1)  # padded on the right
    zeros = torch.zeros(len(pairs))
    return Experience(
        observations=torch.cat([padded_left(prompts), actions], dim=1),
        actions=actions.clamp_min(0),
        old_log_probs=torch.zeros(actions.shape),
        rewards=zeros,
        advantages=zeros,
        mask=actions != PADDING,
    )


def flaw(answer: str, chance: random.Random) -> str:
    """Make a plausible mistake.

    Args:
        answer: a right answer.
        chance: the random generator.

    Returns:
        A whole number that differs by 1 or 10; in other text, one letter is replaced by a random letter of the text.
    """
    if re.fullmatch(r"[+-]?[0-9]{1,18}", answer):
        return str(int(answer) + chance.choice((-10, -1, 1, 10)))
    if not answer:
        return answer
    place = chance.randrange(len(answer))
    return answer[:place] + chance.choice(answer) + answer[place + 1 :]
