"""The log-probs of a language policy and of the samplers, against the model's own forward pass, one text at a time."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
import transformers
import zoo
from torch import Tensor
from transformers import PreTrainedModel

from proma_bench.errors import UsageError
from proma_bench.language.policy import LanguagePolicy
from proma_bench.language.sampling import padded_left
from proma_bench.language.sampling.huggingface import HuggingFaceSampler
from proma_bench.language.trial import require_trainable
from proma_bench.learning.experience import PADDING, Experience

PREFIX = [7, 9, 8]
PROMPTS, ANSWERS = (9, 1, 4, 12), (3, 8, 1, 6)
"""Lengths; padding and windows of attention matter, and one prompt has a single token after the prefix."""


class Verdict(NamedTuple):
    """What came out for one model class, padded or packed.

    Attributes:
        refused: the line that refused it at set-up; empty if it was not.
        error: the largest difference of a log-prob, in nats.
    """

    refused: str
    error: float


def built(name: str, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """A tiny random model of a class, whose last step is not neutral. Skips the test where there is no such class."""
    if not hasattr(transformers, name):
        pytest.skip(f"this version of transformers has no {name}")
    with zoo.quiet(), zoo.precision(dtype):
        model = zoo.build(getattr(transformers, name), dtype)
    assert isinstance(model, PreTrainedModel)
    return model


def verdict(name: str, packed: bool, dtype: torch.dtype = torch.float64) -> Verdict:
    """Try a model class as a run would, and compare all log-probs if it is not refused."""
    model = built(name, dtype)
    with zoo.quiet(), zoo.precision(dtype):
        try:
            require_trainable(model, packed)
        except UsageError as error:
            return Verdict(str(error), float("nan"))
        return Verdict("", packed_error(model) if packed else max(padded_error(model), sampler_error(model)))


def texts() -> Experience:
    """Texts without special tokens, padded on both sides."""
    generator = torch.Generator().manual_seed(5)

    def draw(lengths: tuple[int, ...]) -> list[list[int]]:
        return [torch.randint(3, zoo.VOCABULARY - 4, (length,), generator=generator).tolist() for length in lengths]

    prompts, answers = padded_left(draw(PROMPTS)), padded_left(draw(ANSWERS)).flip(1)
    numbers = torch.randn(len(prompts), generator=generator)
    return Experience(
        torch.cat([prompts, answers], dim=1), answers.clamp_min(0), torch.zeros(answers.shape), numbers, numbers,
        mask=answers != PADDING,
    )  # fmt: skip


def own_log_probs(model: PreTrainedModel, prompt: Tensor, answer: Tensor) -> Tensor:
    """The oracle: a text alone, without padding, cache or prefix, in the class's own ``forward``."""
    tokens = torch.cat([prompt, answer])
    log_probs = model(input_ids=tokens.unsqueeze(0)).logits[0].log_softmax(dim=1)
    return log_probs[len(prompt) - 1 : -1].gather(1, answer.unsqueeze(1)).squeeze(1)


def padded_error(model: PreTrainedModel) -> float:
    """In training and in measurement, with and without a prefix."""
    errors = []
    for prefix in ([], PREFIX):
        policy = LanguagePolicy(model, prefix=prefix)
        errors += [policy_error(policy, prefix, has_gradient) for has_gradient in (True, False)]
    return max(errors)


def packed_error(model: PreTrainedModel) -> float:
    return policy_error(LanguagePolicy(model, packed=True), [], has_gradient=True)


def policy_error(policy: LanguagePolicy, prefix: list[int], has_gradient: bool) -> float:
    experience = texts()
    with torch.set_grad_enabled(has_gradient):
        found = policy.on(experience).log_prob(experience.actions).detach()
    policy.model.eval()
    errors = []
    for row, text, mask in zip(found, experience.observations, experience.mask, strict=True):
        prompt, answer = _parts(text, int(mask.sum()))
        with torch.no_grad():
            own = own_log_probs(policy.model, torch.cat([torch.tensor(prefix, dtype=torch.long), prompt]), answer)
        errors.append(float((row[: len(answer)] - own).abs().max()))
    return max(errors)


def sampler_error(model: PreTrainedModel) -> float:
    """Of answers that end at different times, to prompts with a common beginning."""
    prompts = [PREFIX + _parts(text, int(mask.sum()))[0].tolist() for text, mask in _rows(texts())]
    sampler = HuggingFaceSampler(model, range(20), 12)
    rollout = sampler.sample(prompts, 3, torch.Generator().manual_seed(0))
    errors = []
    for prompt, answer, log_probs in zip(rollout.prompts, rollout.answers, rollout.log_probs, strict=True):
        prompt, answer = prompt[prompt != PADDING], answer[answer != PADDING]
        with torch.no_grad():
            own = own_log_probs(model, prompt, answer)
        errors.append(float((log_probs[: len(answer)] - own).abs().max()))
    return max(errors)


def _rows(experience: Experience) -> zip[tuple[Tensor, Tensor]]:
    assert experience.mask is not None
    return zip(experience.observations, experience.mask, strict=True)


def _parts(text: Tensor, answer: int) -> tuple[Tensor, Tensor]:
    text = text[text != PADDING]
    return text[:-answer], text[-answer:]
