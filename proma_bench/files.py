"""Every file that this package reads or writes, in directories that a stranger may have filled.

Writing: a file is made new, under a name that nobody can guess, and then renamed, so that it is there whole or not at
all, and what stood in its place (a link, another name of somebody's file) is replaced, never written through. A *root*
is the directory that the user has named: it may be a link, but no directory below it may be one.

Reading: regular files up to a size, no links. A pipe, a device or a link is an error, which says so.

All errors are `OSError` with a reason in words and the name of the file that the user knows, or `RunError`.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from proma_bench.errors import RunError

MEGABYTE = 2**20
UNFINISHED = "unfinished-"
"""What the names of temporary folders begin with."""
UNFINISHED_FOLDER = UNFINISHED + 16 * "[0-9a-f]"
"""Their names, as a pattern: nobody else's folder has such a name."""

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_LOCK = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW


# ------------------------------------------------------------------------------------------------ reading


def opened(path: Path, limit: int, *, follow_links: bool = False) -> io.BufferedReader:
    """Open a regular file for reading.

    Args:
        path: the file.
        limit: the largest size in bytes.
        follow_links: whether ``path`` may be a link, as in a directory that is the user's own.

    Raises:
        OSError: it is missing, a link, not a regular file or too large.
    """
    with naming(path):
        place = os.path.realpath(path, strict=True) if follow_links else path
        _require_regular(os.stat(place, follow_symlinks=False), limit)  # before it is opened: a device would notice
        file = os.fdopen(os.open(place, _READ), "rb")
        try:
            _require_regular(os.fstat(file.fileno()), limit)
        except OSError:
            file.close()
            raise
        return file


def read(path: Path, limit: int = MEGABYTE) -> bytes:
    """The content of a regular file; raises as `opened`."""
    with opened(path, limit) as file, naming(path):
        return file.read(limit)


def is_file(path: Path) -> bool:
    """Whether there is a regular file, not a link to one."""
    return path.is_file() and not path.is_symlink()


def find(root: Path, name: str) -> tuple[list[Path], list[str]]:
    """Everything of this name in a directory tree, links to directories not followed; a line for what is unreadable."""
    found, problems, folders = [], [], [root]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name == name:
                        found.append(folder / name)
                    elif entry.is_dir(follow_symlinks=False):
                        folders.append(folder / entry.name)
        except OSError as error:
            problems.append(f"{folder}: {error.strerror}")
    return sorted(found), sorted(problems)


def _require_regular(found: os.stat_result, limit: int) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise OSError(errno.ELOOP, "it is a link, and links are not followed")
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    if found.st_size > limit:
        raise OSError(errno.EFBIG, f"{found.st_size:,} bytes, more than the {limit:,} that are read")


# ------------------------------------------------------------------------------------------------ writing


def write(root: Path, name: str, content: bytes) -> Path:
    """Write the file ``root/name``, whole or not at all, and the directories on the way to it.

    Raises:
        RunError: a directory below ``root`` is a link.
        OSError: it cannot be written; nothing has changed then.
    """
    rewrite(root, name, content).close()
    return root / name


def rewrite(root: Path, name: str, content: bytes) -> io.FileIO:
    """`write`, and leave the file open, so that more can be appended."""
    path, unfinished = root / name, f".{UNFINISHED}{secrets.token_hex(8)}"
    with _folder(root, path) as folder, naming(path):
        file = io.FileIO(unfinished, "w", opener=lambda name, _: os.open(name, _NEW, 0o666, dir_fd=folder))
        try:
            append(file, content, path)
            os.fsync(file.fileno())
            os.replace(unfinished, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            file.close()
            with contextlib.suppress(OSError):  # the first error is the one to tell
                os.unlink(unfinished, dir_fd=folder)
            raise
        return file


def append(file: io.FileIO, content: bytes, path: Path) -> None:
    """Write all of the content at the end of the open file ``path``."""
    with naming(path):
        while content:
            content = content[file.write(content) :]


def create(root: Path, name: str, content: bytes) -> bool:
    """`write` unless there is something of that name already, in which case False is returned."""
    path = root / name
    with _folder(root, path) as folder, naming(path):
        try:
            file = io.FileIO(path.name, "w", opener=lambda name, _: os.open(name, _NEW, 0o666, dir_fd=folder))
        except FileExistsError:
            return False
        try:
            with file:
                append(file, content, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(path.name, dir_fd=folder)
            raise
        return True


def require_own(root: Path, name: str, mark: bytes) -> None:
    """Require that a file that will be written anew was written by this package before, or is not there.

    Args:
        root: as for `write`.
        name: as for `write`.
        mark: what every file of its kind by this package contains.

    Raises:
        RunError: it is somebody else's, or a directory below ``root`` is a link.
    """
    path = root / name
    require_inside(root, path.parent)
    content = read(path, 256 * MEGABYTE) if is_file(path) else b""
    if mark not in content and content.strip() not in (b"", b"[]"):
        raise RunError(f"{path} was not made by this program and is not overwritten; move it, or give it another name")


def make_folder(root: Path, name: str = ".") -> Path:
    """Make the directory ``root/name``, unless it is there; raises as `write`."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # a file, or a link that leads nowhere
        raise OSError(errno.ENOTDIR, "there is something else of this name, and no directory", str(root)) from error
    with _folder(root, root / name / "file"):
        return root / name


def require_inside(root: Path, path: Path) -> None:
    """Raise RunError if a directory between ``root`` and ``path``, or ``path`` itself, is a link."""
    for folder in (path, *path.parents):
        if folder == root:
            break
        if folder.is_symlink():
            raise _link(folder)


@contextlib.contextmanager
def scratch(root: Path, name: str = ".") -> Iterator[Path]:
    """A new folder in the directory ``root/name``, for libraries that write files by their path.

    `move` takes from it what is finished; the rest is removed at the end.
    """
    folder = make_folder(root, name) / f"{UNFINISHED}{secrets.token_hex(8)}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def move(source: Path, target: Path) -> None:
    """Give what is finished in a `scratch` folder, or the folder itself, its name; a directory there gives way."""
    with naming(target):
        if source.is_dir():
            remove(target)
        os.replace(source, target)


def remove(path: Path) -> None:
    """Remove a file, a directory with all that is in it, or a link, but not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def open_lock(root: Path, name: str) -> io.FileIO:
    """Open the file ``root/name`` for ``flock``, and make it if it is missing; what is in it stays.

    Raises:
        RunError: it is a link.
        OSError: it is not a regular file.
    """
    path = root / name
    if path.is_symlink():
        raise _link(path)
    with _folder(root, path) as folder, naming(path):
        file = io.FileIO(path.name, "r+", opener=lambda name, _: os.open(name, _LOCK, 0o666, dir_fd=folder))
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise OSError(errno.EINVAL, "not a regular file")
        return file


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have an `OSError` name this file, instead of a temporary one or none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error


@contextlib.contextmanager
def _folder(root: Path, path: Path) -> Iterator[int]:
    """The descriptor of the directory that ``path`` lies in; missing ones below ``root`` are made."""
    place = root
    with naming(root):
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in path.parent.relative_to(root).parts:
            place /= name
            with naming(place):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, dir_fd=descriptor)
                if stat.S_ISLNK(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
                    raise _link(place)
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                inner = os.open(name, flags, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def _link(folder: Path) -> RunError:
    return RunError(f"{folder} is a link, and nothing is written through links: put a real one in its place")
