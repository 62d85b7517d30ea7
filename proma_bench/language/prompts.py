"""Prompts for a language model: a question alone, as a chat message, or after solved examples."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol, runtime_checkable

from transformers import PreTrainedTokenizerBase

from proma_bench.errors import UsageError
from proma_bench.tasks.questions import Question


@runtime_checkable
class Prompting(Protocol):
    """Turns questions into prompts.

    Attributes:
        tokenizer: the tokenizer of the model.
        prefix: tokens at the beginning of every prompt.
        stop_token_ids: tokens that end an answer.
    """

    tokenizer: PreTrainedTokenizerBase
    prefix: list[int]
    stop_token_ids: frozenset[int]

    def tokens(self, questions: Sequence[Question]) -> list[list[int]]:
        """Make prompts.

        Args:
            questions: the questions.

        Returns:
            The tokens of each prompt, without the prefix.
        """


class Line:
    """The question alone and a line break, for a model that was only trained on such prompts."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer, self.prefix = tokenizer, list[int]()
        self.stop_token_ids = frozenset([int(tokenizer.eos_token_id)])

    def tokens(self, questions: Sequence[Question]) -> list[list[int]]:
        return _tokens(self.tokenizer, [prompt_of(question.text) for question in questions])


class Chat:
    """The question as a user's message in the tokenizer's chat template."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, instruction: str, thinking: bool, stop_token_ids: Collection[int] = ()
    ) -> None:
        """Check the template and collect the tokens that end an answer.

        Args:
            tokenizer: the tokenizer of the model.
            instruction: text at the end of the message.
            thinking: the template's option ``enable_thinking``; templates without this option ignore it.
            stop_token_ids: further tokens that end an answer, in addition to the tokenizer's own.

        Raises:
            UsageError: the tokenizer has no chat template.
        """
        if tokenizer.chat_template is None:
            raise UsageError("the model's tokenizer has no chat template; --few-shot 4 asks in plain text")
        self.tokenizer, self.prefix = tokenizer, list[int]()
        self.stop_token_ids = frozenset([*_end(tokenizer), *stop_token_ids])
        self._instruction, self._thinking = instruction, thinking

    def tokens(self, questions: Sequence[Question]) -> list[list[int]]:
        return _tokens(self.tokenizer, [self._text(question) for question in questions])

    def _text(self, question: Question) -> str:
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": f"{question.text}{self._instruction}"}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=self._thinking,
        )
        return str(text)


class FewShot:
    """Plain text that begins with solved examples. An answer is one line.

    Line breaks within an example are replaced by spaces.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        examples: Sequence[tuple[str, str]],
        template: str,
        stop_token_ids: Collection[int] = (),
    ) -> None:
        """Make the prefix from the solved examples.

        Args:
            tokenizer: the tokenizer of the model.
            examples: pairs of a question and its answer.
            template: the form of an example; it contains ``{question}`` and ends with ``{answer}`` and a line break.
            stop_token_ids: further tokens that end an answer, in addition to the tokenizer's own and to those that
                contain a line break.
        """
        shown = [
            _filled(template, question=" ".join(question.split()), answer=" ".join(answer.split()))
            for question, answer in examples
        ]
        self.tokenizer = tokenizer
        self.prefix = _tokens(tokenizer, ["".join(shown)])[0]
        if tokenizer.bos_token_id is not None and _begins_with_bos(tokenizer):
            self.prefix.insert(0, int(tokenizer.bos_token_id))
        self.stop_token_ids = frozenset([*_end(tokenizer), *stop_token_ids, *_with_new_line(tokenizer)])
        # the space before an answer is part of its first token
        self._template = template.removesuffix("{answer}\n").rstrip(" ")

    def tokens(self, questions: Sequence[Question]) -> list[list[int]]:
        texts = [_filled(self._template, question=" ".join(question.text.split()), answer="") for question in questions]
        return _tokens(self.tokenizer, texts)


def prompt_of(question: str) -> str:
    """The prompt for a model that is trained on questions alone (see `Line`).

    Args:
        question: the text of the question.

    Returns:
        The text before the answer.
    """
    return f"{question}\n"


def _filled(template: str, question: str, answer: str) -> str:
    """The template with its values, without `str.format`, because templates and questions may contain braces."""
    before, after = template.split("{question}")
    return before + question + after.replace("{answer}", answer)


def _tokens(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return ids


def _end(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]


def _begins_with_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer adds a token before every text (that of Llama does, those of Qwen3 and SmolLM2 do not)."""
    return tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]


def _with_new_line(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    return [token for token, text in enumerate(texts) if "\n" in text]
