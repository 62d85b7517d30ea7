"""Keeps the notebooks. The .py files are the source; each .ipynb is the same cells with the outputs of a full run.

python -m tutorials build [LESSON ...]    run lessons (all, unless named) in full and write their .ipynb
python -m tutorials table                 write the README's table of lessons
python -m tutorials check                 fail unless every .ipynb has the cells of its .py, run from top to bottom, and
                                          the table names every lesson
python -m tutorials copy DIR [--quick]    what continuous integration executes: every lesson, with the solutions to its
                                          exercises; --quick sets the parameters that quick.toml names
"""

from __future__ import annotations

import ast
import re
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from docs.marked import between_markers
from proma_bench.report.markdown import markdown_table

HOME = Path(__file__).parent
README = HOME.parent / "README.md"
SOLUTION = re.compile(r"<details>.*?```python\n(.*?)```.*?</details>", re.DOTALL)
DEMAND = "assert [*Out.values()][-1].right, [*Out.values()][-1]"  # the last thing shown, the verdict
WIDGET = "application/vnd.jupyter.widget-view+json"


def lessons(folder: Path = HOME) -> list[Path]:
    """The sources, in the order of the course."""
    return sorted(folder.glob("[0-9]*_*.py"))


def read_source(source: Path) -> NotebookNode:
    """The cells of a lesson, with nothing that changes from one machine or day to the next."""
    notebook = jupytext.read(source, fmt="py:percent")
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", nbformat.from_dict({})
    return notebook


def build(source: Path) -> None:
    """Run a lesson and write its notebook. Widgets do not outlive the run and are left out of what is written."""
    notebook = read_source(source)
    resources = {"metadata": {"path": str(source.parent)}}
    NotebookClient(notebook, timeout=600, resources=resources).execute()
    clean = read_source(source)
    for cell, run in zip(clean.cells, notebook.cells, strict=True):
        if cell.cell_type == "code":
            cell.execution_count = run.execution_count
            cell.outputs = [output for output in run.outputs if WIDGET not in output.get("data", {})]
    nbformat.write(clean, source.with_suffix(".ipynb"))


def problems(source: Path) -> list[str]:
    """What keeps a notebook from being its source, run from top to bottom without a complaint."""
    path = source.with_suffix(".ipynb")
    if not path.exists():
        return [f"{path.name} is missing"]
    wanted, found = read_source(source), nbformat.read(path, as_version=4)
    if [_content(cell) for cell in wanted.cells] != [_content(cell) for cell in found.cells]:
        return [f"{path.name} does not have the cells of {source.name}"]
    code = [cell for cell in found.cells if cell.cell_type == "code"]
    complaints = []
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        complaints.append(f"{path.name} was not run from top to bottom")
    if any(output.get("name") == "stderr" or output.output_type == "error" for cell in code for output in cell.outputs):
        complaints.append(f"{path.name} holds an error or a warning")
    return complaints


def _content(cell: NotebookNode) -> tuple[str, str]:
    return cell.cell_type, cell.source


def with_table(readme: str) -> str:
    """The README with the lessons and the question that each answers: its title, and the first line in italics."""
    rows = []
    for source in lessons():
        title, question = re.findall(r"^# # (.*)\n#\n# \*+(.*?)\*+$", source.read_text(), re.MULTILINE)[0]
        rows.append((f"[{title}](tutorials/{source.stem}.ipynb)", question))
    table = markdown_table(("lesson", "the question that it answers"), rows, numbers=False)
    replaced = between_markers(readme, "lessons", table)
    if replaced is None:
        raise SystemExit("the README has no <!-- lessons --> ... <!-- /lessons -->")
    return replaced


# ----------------------------------------------------------------------------------------- what tests execute


def with_solutions(notebook: NotebookNode) -> NotebookNode:
    """After each folded solution a cell that runs it, and one that demands that its check was content."""
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        if cell.cell_type == "markdown":
            for code in SOLUTION.findall(cell.source):
                cells += [nbformat.v4.new_code_cell(code.strip()), nbformat.v4.new_code_cell(DEMAND)]
    notebook.cells = cells
    return notebook


def shrink(notebook: NotebookNode, parameters: dict[str, Any]) -> NotebookNode:
    """Set parameters, which are literals assigned at the start of a line, once in the notebook.

    Raises SystemExit where one is gone, is no literal of that type, or has that value anyway.
    """
    for name, value in parameters.items():
        line = re.compile(rf"^{name} = (.*?)( *#.*)?$", re.MULTILINE)
        found = [(cell, match) for cell in notebook.cells for match in line.finditer(cell.source) if _is_code(cell)]
        if len(found) != 1:
            raise SystemExit(f"quick.toml sets {name}, which is assigned {len(found)} times; it must be once")
        cell, match = found[0]
        full = ast.literal_eval(match[1])
        if type(full) is not type(value) or full == value:
            raise SystemExit(f"quick.toml sets {name} to {value!r}, which is {full!r} in full; same type, other value")
        cell.source = line.sub(f"{name} = {value!r}", cell.source)
    return notebook


def _is_code(cell: NotebookNode) -> bool:
    return bool(cell.cell_type == "code")


def copy(folder: Path, quick: bool) -> None:
    """Write every lesson with its solutions into a folder, and beside it what lessons import."""
    shrunk = tomllib.loads((HOME / "quick.toml").read_text())
    if unknown := shrunk.keys() - {source.stem for source in lessons()}:
        raise SystemExit(f"quick.toml names lessons that are gone: {', '.join(sorted(unknown))}")
    left_out = shutil.ignore_patterns("[0-9]*", "__main__.py", "__pycache__", "*.toml")
    shutil.copytree(HOME, folder, dirs_exist_ok=True, ignore=left_out)
    for source in lessons():
        notebook = with_solutions(read_source(source))
        if quick:
            shrink(notebook, shrunk.get(source.stem, {}))
        nbformat.write(notebook, folder / f"{source.stem}.ipynb")


def main(arguments: list[str]) -> None:
    match arguments:
        case ["build", *names]:
            for source in lessons():
                if not names or source.stem in names or source.stem[0] in names:
                    build(source)
        case ["table"]:
            README.write_text(with_table(README.read_text()))
        case ["check"]:
            complaints = [complaint for source in lessons() for complaint in problems(source)]
            if with_table(README.read_text()) != README.read_text():
                complaints.append("the README's table is of other lessons: python -m tutorials table")
            if complaints:
                raise SystemExit("\n".join([*complaints, "notebooks are written by: python -m tutorials build"]))
        case ["copy", folder, *options] if options in ([], ["--quick"]):
            copy(Path(folder), quick=bool(options))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
