"""Every task of reasoning-gym against everything that a model could write: nothing is executed, and nothing hangs."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from escapes import EVALUATING, bombs, escapes, trap
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reasoning_gym.factory import DATASETS

from proma_bench.tasks import admission, reasoning
from proma_bench.tasks.questions import Question
from proma_bench.tasks.reasoning import EASY, Task
from proma_bench.tasks.worker import Worker

pytestmark = [
    pytest.mark.escapes,
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),  # some tasks leave their files open
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

TASKS = sorted(set(DATASETS) - {"composite"})  # which is made of others, and of none by default
HANGS = 90
"""Seconds. The process that scores gives up before."""

PIECES = r"""
    9 ** ( ) [ ] { } , . ! * + - / x C exp sqrt __ import __import__ ('os') eval lambda : for in 0 ' " \ ９ ｅ ∧ ¬ p
""".split()
VALUES = st.recursive(
    st.integers() | st.text(max_size=5), lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner)
)
HOSTILE = st.one_of(
    st.text(max_size=60),
    st.text(st.characters(), max_size=60),  # surrogates, too
    st.lists(st.sampled_from(PIECES), max_size=30).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=30).map(" ".join),
    VALUES.map(json.dumps),
)


@contextmanager
def time_limit() -> Iterator[None]:
    def late(*_: object) -> None:
        raise BaseException(f"no score after {HANGS} seconds")  # no scorer catches it

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(HANGS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reasoning, "POOL", 6)


def variants(question: Question, task: Task) -> list[str]:
    """Answers that are right, nearly right, or right for another question, in several forms."""
    chance, own = random.Random(0), question.answer or ""
    answers = [own, f" {own}\n", f"({own})", own.replace(" ", ""), own.upper(), f"{own} {own}"]
    for _ in range(6):
        place = chance.randrange(len(own) + 1)
        answers.append(own[:place] + chance.choice("0123456789 xX,[-") + own[place + 1 :])
    return [*answers, *(other.answer or "" for other in task.training), "", "1", "x", "[]", "{}", "no", "no answer"]


@pytest.mark.parametrize("name", TASKS)
def test_scores_are_the_library_s_in_both_processes(name: str, few: None) -> None:
    task = Task(name, 2)
    worker = Worker(name, DATASETS[name][0].__module__, {"seed": 0, "size": 6, **EASY.get(name, {})})
    for question in task.validation:
        for answer in variants(question, task):
            direct = task._is_right(question.entry, answer.strip())
            assert task.score(question, answer) == direct, answer
            assert worker.is_right(question.entry, answer.strip()) == direct, answer
    worker.close()


@pytest.mark.parametrize("name", TASKS)
def test_nothing_is_executed_and_nothing_hangs(name: str, few: None, tmp_path, record_property) -> None:
    task = Task(name, 2)
    question = task.validation[0]
    with trap(tmp_path) as canary:
        texts = escapes(canary) + bombs()
        for text in texts:
            began = time.monotonic()
            with time_limit():
                assert task.score(question, text) in (0.0, 1.0)
            assert not canary.sprung, text
            assert time.monotonic() - began < HANGS, text

        @given(HOSTILE)
        @settings(max_examples=60, suppress_health_check=list(HealthCheck))
        def made(text: str) -> None:
            texts.append(text)
            with time_limit():
                assert task.score(question, text) in (0.0, 1.0)
            assert not canary.sprung

        made()
    record_property("strings", len(texts))
    print(f"{name}: {len(texts)} strings, 0 executed, 0 hung")


@pytest.mark.parametrize("name", sorted({*EVALUATING, *TASKS} - admission.READ_SCORERS))
def test_the_process_alone_is_enough(name: str, few: None, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reasoning, "is_admitted", lambda *_: True)
    task = Task(name, 2)
    with trap(tmp_path) as canary:
        for text in escapes(canary) + bombs():
            with time_limit():
                assert task.score(task.validation[0], text) in (0.0, 1.0)
            assert not canary.sprung, text
    assert task._worker is not None and task._worker._process is not None


def test_the_traps_spring_without_protection(few: None, tmp_path) -> None:
    task = Task("n_queens", 2)
    with trap(tmp_path) as canary:
        task._is_right(task.validation[0].entry, f"open('{canary.file}', 'w').close()")
        assert canary.sprung
