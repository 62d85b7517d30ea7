"""A sampler with transformers, in the process of the trainer.

The model processes the common beginning of all prompts (a system prompt, solved examples) once, unless its attention
has a window, and the rest of each prompt once; the key-value cache is then copied for the samples of a prompt. Finished
answers are removed from the batch when they are at least half of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from proma_bench.errors import RunError
from proma_bench.language.key_values import cached, can_share_beginnings, make_growing, next_logits, repeated
from proma_bench.language.precision import computing_in
from proma_bench.language.sampling import Prompts, Rollout, padded_left
from proma_bench.learning.experience import PADDING
from proma_bench.learning.finite import require_finite_outputs


class HuggingFaceSampler:
    """Generates answers with the current weights of the model."""

    def __init__(
        self,
        model: PreTrainedModel,
        stop_token_ids: Collection[int],
        max_new_tokens: int,
        sequences_at_once: int = 512,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Store the model and the limits.

        Args:
            model: the language model.
            stop_token_ids: tokens that end an answer.
            max_new_tokens: length in tokens at which answers are cut off.
            sequences_at_once: largest number of answers in a batch; it is reduced if there is not enough memory.
            dtype: type of the computation, see `proma_bench.language.precision`.
        """
        self.model, self.max_new_tokens = model, max_new_tokens
        self._stop_token_ids = torch.tensor(sorted(stop_token_ids))
        self._at_once, self._dtype = sequences_at_once, dtype
        self._shares_beginnings = can_share_beginnings(model)

    @torch.no_grad()
    def sample(self, prompts: Prompts, samples: int, generator: torch.Generator | None) -> Rollout:
        """Generate answers.

        Args:
            prompts: the prompts.
            samples: number of answers per prompt.
            generator: for sampling at temperature 1; None gives greedy answers.

        Returns:
            The answers.

        Raises:
            RunError: there is not enough memory for the answers to a single prompt.
        """
        self.model.eval()  # in training mode, gradient checkpointing would turn the cache off
        device, shared = self.model.device, _shared_tokens(prompts) if self._shares_beginnings else 0
        tokens = padded_left([prompt[shared:] for prompt in prompts]).to(device)
        with computing_in(self._dtype, device, keep=True):
            start = cached(self.model, torch.tensor(prompts[0][:shared], dtype=torch.long))
            parts = self._in_parts(tokens, start, samples, _on_device(generator, device))
        answers, log_probs = (torch.cat(columns).cpu() for columns in zip(*parts, strict=True))
        longest = max(1, int((answers != PADDING).sum(dim=1).max()))
        finished = torch.isin(answers, self._stop_token_ids).any(dim=1)
        return Rollout(
            padded_left(prompts).repeat_interleave(samples, 0), answers[:, :longest], log_probs[:, :longest], finished
        )

    def _in_parts(
        self, prompts: Int[Tensor, "Q P"], start: DynamicCache, samples: int, generator: torch.Generator | None
    ) -> list[tuple[Tensor, Tensor]]:
        """Generate in parts of as many prompts as fit into the memory: after a failure, parts are half as large."""
        parts: list[tuple[Tensor, Tensor]] = []
        done = 0
        while done < len(prompts):
            part = prompts[done : done + max(1, self._at_once // samples)]
            state = None if generator is None else generator.get_state()
            try:
                parts.append(self._answers(part, start, samples, generator))
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise RunError(
                        f"out of memory while {samples} answers to one prompt are generated; lower max_new_tokens"
                    ) from None
                self._at_once = len(part) * samples // 2
                if generator is not None and state is not None:
                    generator.set_state(state)
                continue
            done += len(part)
        return parts

    def _answers(
        self, prompts: Int[Tensor, "Q P"], start: DynamicCache, samples: int, generator: torch.Generator | None
    ) -> tuple[Int[Tensor, "R T"], Float[Tensor, "R T"]]:
        """Generate the answers to the prompts of one batch.

        Args:
            prompts: the prompts without their common beginning, padded on the left.
            start: the key-value cache of the common beginning.
            samples: number of answers per prompt.
            generator: for sampling at temperature 1; None gives greedy answers.

        Returns:
            The answers and the log-probabilities of their tokens.
        """
        rows, stops = len(prompts) * samples, self._stop_token_ids.to(prompts.device)
        answers = prompts.new_full((rows, self.max_new_tokens), PADDING)
        log_probs = torch.zeros(answers.shape, device=prompts.device)
        cache = repeated(start, len(prompts))
        seen = prompts != PADDING  # [Q, P], the attention mask; it grows with every token
        seen = torch.cat([seen.new_ones(len(prompts), cache.get_seq_length()), seen], dim=1)
        logits = next_logits(self.model, prompts.clamp_min(0), seen, cache).repeat_interleave(samples, 0)
        cache.batch_repeat_interleave(samples)
        make_growing(cache)
        seen = seen.repeat_interleave(samples, 0)
        present = torch.arange(rows, device=prompts.device)  # the answers that are still in the batch
        ended = torch.zeros(rows, dtype=torch.bool, device=prompts.device)
        for column in range(self.max_new_tokens):
            token, log_prob = _draw(logits, generator)
            going = present[~ended]
            answers[going, column], log_probs[going, column] = token[~ended], log_prob[~ended]
            ended |= torch.isin(token, stops)
            going_on = int((~ended).sum())
            if going_on == 0 or column + 1 == self.max_new_tokens:
                break
            if 2 * going_on <= len(ended):
                kept = (~ended).nonzero().squeeze(1)
                cache.batch_select_indices(kept)
                present, seen, token, ended = present[kept], seen[kept], token[kept], ended[kept]
            seen = torch.cat([seen, seen.new_ones(len(seen), 1)], dim=1)
            logits = next_logits(self.model, token.unsqueeze(1), seen, cache)
        return answers, log_probs


def _shared_tokens(prompts: Prompts) -> int:
    """The length of the common beginning of all prompts, such that at least one token of each prompt remains."""
    same = (len(set(column)) == 1 for column in zip(*prompts, strict=False))
    return min(sum(itertools.takewhile(bool, same)), *(len(prompt) - 1 for prompt in prompts))


def _draw(
    logits: Float[Tensor, "R vocabulary"], generator: torch.Generator | None
) -> tuple[Int[Tensor, " R"], Float[Tensor, " R"]]:
    log_probs = logits.log_softmax(dim=1)
    require_finite_outputs(log_probs[:, 0].exp())  # one NaN or inf among its logits makes a whole row NaN
    if generator is None:
        token = log_probs.argmax(dim=1, keepdim=True)
    else:
        token = torch.multinomial(log_probs.exp(), 1, generator=generator)
    return token.squeeze(1), log_probs.gather(1, token).squeeze(1)


def _on_device(generator: torch.Generator | None, device: torch.device) -> torch.Generator | None:
    """The generator itself if it is on the device, otherwise a generator on the device with a seed drawn from it."""
    if generator is None or generator.device == device:
        return generator
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.Generator(device).manual_seed(seed)
