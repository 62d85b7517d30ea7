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
from proma_bench.tasks.reasoning import Task
from proma_bench.tasks.worker import Worker

pytestmark = pytest.mark.escapes

TASKS = sorted(set(DATASETS) - {"composite"})  # which is made of others, and of none by default
HANGS = 90
"""Seconds. The process that scores gives up before."""

PIECES = "9 ** ( ) [ ] { } , . ! * + - / x C exp sqrt __ import __import__ ('os') eval lambda : for in 0 ' \" \\ \0 ９ ｅ ∧ ¬ p"
HOSTILE = st.one_of(
    st.text(max_size=60),
    st.text(st.characters(), max_size=60),  # surrogates, too
    st.lists(st.sampled_from(PIECES.split()), max_size=30).map("".join),
    st.lists(st.sampled_from(PIECES.split()), max_size=30).map(" ".join),
    st.recursive(
        st.integers() | st.text(max_size=5), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    ).map(json.dumps),
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


def variants(task: Task) -> list[str]:
    """Answers that are right, nearly right, or right for another question, in several forms."""
    chance = random.Random(0)
    own = [question.answer or "" for question in task.validation + task.training]
    changed = list[str]()
    for answer in own:
        place = chance.randrange(len(answer) + 1)
        changed += [answer[:place], answer[:place] + chance.choice("0123456789 xX,[") + answer[place + 1 :]]
    forms = [
        form for one in own for form in (one, f" {one}\n", f"({one})", one.replace(" ", ""), one.upper(), f"{one} ")
    ]
    return [*forms, *changed, "", "0", "1", "x", "[]", "{}", "yes", "no", "not an answer"]


@pytest.mark.parametrize("name", TASKS)
def test_scores_are_the_library_s_in_every_process(name: str, few: None) -> None:
    task = Task(name, 3)
    worker = Worker(name, DATASETS[name][0].__module__, {"seed": 0, "size": 6, **reasoning.EASY.get(name, {})})
    for question in task.validation:
        for answer in variants(task):
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
