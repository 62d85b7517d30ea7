"""Run directories that nobody promised anything about: a line for each, never a traceback."""

import json
import os

import pytest
from made_up_runs import made_up, store

from proma_bench.cli import main
from proma_bench.errors import UsageError
from proma_bench.report.reading import printable, read_runs


def append(name, text):
    return lambda path: (path / name).write_text((path / name).read_text() + text)


def replace(name, content):
    return lambda path: (path / name).write_bytes(content)


def replace_text(name, old, new):
    return lambda path: (path / name).write_text((path / name).read_text().replace(old, new))


def write(name, text):
    def damage(path):
        (path / "summary.json").unlink()
        (path / name).write_text(text)

    return damage


def configured(**changes):
    def damage(path):
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, **changes}))

    return damage


def without(name):
    def damage(path):
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({key: config[key] for key in config if key != name}))

    return damage


def a_folder(name):
    def damage(path):
        (path / name).unlink()
        (path / name).mkdir()

    return damage


DAMAGES = {
    "config cut short": (replace("config.json", b'{"tier": "ban'), "cannot read"),
    "config not text": (replace("config.json", b"\xff\xfe\x00"), "cannot read"),
    "config a list": (replace("config.json", b"[]"), "not a JSON object"),
    "seed twice": (replace_text("config.json", '"seed"', '"seed": 7, "seed"'), "config.json: 'seed' is there twice"),
    "metric twice": (replace_text("metrics.jsonl", '"score"', '"score": 1, "score"'), "'score' is there twice"),
    "config nested": (replace("config.json", b"[" * 100_000), "nested too deeply"),
    "config a folder": (a_folder("config.json"), "cannot read"),
    "method missing": (without("method"), "lacks method"),
    "an older version": (without("format"), "made by another version, whose settings"),
    "title with controls": (configured(title="\x1b[2J"), "title must be a name"),
    "tier a number": (configured(tier=3), "tier must be a name"),
    "tier with controls": (configured(tier="\x1b[2J"), "tier must be a name"),
    "seed a text": (configured(seed="0"), "seed must be a whole number"),
    "steps infinite": (configured(steps=float("inf")), "Infinity is not JSON"),
    "rate NaN": (configured(learning_rate=float("nan")), "config.json: NaN is not JSON"),
    "rate infinite": (replace_text("config.json", ": 0.1", ": 1e999"), "1e999 is too large"),
    "rate huge": (configured(learning_rate=10**400), "learning_rate must be a number"),
    "metrics a folder": (a_folder("metrics.jsonl"), "metrics.jsonl"),
    "metrics malformed": (append("metrics.jsonl", "{step: 5}\n"), "line 5: not JSON"),
    "metrics not text": (append("metrics.jsonl", '{"step": 5, "a": "\x00\n'), "line 5: not JSON"),
    "metrics nested": (append("metrics.jsonl", '{"step": 5, "a": ' + "[" * 100_000 + "\n"), "nested too deeply"),
    "steps out of order": (append("metrics.jsonl", '{"step": 7}\n'), "line 5: not the metrics of step 5"),
    "metric NaN": (append("metrics.jsonl", '{"step": 5, "kl_local": NaN}\n'), "line 5: NaN is not JSON, which older"),
    "metric -inf": (append("metrics.jsonl", '{"step": 5, "kl_local": -Infinity}\n'), "line 5: -Infinity is not JSON"),
    "metric infinite": (append("metrics.jsonl", '{"step": 5, "kl_local": 1e999}\n'), "line 5: 1e999 is too large"),
    "metric huge": (append("metrics.jsonl", f'{{"step": 5, "kl_local": {10**400}}}\n'), "line 5: kl_local is 1000"),
    "metric a text": (append("metrics.jsonl", '{"step": 5, "score": "high"}\n'), "line 5: score is 'high'"),
    "layer NaN": (append("metrics.jsonl", '{"step": 5, "removed_by_layer": {"a": 1e999}}\n'), "1e999 is too large"),
    "divergence cut short": (write("diverged.json", '{"step": 5'), "diverged.json"),
    "divergence without a step": (write("diverged.json", '{"reason": "x"}'), "has no step and reason"),
    "divergence at NaN": (write("diverged.json", '{"step": NaN, "reason": "x"}'), "NaN is not JSON"),
    "divergence in the past": (write("diverged.json", '{"step": 2, "reason": "x"}'), "but 4 steps are recorded"),
    "score a layer": (append("metrics.jsonl", '{"step": 5, "score": {"a": 1}}\n'), "line 5: score is an object"),
    "layers a number": (append("metrics.jsonl", '{"step": 5, "removed_by_layer": 1}\n'), "removed_by_layer is 1"),
}


def test_each_damaged_run_is_one_line_and_the_others_are_reported(tmp_path, capsys):
    store(made_up(tmp_path / "good"))
    for seed, name in enumerate(DAMAGES):
        damage, _ = DAMAGES[name]
        damage(store(made_up(tmp_path / name, seed=seed)).path)
    assert main(["report", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    page = (tmp_path / "report.html").read_text()
    for name, (_, message) in DAMAGES.items():
        (line,) = (line for line in out.splitlines() if line.startswith("left out") and f"/{name}" in line)
        assert message in line
        assert name in page
    assert "Traceback" not in out + err
    assert "\x1b" not in out


@pytest.mark.parametrize("name", DAMAGES)
def test_nothing_but_a_damaged_run_is_one_line(tmp_path, capsys, name):
    damage, message = DAMAGES[name]
    damage(store(made_up(tmp_path / "bad")).path)
    assert main(["report", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_a_directory_without_runs_is_one_line(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert main(["report", str(tmp_path / "missing")]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"proma-bench: no runs (no config.json) under {tmp_path}",
        f"proma-bench: {tmp_path / 'missing'} is not a directory",
    ]
    assert not list(tmp_path.iterdir())


def test_missing_files_and_a_last_line_cut_short_are_an_unfinished_run(tmp_path, capsys):
    store(made_up(tmp_path / "good"))
    cut = store(made_up(tmp_path / "cut", seed=1)).path / "metrics.jsonl"
    os.truncate(cut, cut.stat().st_size - 5)
    (store(made_up(tmp_path / "empty", seed=2)).path / "metrics.jsonl").unlink()
    (store(made_up(tmp_path / "blank", seed=3)).path / "metrics.jsonl").write_text("")
    assert main(["report", str(tmp_path)]) == 0
    assert "3 of 4 runs are unfinished" in capsys.readouterr().out


def test_runs_that_have_not_begun_are_one_line(tmp_path):
    (store(made_up(tmp_path / "empty")).path / "metrics.jsonl").unlink()
    with pytest.raises(UsageError, match="recorded a step"):
        read_runs(tmp_path)


def test_an_unknown_metric_is_named_once_and_missing_ones_are_not_measured(tmp_path, capsys):
    for seed in range(3):
        run = made_up(tmp_path / f"{seed}", seed=seed, wisdom=3.0)
        for step in run.metrics:
            del step["entropy"], step["kl_local"]
        store(run)
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("unknown metric 'wisdom'") == 1


def test_printable_leaves_nothing_that_a_terminal_obeys():
    assert printable("a\x1b[2J\nb é‖") == "a\\x1b[2J\\nb é‖"
