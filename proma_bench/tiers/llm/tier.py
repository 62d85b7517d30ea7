"""The fourth tier: a pretrained language model solves problems, by default Qwen3-0.6B those of GSM8K.

An initial state is a problem, and a sequence is a generated solution with the token that ends it. The reward is the
strict score of the task. The default settings are those of the paper's run (arXiv 2601.10498), and the prompt ends with
VeRL's instruction, as in that run.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from proma_bench.errors import RunError, UsageError
from proma_bench.language.answers import Answers
from proma_bench.language.key_values import can_share_beginnings
from proma_bench.language.models import Pretrained, byte_tokenizer, checkpoint_layers, tiny_qwen3
from proma_bench.language.policy import LanguagePolicy
from proma_bench.language.prompts import Chat, FewShot, Prompting
from proma_bench.language.sampling import Sampler
from proma_bench.language.sampling.huggingface import HuggingFaceSampler
from proma_bench.language.trial import require_trainable
from proma_bench.learning.experience import Experience
from proma_bench.learning.policy import Generators, Policy
from proma_bench.tasks.gsm8k import GSM8K
from proma_bench.tasks.reasoning import Task
from proma_bench.tiers.llm.config import PINNED, STOPPING_GAP, TINY, LLMConfig

if TYPE_CHECKING:
    from proma_bench.language.sampling.vllm import VLLMSampler

GSM8K_INSTRUCTION = ' Let\'s think step by step and output the final answer after "####".'
SHORT_INSTRUCTION = "\nReply with the answer and nothing else."


class LLM:
    """A model, a task, and the prompts that connect them."""

    def __init__(self, config: LLMConfig) -> None:
        """Load the task and the tokenizer.

        Args:
            config: the settings of the run.

        Raises:
            UsageError: the task, the data or the tokenizer cannot be loaded.
        """
        self.config = config
        self.task = questions(config)
        is_tiny = config.model == TINY
        self._pretrained = None if is_tiny else Pretrained(config.model, config.revision or PINNED.get(config.model))
        self._prompting = self._make_prompting()
        self.answers = Answers(self.task, self._prompting, config.max_prompt_tokens)
        self._sampler: HuggingFaceSampler | VLLMSampler | None = None

    def policy(self, generator: torch.Generator) -> Policy:
        """Load the pretrained model as the initial policy.

        Args:
            generator: not used.

        Returns:
            The policy, on the GPU if there is one.

        Raises:
            UsageError: the model cannot be loaded, or cannot be trained here.
        """
        model = self._model()
        if self.config.gradient_checkpointing:
            checkpoint_layers(model)
        model.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]
        require_trainable(model)
        if self.config.constant_few_shot and not can_share_beginnings(model):
            raise UsageError(f"constant_few_shot must be off for {type(model).__name__}: its attention has a window")
        return LanguagePolicy(
            model,
            prefix=self._prompting.prefix,
            constant_prefix=self.config.constant_few_shot,
            dtype=torch.bfloat16 if self.config.dtype == "bfloat16" else None,
        )

    def sample(self, policy: LanguagePolicy, generators: Generators) -> Experience:
        """Sample one batch for training.

        Args:
            policy: the policy.
            generators: one for initial states (problems) and one for actions (tokens).

        Returns:
            The answers with their rewards.

        Raises:
            RunError: the sampler's log-probs are too far from the policy's.
        """
        sampler = self._sampler_of(policy)
        with torch.no_grad():
            experience = self.answers.experience(
                policy, sampler, self.config.group_size, self.config.prompts, generators
            )
        _require_small_gap(experience)
        return experience

    def evaluate(self, policy: LanguagePolicy) -> dict[str, float | None]:
        return self.answers.scores(self._sampler_of(policy), self.config.validation_samples)

    def test(self, policy: LanguagePolicy) -> dict[str, float | None]:
        """Score a policy on the test set.

        Args:
            policy: the policy.

        Returns:
            The scores by name.

        Raises:
            UsageError: the task has no test set.
        """
        if not isinstance(self.task, GSM8K):
            raise UsageError(f"the task {self.task.name} has no test set; its validation problems are never trained on")
        return self.answers.scores(self._sampler_of(policy), self.config.validation_samples, self.task.test)

    def _model(self) -> PreTrainedModel:
        tokenizer = self._prompting.tokenizer
        if self._pretrained is None:
            return tiny_qwen3(len(tokenizer), 1024)
        model = self._pretrained.model()
        largest, rows = max(tokenizer.get_vocab().values()), len(next(model.get_input_embeddings().parameters()))
        if largest >= rows:
            raise UsageError(
                f"the tokenizer of {self.config.model} has tokens up to number {largest}, but the model has embeddings "
                f"for {rows} tokens only; they do not belong together"
            )
        return model

    def _make_prompting(self) -> Prompting:
        config = self.config
        tokenizer: PreTrainedTokenizerBase
        if self._pretrained is None:
            tokenizer, stop_token_ids = byte_tokenizer(), set[int]()
            tokenizer.chat_template = "{{ messages[0]['content'] }}\n"
        else:
            tokenizer, stop_token_ids = self._pretrained.tokenizer(), self._pretrained.stop_token_ids()
        if tokenizer.eos_token_id is None and not stop_token_ids:
            raise UsageError(
                f"the tokenizer of {config.model} has no end token, so answers would not end; set eos_token in its "
                "tokenizer_config.json, or eos_token_id in generation_config.json"
            )
        if config.few_shot:
            return FewShot(tokenizer, self._examples(), config.few_shot_template, stop_token_ids)
        instruction = GSM8K_INSTRUCTION if config.task == "gsm8k" else SHORT_INSTRUCTION
        return Chat(tokenizer, instruction, config.thinking, stop_token_ids)

    def _examples(self) -> list[tuple[str, str]]:
        """Solved training problems. They are removed from the problems for training."""
        wanted = self.config.few_shot
        examples = self.task.demonstrations[:wanted]
        shown = {text for text, _ in examples}
        self.task.training = [question for question in self.task.training if question.text not in shown]
        if len(examples) < wanted or not self.task.training:
            raise UsageError(f"few_shot must be below the number of training problems with an answer, got {wanted}")
        return examples

    def _sampler_of(self, policy: LanguagePolicy) -> Sampler:
        """The sampler, made once per policy, because it adapts the size of batches to the memory."""
        if self._sampler is None or self._sampler.model is not policy.model:
            stops, limit = self._prompting.stop_token_ids, self.config.max_new_tokens
            if _uses_vllm(self.config.sampler):
                from proma_bench.language.sampling.vllm import VLLMSampler

                context_length, share = self.config.max_prompt_tokens + limit, _share_of_gpu(policy)
                self._sampler = VLLMSampler(policy.model, stops, limit, context_length, share, policy.dtype)
            else:
                self._sampler = HuggingFaceSampler(policy.model, stops, limit, dtype=policy.dtype)
        return self._sampler


def _require_small_gap(experience: Experience) -> None:
    assert experience.sampler_gaps is not None
    gap = float(experience.sampler_gaps.sum()) / max(1, experience.rows)
    if not gap <= STOPPING_GAP:
        raise RunError(
            f"the sampler's log-probs are {gap:.2g} nats per token from the trainer's on average (sampler_gap), and "
            f"more than {STOPPING_GAP:g} is no rounding: the answers are not those of the trained policy. The sampler "
            "may compute this model differently, which --sampler huggingface excludes, or bfloat16 may be too coarse "
            "for it, which --dtype float32 excludes"
        )


def _uses_vllm(sampler: str) -> bool:
    return sampler == "vllm" or (sampler == "auto" and torch.cuda.is_available() and find_spec("vllm") is not None)


def _share_of_gpu(policy: LanguagePolicy) -> float:
    """The share of GPU memory that is free besides weights, gradient, two moments (float32) and the frozen copy."""
    if not torch.cuda.is_available():
        return 1.0
    training = 18 * sum(parameter.numel() for parameter in policy.parameters())
    return max(0.1, 0.9 - training / torch.cuda.get_device_properties(0).total_memory)


def questions(config: LLMConfig) -> Task | GSM8K:
    """Load the problems of the task.

    Args:
        config: the settings of the run.

    Returns:
        The problems and their scoring.

    Raises:
        UsageError: they cannot be loaded.
    """
    count = config.validation_questions
    if config.task == "gsm8k":
        return GSM8K(config.data, count)
    return Task(config.task, count, config.task_options, shortened=config.few_shot > 0, numbers_apart=True)
