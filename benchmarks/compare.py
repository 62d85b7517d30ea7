"""``python -m benchmarks.compare BASE.json HEAD.json BASE-AGAIN.json HEAD-AGAIN.json``: what a change does, as a table.

Every figure is a contender's time in times of the baseline that was measured beside it in the same process, so files
of one machine can be compared. Base and head are measured twice, in turn: how much a ratio changes between two runs of
the same code is what the machine alone does.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.published import infos
from proma_bench.report.markdown import markdown_table

NOISE = 1.05  # a change that is smaller than this factor is not marked, however well the runs agree

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


def table(base: Ratios, head: Ratios, base_again: Ratios, head_again: Ratios) -> str:
    """One row per contender that all four have.

    A change is marked where both runs of the head are beyond both runs of the base, by more than two runs of the same
    code differ in that row, and by more than ``NOISE``. A largest change over all rows would not do as the limit: where
    nothing has changed, the largest of the head is above the largest of the placebo about every second time.

    Args:
        base: measured before the change.
        head: measured with the change.
        base_again: the base a second time: a placebo.
        head_again: the head a second time: another one.

    Returns:
        The table in Markdown, and the contenders that not all four have.
    """
    runs = (base, head, base_again, head_again)
    shared = [key for key in base if all(key in run for run in runs)]
    rows = []
    for key in shared:
        before, after = (base[key], base_again[key]), (head[key], head_again[key])
        placebo, other = before[1] / before[0], after[1] / after[0]
        limit = max(NOISE, placebo, 1 / placebo, other, 1 / other)
        slower, faster = min(after) / max(before) > limit, min(before) / max(after) > limit
        mark = " **slower**" if slower else " **faster**" if faster else ""
        change = math.sqrt(math.prod(after) / math.prod(before))
        changes = (f"{placebo:.2f}", f"{other:.2f}", f"{change:.2f}{mark}")
        rows.append((", ".join(key), _mean(before), _mean(after), *changes))
    columns = ("base", "head", "base again / base", "head again / head", "head / base")
    header = ("time in times of the baseline beside it", *columns)
    said = (
        "Base and head: geometric means of two runs. Marked: both runs of the head are beyond both of the base, by "
        f"more than two runs of the same code differ in that row, and by more than {NOISE:g} times."
    )
    missing = [", ".join(key) for key in dict.fromkeys(key for run in runs for key in run) if key not in shared]
    left_out = f"\n\nNot in all four: {'; '.join(missing)}." if missing else ""
    return f"{markdown_table(header, rows)}\n\n{said}{left_out}"


def _mean(pair: Sequence[float]) -> str:
    return f"{math.sqrt(math.prod(pair)):.2f}"


def main(arguments: Sequence[str]) -> int:
    """Print the table of four files."""
    if len(arguments) != 4:
        print(__doc__, file=sys.stderr)
        return 2
    print(table(*(ratios(Path(name)) for name in arguments)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
