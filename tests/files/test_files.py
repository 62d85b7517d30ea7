"""Files are made new and whole, nothing is written through a link, and nothing but regular files is read."""

import ast
import os
import subprocess
from pathlib import Path

import pytest

import proma_bench
from proma_bench import files
from proma_bench.errors import RunError

PACKAGE = Path(proma_bench.__file__).parent
WRITERS = set(
    """open fdopen FileIO write_text write_bytes read_text read_bytes mkdir makedirs mkfifo touch unlink rmdir rename
    renames symlink symlink_to hardlink_to rmtree rglob glob savefig save_file save_model tofile savez memmap mkstemp
    mkdtemp TemporaryFile NamedTemporaryFile TemporaryDirectory SummaryWriter copyfile copytree copy2
    truncate""".split()
)
ELSEWHERE = {
    "cli/signals.py": {"open"},  # a pipe
    "cli/streams.py": {"open"},  # /dev/null
    "cli/tutorials.py": {"glob"},  # in the package
    "downloads.py": {"glob"},  # in the hub's cache
    "experiments/trackers.py": {"SummaryWriter"},  # in a folder from `files`
    "integrations/trl/trainer.py": {"save_file"},  # in the checkpoint that transformers has just written
    "language/sampling/vllm.py": {"TemporaryDirectory"},
    "language/warm_start.py": {"save_model"},  # in a folder from `files`
    "tasks/confined.py": {"open"},  # /dev/null
    "tasks/reasoning.py": {"open", "TemporaryDirectory"},  # /dev/null; for what the library writes
    "runs/checkpoints.py": {"save_file", "save_model", "glob"},  # in a folder from `files`
}


def calls(path):
    """The names of functions that a module calls, or hands over to be called."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            others = {("os", "replace"), ("os", "remove"), ("os", "link"), ("shutil", "move"), ("torch", "save")}
            yield "rename" if (node.value.id, node.attr) in others else ""
        elif isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            first = node.args[0] if node.args else None
            if not (name == "savefig" and isinstance(first, ast.Name) and first.id == "buffer"):
                yield name


def test_nothing_else_in_the_package_touches_files():
    found = {path.relative_to(PACKAGE).as_posix(): WRITERS & set(calls(path)) for path in PACKAGE.rglob("*.py")}
    found = {name: names for name, names in found.items() if not name.startswith("tutorials/")}  # of a wheel
    assert found.pop("files.py") >= {"fdopen", "FileIO", "mkdir", "rename", "unlink", "rmtree"}
    assert {name: names for name, names in found.items() if names} == ELSEWHERE


# ------------------------------------------------------------------------------------------------ writing


@pytest.fixture
def victim(tmp_path):
    """A file of somebody else, which must never change."""
    path = tmp_path / "victim"
    path.write_text("precious")
    yield path
    assert path.read_text() == "precious"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", ["symlink", "hard link", "dangling", "fifo", "file"])
def test_what_stands_in_the_place_of_a_file_is_replaced(tmp_path, victim, kind):
    root = tmp_path / "root"
    root.mkdir()
    place = root / "a.json"
    make = {
        "symlink": lambda: place.symlink_to(victim),
        "hard link": lambda: place.hardlink_to(victim),
        "dangling": lambda: place.symlink_to(tmp_path / "new"),
        "fifo": lambda: os.mkfifo(place),
        "file": lambda: place.write_text("old"),
    }
    make[kind]()
    files.write(root, "a.json", b"content")
    assert place.read_text() == "content" and files.is_file(place)
    assert names(root) == ["a.json"] and not (tmp_path / "new").exists()


def test_a_folder_that_is_a_link_is_refused_and_the_root_may_be_one(tmp_path):
    disk = tmp_path / "big disk"
    disk.mkdir()
    root = tmp_path / "root"
    root.symlink_to(disk)
    files.write(root, "plots/a.png", b"1")
    assert (disk / "plots" / "a.png").read_bytes() == b"1"
    (disk / "other").symlink_to(tmp_path)
    for act in (
        lambda: files.write(root, "other/a.png", b"1"),
        lambda: files.create(root, "other/a.png", b"1"),
        lambda: files.make_folder(root, "other"),
        lambda: files.open_lock(root, "other"),
        lambda: files.require_inside(root, root / "other" / "deeper"),
        lambda: files.scratch(root, "other").__enter__(),
    ):
        with pytest.raises(RunError, match="other is a link, and nothing is written through links"):
            act()
    assert names(tmp_path) == ["big disk", "root"]


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(OSError, match=r"a\.json'$"):
        files.write(tmp_path, "a.json", b"1")
    (tmp_path / "plots").write_text("mine")
    with pytest.raises(OSError, match=r"plots'$"):
        files.write(tmp_path, "plots/a.png", b"1")
    assert names(tmp_path) == ["a.json", "plots"]


def test_an_error_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    files.write(tmp_path, "a.json", b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.json'"):
        files.write(tmp_path, "a.json", b"new")
    assert names(tmp_path) == ["a.json"] and (tmp_path / "a.json").read_bytes() == b"old"


def test_a_scratch_folder_is_gone_with_what_nobody_took(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "old").touch()
    with files.scratch(tmp_path) as folder:
        (folder / "inner").mkdir()
        (folder / "left").touch()
        files.move(folder / "inner", tmp_path / "kept")
    assert names(tmp_path) == ["kept"] and names(tmp_path / "kept") == []
    with pytest.raises(KeyError), files.scratch(tmp_path):
        raise KeyError
    assert names(tmp_path) == ["kept"]


def test_only_what_is_not_there_is_created(tmp_path, victim):
    assert files.create(tmp_path, "a/b", b"1")
    (tmp_path / "a" / "c").symlink_to(victim)
    (tmp_path / "a" / "d").symlink_to(tmp_path / "nowhere")
    assert not any(files.create(tmp_path, f"a/{name}", b"2") for name in "bcd")
    assert (tmp_path / "a" / "b").read_bytes() == b"1"


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path, victim):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "kept").touch()
    for target in (victim, tmp_path / "folder", tmp_path / "nowhere"):
        (tmp_path / "link").symlink_to(target)
        files.remove(tmp_path / "link")
    assert names(tmp_path) == ["folder", "victim"] and names(tmp_path / "folder") == ["kept"]


def test_a_lock_leaves_what_is_in_the_file(tmp_path, victim):
    (tmp_path / ".lock").hardlink_to(victim)
    files.open_lock(tmp_path, ".lock").close()
    (tmp_path / ".link").symlink_to(victim)
    with pytest.raises(RunError, match="is a link"):
        files.open_lock(tmp_path, ".link")
    os.mkfifo(tmp_path / ".fifo")
    with pytest.raises(OSError, match="not a regular file"):
        files.open_lock(tmp_path, ".fifo")


# ------------------------------------------------------------------------------------------------ reading


def test_only_regular_files_of_some_size_are_read(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    assert files.read(tmp_path / "file", 5) == b"12345"
    for name, reason in {
        "file": "5 bytes, more than the 4",
        "link": "it is a link",
        "loop": "it is a link",
        "folder": "not a regular file",
        "fifo": "not a regular file",
    }.items():
        with pytest.raises(OSError, match=f"{reason}.*{name}'"):
            files.read(tmp_path / name, 4)
    with pytest.raises(OSError, match="not a regular file"):
        files.read(Path("/dev/zero"))
    with files.opened(tmp_path / "link", 5, follow_links=True) as file:
        assert file.read() == b"12345"
    with pytest.raises(OSError, match="loop"):
        files.opened(tmp_path / "loop", 5, follow_links=True)


def test_finding_follows_no_link_and_needs_no_stack(tmp_path):
    (tmp_path / "root" / "a").mkdir(parents=True)
    (tmp_path / "root" / "a" / "x").touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").touch()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "out")
    (tmp_path / "root" / "loop").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "x").symlink_to(tmp_path / "nowhere")
    deep = tmp_path / "root"
    for _ in range(1500):
        deep /= "d"
        deep.mkdir()
    found, problems = files.find(tmp_path / "root", "x")
    assert found == [tmp_path / "root" / "a" / "x", tmp_path / "root" / "x"]
    assert problems == []
    subprocess.run(["rm", "-r", tmp_path / "root"], check=True)  # shutil would run out of stack


# ------------------------------------------------------------------------------------------------ files of the user


def test_a_file_that_is_not_of_this_program_is_not_its_own(tmp_path):
    path = tmp_path / "report.html"
    files.require_own(tmp_path, "report.html", b"mark")
    for content in (b"", b"[]\n", b"a mark in it"):
        path.write_bytes(content)
        files.require_own(tmp_path, "report.html", b"mark")
    path.write_bytes(b"precious")
    with pytest.raises(RunError, match=r"report.html was not made by this program"):
        files.require_own(tmp_path, "report.html", b"mark")
