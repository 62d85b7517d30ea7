"""``python -m benchmarks.compare BASE.json BASE-AGAIN.json HEAD.json``: what a change does to the ratios, as a table.

Every figure is a contender's time in times of the baseline that was measured beside it in the same process, so files
of one machine can be compared. How much a ratio changes from the base to the base again is what the machine alone does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.published import infos
from proma_bench.report.markdown import markdown_table

NOISE = 1.05  # a change that is smaller than this factor is not marked, whatever the placebo says

Ratios = dict[tuple[str, str], float]
"""Of each contender, by case and name."""


def ratios(path: Path) -> Ratios:
    """The ratios of PROMA's contenders in a results file."""
    return {
        (info["case"], name): entry["ratio"]
        for info in infos(json.loads(path.read_text()))
        if "contenders" in info
        for name, entry in info["contenders"].items()
        if name.startswith("PROMA")
    }


def table(base: Ratios, again: Ratios, head: Ratios) -> str:
    """One row per contender that all three have.

    Args:
        base: measured before the change.
        again: the same a second time: a placebo.
        head: measured with the change.

    Returns:
        The table in Markdown. A change is marked where it is larger than the largest change of the placebo in any row.
        Below it are the contenders that not all three have.
    """
    shared = [key for key in base if key in again and key in head]
    placebo = {key: again[key] / base[key] for key in shared}
    largest = max([NOISE, *(max(change, 1 / change) for change in placebo.values())])
    rows = []
    for key in shared:
        change = head[key] / base[key]
        mark = " **slower**" if change > largest else " **faster**" if change < 1 / largest else ""
        figures = (f"{base[key]:.2f}", f"{head[key]:.2f}", f"{placebo[key]:.2f}", f"{change:.2f}{mark}")
        rows.append((", ".join(key), *figures))
    header = ("time in times of the baseline beside it", "base", "head", "base again / base", "head / base")
    said = f"Marked: changes by more than {largest:.2f} times, the largest between two runs of the base, or {NOISE:g}."
    missing = [", ".join(key) for key in dict.fromkeys([*base, *again, *head]) if key not in shared]
    left_out = f"\n\nNot in all three: {'; '.join(missing)}." if missing else ""
    return f"{markdown_table(header, rows)}\n\n{said}{left_out}"


def main(arguments: Sequence[str]) -> int:
    """Print the table of three files."""
    if len(arguments) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    print(table(*(ratios(Path(name)) for name in arguments)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
