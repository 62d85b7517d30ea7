"""The command line ``proma-bench``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from proma_bench.cli.signals import Signals
from proma_bench.cli.streams import patient_streams

EXTRAS = {"hypothesis": "testing", "jupyterlab": "tutorials"}
"""The extra that a module comes with, where it is not ``ladder``."""


@patient_streams()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; without the packages that it needs, say in one line which extra has them.

    Args:
        arguments: the command line without the program's name; None is that of this process.

    Returns:
        The exit code: 0, 1 for a run that failed, 2 for a wrong use; 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP.

    Raises:
        SystemExit: with 1, where standard output was closed or full.
    """
    is_own_process, code = arguments is None, None
    signals = Signals()
    try:
        with signals.heeded(ends_process=is_own_process):
            code = _run(arguments)
    except BaseException as error:  # after a signal, whatever is raised comes from it
        if signals.received is None and not isinstance(error, KeyboardInterrupt):
            raise
    if code is not None and signals.received is None:
        return code
    code = signals.report()
    if is_own_process:  # at once: what Python still does, such as a flush to a terminal that is gone, can only fail
        os._exit(code)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    try:
        from proma_bench.cli.commands import run

        return run(arguments)
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module in ("", "proma_bench"):
            raise
        extra = EXTRAS.get(module, "ladder")
        print(
            f"proma-bench: this needs {module}, which is not installed; it comes with the extra [{extra}]: "
            f'python -m pip install "proma-bench[{extra}]" (in a checkout: ".[{extra}]")',
            file=sys.stderr,
        )
        return 2
