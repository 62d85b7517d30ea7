"""The page of peers: what the suite ``test_peers`` stored, as ``docs/peers.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import tables
from benchmarks.tables import Info
from proma_bench.report.markdown import markdown_table

RIGHT = 1e-3  # relative error in float32: rounding is far below, a sequence's gradient that misses a part far above
NOT_INSTALLED = "not installed"
OTHER = "vmap(grad)"  # whom PROMA is measured by: what torch itself has


def section(timed: Sequence[Info], tried: Sequence[Info]) -> str:
    """The tables of one kind of device."""
    parts = []
    if timed:
        parts += [
            "Time of forward pass, backward pass and update of a second or later microbatch, in times of plain "
            "autograd: median over rounds, and quartiles.",
            times(timed),
            f"Of the time that {OTHER} adds to plain autograd, PROMA adds:",
            share(timed, OTHER),
            "Peak memory of two microbatches, gradients included, and the difference to it:",
            memory(timed),
        ]
    if tried:
        parts += [
            "What each can do, on tiny models: its update, beside the one from sequence gradients by plain autograd, "
            "one after another.",
            kinds(tried),
            "What was said where it fails:",
            reasons(tried),
        ]
    return "\n\n".join(parts)


def times(infos: Sequence[Info]) -> str:
    """One row per contender, one column per work: ratio to the baseline, or that there is none."""
    baseline = infos[0]["baseline"]
    rows = [[f"{baseline}, ms", *(f"{1e3 * info['contenders'][baseline]['seconds']:.0f}" for info in infos)]]
    for name in _names(infos, "verdicts"):
        if name != baseline:
            rows.append([name, *(_time(info, name) for info in infos)])
    return markdown_table(["", *map(tables.title, infos)], rows)


def _time(info: Info, name: str) -> str:
    if name not in info["contenders"]:
        return verdict(info["verdicts"][name])
    text = tables.ratio(info["contenders"][name])
    return text if is_right(info["verdicts"][name]) else f"{text}, {verdict(info['verdicts'][name])}"


def memory(infos: Sequence[Info]) -> str:
    """One row per contender, one column per work: the baseline's peak, and what the others need more, in MiB."""
    baseline = infos[0]["baseline"]
    rows = [[baseline, *(f"{info['peak_bytes'][baseline] / tables.MEBIBYTE:.1f}" for info in infos)]]
    for name in _names(infos, "peak_bytes"):
        if name != baseline:
            rows.append([name, *(_memory(info["peak_bytes"], name, baseline) for info in infos)])
    return markdown_table(["MiB", *map(tables.title, infos)], rows)


def _memory(peaks: Mapping[str, int], name: str, baseline: str) -> str:
    return f"{(peaks[name] - peaks[baseline]) / tables.MEBIBYTE:+.1f}" if name in peaks else ""


def share(infos: Sequence[Info], other: str) -> str:
    """Of the time that another contender adds to the baseline, the share that PROMA adds."""
    names = [name for name in _names(infos, "contenders") if name.startswith("PROMA")]
    rows = [[name, *(f"{_added(info, name) / _added(info, other):.0%}" for info in infos)] for name in names]
    return markdown_table(["", *map(tables.title, infos)], rows)


def _added(info: Info, name: str) -> float:
    return info["contenders"][name]["ratio"] - 1


def kinds(infos: Sequence[Info]) -> str:
    """One row per kind of model, one column per contender."""
    names = _names(infos, "verdicts")
    rows = [[tables.title(info), *(verdict(info["verdicts"][name]) for name in names)] for info in infos]
    return markdown_table(["", *names], rows, numbers=False)


def reasons(infos: Sequence[Info]) -> str:
    """What the contenders said where they could not do it; the same words once."""
    said: dict[tuple[str, str], list[str]] = {}
    for info in infos:
        for name, found in info["verdicts"].items():
            if "reason" in found:
                said.setdefault((name, found["reason"]), []).append(tables.title(info))
    lines = []
    for (name, reason), on in said.items():
        quoted = reason.replace("`", "'")
        lines.append(f"- {name}: {'; '.join(on)}: `{quoted}`")
    return "\n".join(lines)


def verdict(found: Mapping[str, Any]) -> str:
    """In a word or two."""
    if "error" not in found:
        return found["reason"] if found["reason"] == NOT_INSTALLED else "fails"
    return "right" if is_right(found) else f"**wrong** by {found['error']:.1%}"


def is_right(found: Mapping[str, Any]) -> bool:
    return found.get("error", RIGHT + 1) <= RIGHT


def _names(infos: Sequence[Info], what: str) -> list[str]:
    return list(dict.fromkeys(name for info in infos for name in info[what]))
