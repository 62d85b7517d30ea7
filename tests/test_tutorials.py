"""The tutorials: what is shipped, and what the quick mode may change. The checks are in ``tutorials/``."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import nbformat
import pytest
from checks import Verdict

from proma_bench.cli import main
from proma_bench.cli import tutorials as notebooks

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))

from tutorials import __main__ as tool  # noqa: E402

LESSONS = tool.lessons()


@pytest.fixture
def lesson(tmp_path):
    """Writes a small lesson of these cells and returns its path."""

    def write(*cells):
        path = tmp_path / "9_small.py"
        path.write_text("\n\n".join(f"# %%\n{cell}" for cell in cells))
        return path

    return write


# --------------------------------------------------------------------------------------- sources and notebooks


@pytest.mark.parametrize("source", LESSONS, ids=lambda source: source.stem)
def test_each_notebook_is_its_source_run_from_top_to_bottom(source):
    assert tool.problems(source) == []


@pytest.mark.parametrize("source", LESSONS, ids=lambda source: source.stem)
def test_each_notebook_stays_small_and_has_a_picture(source):
    text = source.with_suffix(".ipynb").read_text()
    assert len(text) < 500_000
    assert '"image/png"' in text


@pytest.mark.parametrize("source", LESSONS, ids=lambda source: source.stem)
def test_each_lesson_ends_with_exercises_that_have_solutions(source):
    text = source.read_text()
    assert text.startswith(f"# %% [markdown]\n# # {source.stem[0]} · ")
    solutions = tool.SOLUTION.findall(_markdown(source).split("## Exercises")[1])
    assert 2 <= len(solutions) <= 4
    code = [cell.source for cell in tool.read_source(source).cells if cell.cell_type == "code"]
    for solution in solutions:  # it ends in the check that its exercise ends in
        assert any(cell.splitlines()[-1] == solution.splitlines()[-1] for cell in code)


@pytest.mark.parametrize("source", LESSONS, ids=lambda source: source.stem)
def test_each_lesson_says_what_it_needs_and_gives_and_asks_for_a_guess(source):
    first = tool.read_source(source).cells[0].source
    for words in (
        "**You should know**",
        "**After this lesson you can**",
        "**Time**",
        "[glossary](../docs/glossary.md)",
    ):
        assert first.count(words) == 1
    code = [cell.source for cell in tool.read_source(source).cells if cell.cell_type == "code"]
    guesses = sum(cell.count("guess = ...") for cell in code)
    assert 1 <= guesses == sum(len(re.findall(r"Outcome\(\s*guess", cell)) for cell in code)
    assert guesses == _markdown(source).count("**Your guess**")


@pytest.mark.parametrize("source", LESSONS, ids=lambda source: source.stem)
def test_lessons_do_not_plot_themselves(source):
    text = source.read_text()
    assert f"from figures import lesson{source.stem[0]} as draw" in text
    assert "subplots" not in text and "color=" not in text


def _markdown(source):
    return "\n".join(cell.source for cell in tool.read_source(source).cells if cell.cell_type == "markdown")


def test_the_readme_names_every_lesson_and_its_question():
    readme = tool.README.read_text()
    assert tool.with_table(readme) == readme
    assert "| [0 · Where to push a policy](tutorials/0_where_to_push.ipynb) | Which steps change" in readme


def test_a_notebook_that_is_not_its_source_is_named(lesson):
    path = lesson("x = 1\nprint(x)", "print(2)")
    assert tool.problems(path) == ["9_small.ipynb is missing"]
    notebook = tool.read_source(path)
    nbformat.write(notebook, path.with_suffix(".ipynb"))
    assert tool.problems(path) == ["9_small.ipynb was not run from top to bottom"]
    for number, cell in enumerate(notebook.cells, start=1):
        cell.execution_count = number
    notebook.cells[0].outputs = [nbformat.v4.new_output("stream", name="stderr", text="UserWarning")]
    nbformat.write(notebook, path.with_suffix(".ipynb"))
    assert tool.problems(path) == ["9_small.ipynb holds an error or a warning"]
    lesson("x = 2\nprint(x)", "print(2)")
    assert tool.problems(path) == ["9_small.ipynb does not have the cells of 9_small.py"]


def test_what_is_written_does_not_change_from_run_to_run(lesson):
    path = lesson("STEPS = 3", "print(STEPS)")
    tool.build(path)
    first = path.with_suffix(".ipynb").read_bytes()
    assert tool.problems(path) == []
    tool.build(path)
    assert path.with_suffix(".ipynb").read_bytes() == first


# ---------------------------------------------------------------------------------------------- the quick mode


def test_quick_parameters_exist_and_shrink():
    for name, parameters in tomllib.loads((ROOT / "tutorials/quick.toml").read_text()).items():
        tool.shrink(tool.read_source(ROOT / f"tutorials/{name}.py"), parameters)


def test_quick_mode_sets_a_value_and_nothing_else(lesson):
    source = tool.read_source(lesson("STEPS = 100  # of Adam\nSEEDS = [1, 2]", "print(STEPS)"))
    tool.shrink(source, {"STEPS": 2, "SEEDS": [1]})
    assert [cell.source for cell in source.cells] == ["STEPS = 2\nSEEDS = [1]", "print(STEPS)"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"GONE": 2}, "quick.toml sets GONE, which is assigned 0 times; it must be once"),
        ({"TWICE": 2}, "quick.toml sets TWICE, which is assigned 2 times; it must be once"),
        ({"STEPS": 100}, "quick.toml sets STEPS to 100, which is 100 in full; same type, other value"),
        ({"STEPS": 2.0}, "quick.toml sets STEPS to 2.0, which is 100 in full; same type, other value"),
    ],
)
def test_a_parameter_that_is_gone_or_not_shrunk_stops_it(lesson, parameters, message):
    source = tool.read_source(lesson("STEPS = 100\nTWICE = 3", "TWICE = 3"))
    with pytest.raises(SystemExit) as error:
        tool.shrink(source, parameters)
    assert str(error.value) == message


def test_solutions_run_after_they_are_shown_and_must_be_right():
    shown = "<details><summary>Solution</summary>\n\n```python\nanswer = 3\ncheck.it(answer)\n```\n\n</details>"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(shown)])
    cells = tool.with_solutions(notebook).cells
    assert [cell.source for cell in cells] == [shown, "answer = 3\ncheck.it(answer)", tool.DEMAND]
    for verdict in (Verdict(False, "no"), Verdict(None, "not yet")):
        with pytest.raises(AssertionError):
            exec(tool.DEMAND, {"Out": {1: Verdict(True, "yes"), 2: verdict}})
    exec(tool.DEMAND, {"Out": {1: Verdict(False, "no"), 2: Verdict(True, "yes")}})


# --------------------------------------------------------------------------------------------------- the copy


def test_the_copy_holds_all_lessons_and_what_they_import(tmp_path):
    new, kept = notebooks.copy_tutorials(tmp_path / "copy")
    assert kept == []
    lessons = [f"{source.stem}.ipynb" for source in LESSONS]
    assert [name for name in new if name.endswith(".ipynb")] == [*lessons, "glossary.ipynb"]
    assert {"checks/__init__.py", "figures/__init__.py", "lessons.mplstyle"} <= set(new)
    assert not list((tmp_path / "copy").rglob("__main__.py"))


def test_links_of_the_copy_lead_to_what_is_in_it(tmp_path):
    notebooks.copy_tutorials(tmp_path)
    copies = sorted(tmp_path.glob("*.ipynb"))
    linked = set()
    for path in copies:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        linked |= {target for target in re.findall(r"\]\(([^)]+)\)", text) if "://" not in target}
    assert {"glossary.ipynb", LESSONS[1].with_suffix(".ipynb").name} <= linked <= {path.name for path in copies}


def test_a_link_to_a_page_of_the_repository_becomes_its_name():
    text = (
        "[here](../docs/a.md), [docs/b.md](../docs/b.md), the [glossary](../docs/glossary.md) and [c](1_bandit.ipynb)"
    )
    assert notebooks._without_links(text) == (
        "here (docs/a.md in the repository), docs/b.md, the [glossary](glossary.ipynb) and [c](1_bandit.ipynb)"
    )


def test_the_glossary_of_the_copy_is_that_of_the_docs(tmp_path):
    notebooks.copy_tutorials(tmp_path)
    notebook = nbformat.read(tmp_path / "glossary.ipynb", as_version=4)
    (cell,) = notebook.cells
    assert notebook.metadata.kernelspec.name == "python3"  # or JupyterLab asks for one
    page = (ROOT / "docs" / "glossary.md").read_text()
    assert cell.source == page.replace(
        "[the mathematics](mathematics.md)", "the mathematics (docs/mathematics.md in the repository)"
    )


def test_what_a_user_changed_is_never_overwritten(tmp_path):
    notebooks.copy_tutorials(tmp_path)
    mine, gone, untouched = (tmp_path / f"{source.stem}.ipynb" for source in LESSONS[:3])
    mine.write_text("my notes")
    gone.unlink()
    before = untouched.stat().st_mtime_ns
    link = tmp_path / "lessons.mplstyle"
    link.unlink()
    link.symlink_to(tmp_path / "elsewhere")
    new, kept = notebooks.copy_tutorials(tmp_path)
    assert (new, kept) == ([gone.name], [mine.name, link.name])
    assert mine.read_text() == "my notes"
    assert untouched.stat().st_mtime_ns == before
    assert not (tmp_path / "elsewhere").exists()


def test_jupyterlab_opens_at_lesson_0(tmp_path, monkeypatch, capfd):
    (tmp_path / "jupyterlab.py").write_text("import sys; print('opened', *sys.argv[1:])")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    subprocess.run([sys.executable, "-m", "proma_bench", "tutorials", "--out", str(tmp_path / "copy")], check=True)
    first, opened = capfd.readouterr().out.splitlines()
    assert first.startswith(f"tutorials: {tmp_path / 'copy'} (")
    assert opened == f"opened --LabApp.default_url=/lab/tree/0_where_to_push.ipynb {tmp_path / 'copy'}"


def test_without_jupyterlab_it_says_what_to_install_and_copies_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["tutorials"]) == 2
    assert capsys.readouterr().err == (
        "proma-bench: this needs jupyterlab, which is not installed; it comes with the extra [tutorials]: "
        'python -m pip install "proma-bench[tutorials]" (in a checkout: ".[tutorials]")\n'
    )
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "taken").write_text("")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert main(["tutorials", "--out", str(tmp_path / "taken")]) == 2
    assert "taken is not a directory; name another one with --out" in capsys.readouterr().err


def test_the_wheel_holds_the_tutorials(tmp_path):
    program = f"from hatchling.build import build_wheel; print(build_wheel({str(tmp_path)!r}))"
    name = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    names = zipfile.ZipFile(tmp_path / name.stdout.split()[-1]).namelist()
    for file in {file for file, _ in notebooks._files()} - {"glossary.ipynb"} | {"glossary.md"}:
        assert f"proma_bench/tutorials/{file}" in names
    assert not [name for name in names if "__pycache__" in name]
