"""A supervised start for an untrained model, from a teacher who is often wrong.

Half of the demonstrations are wrong, drawn again every time. The model learns what its teacher knows, and to doubt it:
its most likely answer is better than the answers that it samples. Reinforcement learning can then teach what imitation
of a flawed teacher cannot. The learning rate falls to zero; otherwise the first gain of reinforcement learning would be
no more than the recovery from a noisy last step.
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

from proma_bench.errors import UsageError
from proma_bench.language.policy import LanguagePolicy
from proma_bench.language.prompts import prompt_of
from proma_bench.language.sampling import padded_left
from proma_bench.learning.experience import PADDING, Experience
from proma_bench.tasks.reasoning import POOL, Task

BATCH = 128
PEAK_RATE = 3e-3
WARMUP_STEPS = 50


def warm_start(
    model: PreTrainedModel, task: Task, tokenizer: PreTrainedTokenizerBase, steps: int, flawed: float
) -> None:
    """Give the model the weights of the warm start, which is trained only where the cache lacks it.

    Processes that want the same one wait for the first of them.

    Raises:
        UsageError: the task's questions have no answers to imitate.
    """
    settings = {
        "task": [task.name, POOL, len(task.validation)],
        "training": [steps, flawed, BATCH, PEAK_RATE, WARMUP_STEPS],
        "model": model.config.to_diff_dict(),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "reasoning-gym")},
    }
    name = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]
    path = cache_folder() / f"warm-start-{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            load_model(model, str(path))
        except (OSError, SafetensorError):  # not there, or damaged
            print(f"training the warm start for {task.name}, once, a minute or two: {path}", file=sys.stderr)
            imitate(model, task, tokenizer, steps, flawed)
            unfinished = path.with_suffix(".unfinished")
            save_model(model, str(unfinished))
            os.replace(unfinished, path)


def cache_folder() -> Path:
    """Where warm starts are kept."""
    return Path(os.environ.get("PROMA_BENCH_CACHE") or Path.home() / ".cache" / "proma_bench")


def imitate(model: PreTrainedModel, task: Task, tokenizer: PreTrainedTokenizerBase, steps: int, flawed: float) -> None:
    """Maximise the likelihood of demonstrations, ``flawed`` of them wrong."""
    if not task.demonstrations:
        raise UsageError(f"no question of {task.name} has an answer to imitate; set warm_start_steps to 0")
    policy, chance = LanguagePolicy(model), random.Random(0)
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
    """Questions with their answers in the form that policies take; nothing was sampled and nothing is rewarded."""
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
    """A plausible mistake: a whole number is off by 1 or 10, in other text one letter is another of its letters."""
    if re.fullmatch(r"[+-]?[0-9]{1,18}", answer):
        return str(int(answer) + chance.choice((-10, -1, 1, 10)))
    if not answer:
        return answer
    place = chance.randrange(len(answer))
    return answer[:place] + chance.choice(answer) + answer[place + 1 :]
