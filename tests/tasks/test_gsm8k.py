"""GSM8K from its three sources, and what is said of files that are not what they should be."""

import json
import os
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import reasoning_gym

from proma_bench.errors import UsageError
from proma_bench.tasks import gsm8k
from proma_bench.tasks.gsm8k import GSM8K, LONGEST_LINE, PUBLISHED
from proma_bench.tasks.scoring import strict_number

REAL = Path(os.environ.get("PROMA_BENCH_GSM8K") or Path(__file__).parents[3] / "shared" / "gsm8k")
real = pytest.mark.skipif(
    not (REAL / "train.jsonl").is_file(), reason="needs GSM8K's train.jsonl in PROMA_BENCH_GSM8K or ../shared/gsm8k"
)

ROWS = [
    {
        "question": f"Ann has {n} pens — and buys 2 more. How many?",
        "answer": f"{n}+2=<<{n}+2={n + 2}>>{n + 2}\n#### {n + 2}",
    }
    for n in range(10)
]
LARGE = {"question": "A house and a car?", "answer": "Together they cost $1,200,500.50.\n#### 1,200,500.50"}


def written(directory: Path, rows: list[object], name: str = "train.jsonl") -> Path:
    (directory / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def published(monkeypatch, rows: list[dict[str, str]], split: str = "train") -> None:
    """Let these rows be the published ones."""
    digest = gsm8k.digest_of(rows)
    monkeypatch.setitem(PUBLISHED, split, (len(rows), digest))


def test_questions_come_in_the_order_of_the_file_and_validation_is_its_beginning(tmp_path):
    task = GSM8K(written(tmp_path, [*ROWS, LARGE]), 4)
    assert task.name == "gsm8k"
    assert [question.text for question in task.validation + task.training] == [
        row["question"] for row in [*ROWS, LARGE]
    ]
    assert len(task.validation) == 4
    assert task.training[0].answer == ROWS[4]["answer"]


def test_a_question_that_comes_twice_is_asked_once(tmp_path):
    task = GSM8K(written(tmp_path, [*ROWS, *ROWS]), 4)
    texts = [question.text for question in task.validation + task.training]
    assert len(texts) == len(set(texts)) == len(ROWS)


def test_scores_compare_numbers(tmp_path):
    task = GSM8K(written(tmp_path, [LARGE, *ROWS]), 1)
    [question] = task.validation
    for answer in ("#### 1200500.5", "#### 1,200,500.50 dollars", question.answer):
        assert task.score(question, answer) == task.score_lenient(question, answer) == 1
    for answer in ("The answer is $1,200,500.50.", r"\boxed{1200500.5}"):
        assert (task.score(question, answer), task.score_lenient(question, answer)) == (0, 1)
    for answer in ("", "#### 1200500", "#### 1,200,500.51", "1200500.5 or 3", "#### -1200500.5", "\0"):
        assert task.score(question, answer) == task.score_lenient(question, answer) == 0, answer
    assert task.is_answerable(question)


def test_demonstrations_are_training_questions_without_notes_for_a_calculator(tmp_path):
    task = GSM8K(written(tmp_path, ROWS), 4)
    assert task.demonstrations[0] == (ROWS[4]["question"], "4+2=6\n#### 6")
    assert len(task.demonstrations) == len(task.training)


def test_the_test_is_read_only_when_it_is_asked_for(tmp_path, capsys):
    task = GSM8K(written(tmp_path, ROWS[:8]), 4)
    with pytest.raises(UsageError, match=r"no file .*test\.jsonl; --data takes a directory with train\.jsonl and"):
        _ = task.test
    written(tmp_path, ROWS[6:], "test.jsonl")
    assert [question.text for question in task.test] == [row["question"] for row in ROWS[8:]]  # two are in training
    assert "test.jsonl is not the published GSM8K: 4 rows instead of 1,319" in capsys.readouterr().err


def test_a_set_of_ones_own_is_taken_with_a_note(tmp_path, capsys):
    GSM8K(written(tmp_path, ROWS), 4)
    note = capsys.readouterr().err
    assert note.startswith("note: ") and "train.jsonl is not the published GSM8K: 10 rows instead of 7,473" in note
    assert note.count("\n") == 1


def test_what_is_published_is_known_in_whatever_form_it_is_stored(tmp_path, capsys, monkeypatch):
    published(monkeypatch, ROWS)
    lines = (json.dumps({"id": 1, "answer": row["answer"], **row}, ensure_ascii=False) for row in ROWS)
    (tmp_path / "train.jsonl").write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    assert len(GSM8K(tmp_path, 4).training) == 6
    assert capsys.readouterr().err == ""


def test_as_many_rows_as_published_with_another_content_are_refused(tmp_path, monkeypatch):
    published(monkeypatch, ROWS)
    changed = [*ROWS[:9], LARGE]
    with pytest.raises(UsageError, match="not the published GSM8K: 10 rows with SHA-256") as refusal:
        GSM8K(written(tmp_path, changed), 4)
    assert gsm8k.digest_of(changed) in str(refusal.value) and gsm8k.digest_of(ROWS) in str(refusal.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "line 2: not JSON"),
        (b"[" * 50_000, "line 2: not JSON"),
        (b"\xff\xfe", "line 2: not JSON"),
        (b'{"question": "2?", "question": "4?", "answer": "#### 4"}', "line 2: not JSON .'question' is there twice"),
        (b"9" * 5000, "line 2: not JSON"),
        (b'{"question": "\\ud800", "answer": "#### 1"}', "line 2: not JSON"),
        (b"[1]", "line 2: must be an object with question and answer, got list"),
        (b'{"answer": "#### 1"}', "line 2: question must be text, got nothing"),
        (b'{"question": " ", "answer": "#### 1"}', "line 2: question must be text"),
        (b'{"question": 7, "answer": "#### 1"}', "line 2: question must be text, got int"),
        (b'{"question": "?", "answer": ["#### 1"]}', "line 2: answer must be text, got list"),
        (b'{"question": "?", "answer": "It is 18"}', "line 2: the answer must end in '#### number', got 'It is 18'"),
        (b'{"question": "?", "answer": "#### a few"}', "line 2: the answer must end in '#### number'"),
        (b'{"question": "?", "answer": "#### 1/2"}', "line 2: the answer must end in '#### number'"),
        (b'{"question": "?", "answer": "#### 1.2.3"}', "line 2: the answer must end in '#### number'"),
        (b'{"question": "' + b"?" * LONGEST_LINE + b'"}', "line 2: longer than 100,000 bytes"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, line, message):
    first = json.dumps(ROWS[0]).encode()
    (tmp_path / "train.jsonl").write_bytes(b"\n".join([first, line, first]))
    with pytest.raises(UsageError, match=message) as refusal:
        GSM8K(tmp_path, 1)
    assert len(str(refusal.value)) < 1000 and str(refusal.value).isprintable()


def test_a_source_that_is_missing_or_too_small_is_refused_in_words(tmp_path):
    with pytest.raises(UsageError, match=r"no file nowhere/train\.jsonl; --data takes a directory"):
        GSM8K("nowhere", 4)
    with pytest.raises(UsageError, match="has 10 different questions; validation_questions must be fewer, got 10"):
        GSM8K(written(tmp_path, ROWS), 10)
    (tmp_path / "train.jsonl").write_bytes(b"\n\n")
    with pytest.raises(UsageError, match="has 0 different questions"):
        GSM8K(tmp_path, 0)


def parquet(directory: Path, rows: list[dict[str, str]]) -> Path:
    path = directory / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_the_hub_gives_parquet_of_the_published_rows(tmp_path, monkeypatch):
    published(monkeypatch, ROWS)
    path, asked = parquet(tmp_path, ROWS), []
    monkeypatch.setattr(gsm8k, "dataset_file", lambda *what: asked.append(what) or path)
    task = GSM8K(None, 4)
    assert [question.entry for question in task.validation + task.training] == ROWS
    assert asked[0][:3] == (gsm8k.REPOSITORY, gsm8k.REVISION, "main/train-00000-of-00001.parquet")
    parquet(tmp_path, ROWS[1:])
    with pytest.raises(UsageError, match="not the published GSM8K: 9 rows"):
        GSM8K(None, 4)
    for content in (parquet(tmp_path, [{"question": "?"}]).read_bytes(), b"no parquet"):
        path.write_bytes(content)
        with pytest.raises(UsageError, match="delete it to have it fetched again") as refusal:
            GSM8K(None, 4)
        assert "\n" not in str(refusal.value)


def test_made_up_questions_are_whole_and_have_right_answers():
    task = GSM8K("synthetic", 256)
    splits = [task.validation, task.training, task.test]
    texts = [question.text for split in splits for question in split]
    assert len(texts) == len(set(texts)) and min(map(len, splits)) == 256 and len(texts) > 10_000
    assert not any("your final answer" in text for text in texts)
    answers = {question.text: question.answer for split in splits for question in split}
    for entry in reasoning_gym.create_dataset("gsm_symbolic", seed=0, size=500):
        solution = answers[entry["question"].removesuffix(gsm8k.SYNTHETIC_ENDING)]
        assert strict_number(solution) == strict_number(f"#### {entry['answer']}")
    assert all(task.score(question, question.answer) == 1 for split in splits for question in split)
    assert [question.text for question in GSM8K("synthetic", 256).validation] == texts[:256]


@real
def test_the_real_file_is_the_published_one_and_every_answer_scores(capsys):
    task = GSM8K(REAL, 256)
    assert capsys.readouterr().err == ""
    questions = task.validation + task.training
    assert len(questions) == PUBLISHED["train"][0]
    for question in questions:
        number = question.entry["answer"].rsplit(" ", 1)[1]
        assert task.score(question, question.answer) == task.score_lenient(question, question.answer) == 1
        assert task.score_lenient(question, f"The answer is ${number}.") == 1
        assert task.score(question, f"#### {number}1") == task.score_lenient(question, f"#### {number}1") == 0
    separated = [question for question in questions if "," in question.entry["answer"].rsplit(" ", 1)[1]]
    assert len(separated) == 79
    assert not any("<<" in answer for _, answer in task.demonstrations)


@real
def test_the_real_file_with_one_digit_changed_is_refused(tmp_path):
    (tmp_path / "train.jsonl").write_bytes((REAL / "train.jsonl").read_bytes().replace(b"#### 72", b"#### 73", 1))
    with pytest.raises(UsageError, match=PUBLISHED["train"][1]):
        GSM8K(tmp_path, 256)


@real
def test_the_real_rows_as_parquet_are_the_published_ones(tmp_path, monkeypatch):
    path = parquet(tmp_path, [question.entry for question in GSM8K(REAL, 0).training])
    monkeypatch.setattr(gsm8k, "dataset_file", lambda *what: path)
    assert len(GSM8K(None, 256).training) == 7473 - 256
