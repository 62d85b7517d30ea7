"""A trial of a model before a run: what is trained, and what samples, must be the distribution of the model itself.

A family may not be able to: its state is no key-value cache, padding on the left changes its answers, its attention
sees later tokens, its last step needs more than hidden states. Instead of a list of families, a few short texts are
tried: together and padded in the policy, and token by token in the sampler. Both must agree with the model's own
``forward``, in which each text is alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from proma_bench.errors import UsageError
from proma_bench.language.key_values import cached, can_share_beginnings, make_growing, next_logits, repeated
from proma_bench.language.policy import LanguagePolicy
from proma_bench.language.sampling import padded_left
from proma_bench.learning.experience import PADDING, Experience

TOLERANCE = 1e-4
"""Largest difference of log-probs in nats, relative to the largest log-prob if that is above 1 nat.

Rounding in float32 makes a hundredth of it in a model of 28 layers.
"""
PREFIX, PROMPTS, ANSWERS = 3, (5, 2, 7), (3, 4, 1)
"""Lengths of the texts: their common beginning, the rest of each prompt, each answer. Every text needs padding."""


def require_trainable(model: PreTrainedModel, packed: bool = False) -> None:
    """Require that the policy and the sampler have the distribution of the model itself.

    Args:
        model: the language model, in float32.
        packed: train on packed sequences, see `LanguagePolicy`.

    Raises:
        UsageError: they do not have it, or the model does not work in them.
    """
    wanted: list[Tensor] = []
    for what, trial in _trials(model, packed).items():
        try:
            found = trial()
        except torch.OutOfMemoryError:
            continue  # the run itself says which settings to change
        except Exception as error:  # whatever a class of transformers may raise
            reason = " ".join(str(error).split())[:200]
            raise _refusal(model, f"{what} failed ({type(error).__name__}: {reason})") from error
        wanted = wanted or found
        _compare(model, what, found, wanted)


def _trials(model: PreTrainedModel, packed: bool) -> dict[str, Callable[[], list[Tensor]]]:
    """What gives the log-probs of the answers; the first is the model's own forward pass, and the others must agree."""
    beginning, place = (0, "") if packed else (PREFIX, " after a common beginning")
    return {
        "its own forward pass": lambda: _alone(model),
        "a training pass": lambda: _of_policy(model, packed, 0, has_gradient=True),
        f"a pass without gradients{place}": lambda: _of_policy(model, packed, beginning, has_gradient=False),
        "sampling with a cache": lambda: _step_by_step(model),
    }


Text = tuple[Tensor, Tensor]
"""The tokens of a prompt and of an answer."""


def _texts(model: PreTrainedModel) -> list[Text]:
    """Texts of random tokens with a common beginning, without those that have a meaning of their own."""
    config = model.config.get_text_config()
    special = {number for part in (model.config, config) for number in _special_tokens(part)}
    usual = torch.tensor([number for number in range(config.vocab_size) if number not in special])
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> Tensor:
        return usual[torch.randint(len(usual), (count,), generator=generator)].to(model.device)

    prefix = draw(PREFIX)
    return [(torch.cat([prefix, draw(prompt)]), draw(answer)) for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]


def _special_tokens(config: PreTrainedConfig) -> set[int]:
    """The tokens that a config names: padding, ends, placeholders of images."""
    named = [value for name, value in vars(config).items() if name.endswith(("token_id", "token_index"))]
    return {number for value in named for number in (value if isinstance(value, list) else [value])} - {None}


@torch.no_grad()
def _alone(model: PreTrainedModel) -> list[Tensor]:
    model.eval()
    found = []
    for prompt, answer in _texts(model):
        tokens = torch.cat([prompt, answer])
        log_probs = model(input_ids=tokens.unsqueeze(0)).logits[0].float().log_softmax(dim=1)
        found.append(log_probs[len(prompt) - 1 : -1].gather(1, answer.unsqueeze(1)).squeeze(1))
    return found


def _of_policy(model: PreTrainedModel, packed: bool, beginning: int, has_gradient: bool) -> list[Tensor]:
    """The policy gets the first tokens of all prompts as its prefix."""
    texts = _texts(model)
    policy = LanguagePolicy(model, packed, prefix=texts[0][0][:beginning].tolist())
    experience = _experience([(prompt[beginning:], answer) for prompt, answer in texts]).to(model.device)
    with torch.set_grad_enabled(has_gradient):
        log_probs = policy.on(experience).log_prob(experience.actions).detach()
    return [row[: len(answer)] for row, (_, answer) in zip(log_probs, texts, strict=True)]


def _experience(texts: Sequence[Text]) -> Experience:
    prompts = padded_left([prompt.tolist() for prompt, _ in texts])
    answers = padded_left([answer.flip(0).tolist() for _, answer in texts]).flip(1)  # padded on the right
    zeros = torch.zeros(len(texts))
    return Experience(
        observations=torch.cat([prompts, answers], dim=1),
        actions=answers.clamp_min(0),
        old_log_probs=torch.zeros(answers.shape),
        rewards=zeros,
        advantages=zeros,
        mask=answers != PADDING,
    )


@torch.no_grad()
def _step_by_step(model: PreTrainedModel) -> list[Tensor]:
    """The texts grow by their own tokens, as answers do in the sampler. One of two copies is removed on the way."""
    model.eval()
    texts = _texts(model)
    beginning = PREFIX if can_share_beginnings(model) else 0
    experience = _experience([(prompt[beginning:], answer) for prompt, answer in texts]).to(model.device)
    prompts, answers = experience.observations[:, : -experience.actions.shape[1]], experience.actions
    cache = repeated(cached(model, texts[0][0][:beginning]), len(texts))
    seen = F.pad(prompts != PADDING, (beginning, 0), value=True)
    logits = next_logits(model, prompts.clamp_min(0), seen, cache)
    cache.batch_repeat_interleave(2)
    make_growing(cache)
    logits, seen, answers = (rows.repeat_interleave(2, dim=0) for rows in (logits, seen, answers))
    columns: list[Tensor] = []
    for step in range(max(ANSWERS)):
        if step == 2:
            kept = torch.arange(0, len(seen), 2, device=model.device)
            cache.batch_select_indices(kept)
            logits, seen, answers, *columns = (rows[kept] for rows in (logits, seen, answers, *columns))
        tokens = answers[:, step : step + 1]
        columns.append(logits.log_softmax(dim=1).gather(1, tokens))
        seen = F.pad(seen, (0, 1), value=True)
        logits = next_logits(model, tokens, seen, cache)
    return [row[: len(answer)] for row, (_, answer) in zip(torch.cat(columns, dim=1), texts, strict=True)]


def _compare(model: PreTrainedModel, what: str, found: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    ours, own = torch.cat(list(found)).cpu().float(), torch.cat(list(wanted)).cpu().float()
    largest = float((ours - own).abs().max())
    allowed = TOLERANCE * max(1.0, float(own.abs().max()))
    if not largest <= allowed:
        raise _refusal(
            model,
            f"log-probs of {what} differ from those of its own forward pass by up to {largest:.2g} nats, and rounding "
            f"explains only {allowed:.2g}",
        )


def _refusal(model: PreTrainedModel, problem: str) -> UsageError:
    name = type(model).__name__
    return UsageError(f"{name} cannot be trained here: {problem}; take another model, for example Qwen3")
