"""What is installed: wheel and sdist, each used in an environment that has nothing else. `tox -e wheel` runs this."""

import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
README_LOOPS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)

pytestmark = pytest.mark.wheel


def run(*command, cwd=None):
    """Run a command, isolated from this checkout, and return what it has printed."""
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=cwd)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


class Environment:
    """A new virtual environment."""

    def __init__(self, folder):
        venv.create(folder, with_pip=True)
        self.folder, self.python = folder, folder / "bin" / "python"

    def install(self, *packages):
        run(self.python, "-m", "pip", "install", "--quiet", "--constraint", CONSTRAINTS, *packages)

    def execute(self, program):
        return run(self.python, "-W", "error", "-c", program, cwd=self.folder)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of the wheel and the sdist. The wheel is built from the sdist, so both are complete."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(built):
    (wheel,) = built.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def library(tmp_path_factory, wheel):
    """The library alone."""
    environment = Environment(tmp_path_factory.mktemp("library"))
    environment.install(wheel)
    return environment


def test_the_library_needs_torch_numpy_and_jaxtyping_alone(library):
    program = "import importlib.metadata as m, re; [print(re.split('[ ;<>=!~]', r)[0])\n"
    program += " for r in m.requires('proma-bench') if 'extra ==' not in r]"
    assert sorted(library.execute(program).split()) == ["jaxtyping", "numpy", "torch"]
    library.execute("import proma_bench; proma_bench.Proma; proma_bench.project; proma_bench.register_rule")


@pytest.mark.parametrize("number", range(len(README_LOOPS)))
def test_the_readme_s_python_runs_with_the_library_alone(library, number):
    library.execute(README_LOOPS[number])


def test_types_come_along(library):
    assert library.execute(
        "import pathlib, proma_bench; print((pathlib.Path(proma_bench.__file__).parent / 'py.typed').exists())"
    ).split() == ["True"]


@pytest.mark.parametrize("command", ["run bandit", "ladder", "report .", "verify a:b", "tutorials"])
def test_a_command_without_its_extra_says_which_one(library, command):
    result = subprocess.run(
        [library.folder / "bin" / "proma-bench", *command.split()], capture_output=True, text=True, cwd=library.folder
    )
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "it comes with the extra [ladder]" in result.stderr


def test_the_invariants_need_hypothesis_besides(library):
    library.install("hypothesis")
    library.execute(
        "from proma_bench import project; from proma_bench.testing import check_projection\n"
        "check_projection(project, examples=20)"
    )


def test_the_ladder_runs_with_its_extra(tmp_path, wheel):
    environment = Environment(tmp_path / "ladder")
    environment.install(f"{wheel}[ladder]")
    command = "ladder --tiers bandit --budget smoke --seeds 1 --out runs".split()
    run(environment.folder / "bin" / "proma-bench", *command, cwd=tmp_path)
    assert (tmp_path / "runs" / "report.html").exists()


def test_the_sdist_installs(tmp_path, built, library):
    """With the tests and what they read; and what it builds is the library again."""
    (sdist,) = built.glob("*.tar.gz")
    names = run("tar", "-tzf", sdist).splitlines()
    for needed in ("tests/test_wheel.py", "tutorials/quick.toml", "constraints.txt", "tox.ini", "CHANGELOG.md"):
        assert any(name.endswith(f"/{needed}") for name in names), needed
    library.install("hatchling")
    run(
        library.python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--force-reinstall",
        sdist,
    )
    library.execute("from proma_bench import Proma")
