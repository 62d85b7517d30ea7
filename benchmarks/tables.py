"""The tables of the benchmark page and of the README, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from proma_bench.report.markdown import markdown_table

Info = dict[str, Any]
MEBIBYTE = 2**20


def overhead(infos: Sequence[Info], *, quartiles: bool = True) -> str:
    """One row per case, one column per contender: the ratio to the baseline."""
    baseline = infos[0]["baseline"]
    names = list(dict.fromkeys(name for info in infos for name in info["contenders"] if name != baseline))
    header = ["", f"{baseline}, ms", *names]
    rows = []
    for info in infos:
        entries = info["contenders"]
        cells = [ratio(entries[name], quartiles=quartiles) if name in entries else "" for name in names]
        rows.append([title(info), f"{1e3 * entries[baseline]['seconds']:.3g}", *cells])
    return markdown_table(header, rows)


def rates(infos: Sequence[Info]) -> str:
    """One row per case and contender: how much per second, and the ratio of the times."""
    rows = [
        [title(info), name, f"{rate:,}", ratio(info["contenders"][name])]
        for info in infos
        for name, rate in info["rates"].items()
    ]
    return markdown_table(["", "", "per second", "time"], rows)


def exact_over_iterative(infos: Sequence[Info]) -> str:
    """What the exact method costs in the engine, in times of the iterative one, over all cases."""
    pairs = [(info["contenders"]["PROMA exact"], info["contenders"]["PROMA iterative"]) for info in infos]
    ratios = [exact["seconds"] / iterative["seconds"] for exact, iterative in pairs]
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


def gram_methods(infos: Sequence[Info]) -> str:
    """How the engine measured, by case and parameter; parameters that were measured alike share a row."""
    rows = []
    for info in infos:
        parameters: dict[str, list[str]] = {}
        for parameter, method in info["gram_methods"].items():
            parameters.setdefault(method, []).append(f"`{parameter}`")
        rows += [[title(info), method, ", ".join(sorted(names))] for method, names in parameters.items()]
    return markdown_table(["", "Gram matrix by", "parameters"], rows, numbers=False)


def hotspots(info: Info) -> str:
    """The operators that take the most time, with plain autograd and with PROMA."""
    plain, ours = info["hotspots"].values()
    names = list(dict.fromkeys([*ours, *plain]))
    rows = [
        [f"`{name}`", *(f"{1e3 * spent[name]:.3g}" if name in spent else "" for spent in (plain, ours))]
        for name in names
    ]
    return markdown_table(["operator", *(f"{name}, ms" for name in info["hotspots"])], rows)


def memory(infos: Sequence[Info]) -> str:
    """Peak memory of plain autograd and what the others need more, in MiB."""
    names = list(dict.fromkeys(name for info in infos for name in info["extra"]))
    rows = [
        [
            title(info),
            f"{info['workspace_bytes'] / MEBIBYTE:.0f}",
            f"{info['peak_bytes']['plain autograd'] / MEBIBYTE:.0f}",
            *(f"{info['extra'][name] / MEBIBYTE:+.0f}" if name in info["extra"] else "" for name in names),
        ]
        for info in infos
    ]
    return markdown_table(["MiB", "limit of the workspace", "plain autograd", *names], rows)


def throughput(infos: Sequence[Info]) -> str:
    """Optimizer steps per second, by tier and method."""
    names = list(dict.fromkeys(name for info in infos for name in info["contenders"]))
    rows = []
    for info in infos:
        entries = info["contenders"]
        rates = (
            f"{info['steps_per_batch'] / entries[name]['seconds']:.3g} ({entries[name]['ratio']:.2f})" for name in names
        )
        rows.append([info["tier"], *rates])
    return markdown_table(["tier", *names], rows)


def full_size(infos: Sequence[Info]) -> str:
    """Peak memory, seconds, and what was found, of a step at the size of the real model."""
    columns = {
        "peak_gib": ("peak, GiB", ".2f"),
        "make": ("make, s", ".3g"),
        "measure before": ("measure before, s", ".3g"),
        "update": ("update, s", ".3g"),
        "measure after": ("measure after, s", ".3g"),
        "kl_local": ("local KL", ".1e"),
        "removed_ratio": ("removed", ".2f"),
        "clamped": ("clamped", ".2f"),
    }
    rows = [[title(info), *(format(info[name], form) for name, (_, form) in columns.items())] for info in infos]
    return markdown_table(["", *(heading for heading, _ in columns.values())], rows)


def projection(info: Info) -> str:
    """Each method: cost in times of plain accumulation at every point, fitted exponent, and the largest error."""
    points = info["points"]
    header = [
        "",
        *(_point(point, info["axis"]) for point in points),
        *(["exponent"] if info["exponents"] else []),
        "error",
    ]
    rows = []
    for name in points[0]["contenders"]:
        exponent = [f"{info['exponents'][name]:.2f}"] if info["exponents"] else []
        worst = max((point["errors"][name] for point in points if name in point["errors"]), default=None)
        ratios = (f"{point['contenders'][name]['ratio']:.3g}" for point in points)
        rows.append([name, *ratios, *exponent, "" if worst is None else f"{worst:.0e}"])
    return markdown_table(header, rows)


def _point(point: Mapping[str, Any], axis: str | None) -> str:
    if axis == "sequences":
        return f"B = {point['sequences']}"
    size = f"{point['elements']:,} elements"
    return size if axis else f"B = {point['sequences']}, {size}"


def ratio(entry: Mapping[str, float], *, quartiles: bool = True) -> str:
    text = f"{entry['ratio']:.2f}"
    return f"{text} [{entry['ratio_q1']:.2f}, {entry['ratio_q3']:.2f}]" if quartiles else text


def title(info: Info) -> str:
    """The case without the name of its suite."""
    return info["case"].partition(": ")[2]
