"""``python -m benchmarks.report``: from the stored results to the tables and plots of the pages.

Reads ``benchmarks/results/*.json`` and writes what is between the markers of ``benchmarks/README.md`` and of the
README's performance table, and the plots; from ``benchmarks/results/peers/*.json``, what is in ``docs/peers.md``.
For each kind of device the full form counts, and the quick one where no full one is stored. A case that several files
hold is taken from the newest.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import peer_page, plots, tables
from benchmarks.published import RESULTS, infos, stored_files
from docs.marked import between_markers

HOME = Path(__file__).parent
PAGE, README, PLOTS = HOME / "README.md", HOME.parent / "README.md", HOME / "plots"
PEERS, PEERS_PAGE = RESULTS / "peers", HOME.parent / "docs" / "peers.md"
PAGE_MARKER, README_MARKER, PEERS_MARKER = "results", "performance table", "peers"
FULL_COMMAND = "python -m pytest benchmarks --full --benchmark-json=benchmarks/results/cpu-full.json"
NOTHING = f"No results are stored yet. `{FULL_COMMAND}` stores some."


@dataclass
class Results:
    """All cases of one kind of device and one form, and the files that they come from."""

    device: str
    form: str
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: list[dict[str, Any]] = field(default_factory=list)

    def suite(self, name: str) -> list[dict[str, Any]]:
        return [info for info in self.cases.values() if info["suite"] == name]

    def newest_with(self, *suites: str) -> dict[str, Any]:
        """The newest file that holds a case of these suites."""
        return next(file for file in reversed(self.files) if any(info["suite"] in suites for info in infos(file)))


def load(folder: Path = RESULTS) -> list[Results]:
    """The stored results, one for each kind of device."""
    found: dict[tuple[str, str], Results] = {}
    for content in stored_files(folder):
        stored = infos(content)
        for device in dict.fromkeys(info["device"] for info in stored):
            results = found.setdefault((device, content["form"]), Results(device, content["form"]))
            results.files.append(content)
            results.cases.update({info["case"]: info for info in stored})
    devices = sorted({device for device, _ in found})
    return [found.get((device, "full")) or found[device, "quick"] for device in devices]


def write(results: list[Results], page: Path = PAGE, readme: Path = README, plot_folder: Path = PLOTS) -> list[str]:
    """Fill both pages and draw the plots; returns what there is to say about it."""
    sections = [section(found, plot_folder, page.parent) for found in results]
    return [
        *([] if results else [NOTHING]),
        fill(page, PAGE_MARKER, "\n\n".join(sections) or NOTHING),
        fill(readme, README_MARKER, performance_table(results)),
    ]


def fill(path: Path, marker: str, text: str) -> str:
    """Write a text between a page's markers; returns what there is to say about it."""
    replaced = between_markers(path.read_text(), marker, text)
    if replaced is None:
        return f"{path.name} has no <!-- {marker} --> ... <!-- /{marker} -->; left as it is"
    path.write_text(replaced)
    return f"{path.name} is up to date"


def write_peers(results: list[Results], page: Path = PEERS_PAGE) -> str:
    """Fill the page of peers; returns what there is to say about it."""
    parts = []
    for found in results:
        parts += [f"### {found.device.upper()}, {found.form} form", *(_provenance(content) for content in found.files)]
        parts.append(peer_page.section(found.suite("peers"), found.suite("peer kinds")))
    return fill(page, PEERS_MARKER, "\n\n".join(parts) or NOTHING)


# ---------------------------------------------------------------------------------------------------------- pages


def performance_table(results: list[Results]) -> str:
    """The README's table: ratios to plain autograd, without their quartiles."""
    parts = []
    for found in results:
        if backward := [info for info in found.suite("backward") if not info["layer"] or "Linear" in info["case"]]:
            parts += [_machine(found.newest_with("backward")), tables.overhead(backward, quartiles=False)]
    return "\n\n".join(parts) or NOTHING


def section(found: Results, plot_folder: Path, page_folder: Path) -> str:
    """Everything that is known of one kind of device."""
    parts = [f"### {found.device.upper()}, {found.form} form", *(_provenance(content) for content in found.files)]

    def picture(name: str, alternative: str) -> tuple[Path, str]:
        path = plot_folder / f"{found.device}-{name}.png"
        return path, f"![{alternative}]({path.relative_to(page_folder).as_posix()})"

    for build in (_backward, _check, _small, _memory, _full_size, _throughput, _sampling, _projection, _sweeps):
        parts += build(found, picture)
    return "\n\n".join(parts)


def _backward(found: Results, picture: Any) -> list[str]:
    cases = found.suite("backward")
    if not cases:
        return []
    path, link = picture("overhead", "Forward and backward pass against plain autograd")
    plots.plot_overhead({tables.title(info): info["contenders"] for info in cases}, cases[0]["baseline"], path)
    parts = [
        "#### Forward and backward pass",
        "Second and later microbatches; ratio to plain autograd, median over rounds and quartiles.",
        tables.overhead(cases),
        link,
        f"In the engine, exact takes {tables.exact_over_iterative(cases)} times as long as iterative.",
        "How the engine measured (`proma_bench/backward/cost.py`):",
        tables.gram_methods(cases),
    ]
    for info in cases:
        if not info["layer"]:
            parts += [f"Where the time goes, {tables.title(info)} (own time of the costliest operators):"]
            parts += [tables.hotspots(info)]
    return parts


def _check(found: Results, picture: Any) -> list[str]:
    cases = found.suite("check")
    if not cases:
        return []
    return [
        "#### The check of rows",
        "Ratio to plain autograd, as above. The first microbatch of each structure finds out whose rows are whose "
        "([how](../docs/coverage.md#how-rows-are-found)); later ones recognise the structure.",
        tables.overhead(cases),
    ]


def _small(found: Results, picture: Any) -> list[str]:
    cases = found.suite("small")
    if not cases:
        return []
    path, link = picture("small", "Optimizer steps of small policies against REINFORCE")
    plots.plot_overhead({tables.title(info): info["contenders"] for info in cases}, cases[0]["baseline"], path)
    return [
        "#### Optimizer steps of small policies",
        "Microbatches of 8 sequences; *virtual*: one backward pass for all microbatches of a step.",
        tables.overhead(cases),
        link,
    ]


def _memory(found: Results, picture: Any) -> list[str]:
    cases = found.suite("memory")
    if not cases:
        return []
    path, link = picture("memory", "Peak memory over plain autograd")
    plots.plot_memory(cases, path)
    return [
        "#### Memory",
        "Peak over two microbatches, gradients included, and the difference to it.",
        tables.memory(cases),
        link,
    ]


def _full_size(found: Results, _: Any) -> list[str]:
    cases = found.suite("full size")
    if not cases:
        return []
    about = (
        "The second optimizer step of PROMA on Qwen3-0.6B with random weights: microbatches of two sequences, half "
        "prompt and half answer; bfloat16 over float32 weights, gradient checkpointing. The peak is that of the whole "
        "process, from its beginning; after the update, the frozen copy is measured too. Removed: the share of the "
        "running gradient's norm, mean over tensors; clamped: the share of projections."
    )
    return ["#### The full size", about, tables.full_size(cases)]


def _throughput(found: Results, _: Any) -> list[str]:
    cases = found.suite("throughput")
    if not cases:
        return []
    return [
        "#### The tiers",
        "Optimizer steps per second, sampling, metrics and evaluation included (time in times of REINFORCE's).",
        tables.throughput(cases),
    ]


def _sampling(found: Results, _: Any) -> list[str]:
    parts = []
    if cases := found.suite("sampling"):
        about = (
            "The tiny Qwen3, 8 answers of 16 tokens to each prompt of 12; generated tokens per second, time in times of"
        )
        parts += ["#### Samplers", f"{about} the naive loop's.", tables.rates(cases)]
    if cases := found.suite("cache"):
        parts += ["The sampler's key-value cache; ratio to one that is copied at every token.", tables.overhead(cases)]
    if cases := found.suite("environments"):
        parts += ["Environment steps per second, time in times of the plain loop's.", tables.rates(cases)]
    return parts


def _projection(found: Results, picture: Any) -> list[str]:
    parts = ["#### The projection alone"] if found.suite("projection") else []
    labels = {"sequences": "sequences B", "elements": "elements of the weight"}
    for info in found.suite("projection"):
        axis = info["axis"]
        about = f"Cost against {labels[axis]}" if axis else "At the largest"
        parts += [
            f"{about}, in times of plain accumulation; error relative to what is removed.",
            tables.projection(info),
        ]
        if axis:
            path, link = picture(f"cost-{axis}", about)
            plots.plot_cost(info, labels[axis], path)
            parts.append(link)
        if axis == "sequences":
            path, link = picture("error-cost", "Error against cost of each method")
            plots.plot_error_against_cost(info, path)
            parts.append(link)
    return parts


def _sweeps(found: Results, picture: Any) -> list[str]:
    cases = found.suite("sweeps")
    if not cases:
        return []
    path, link = picture("sweeps", "Error of the iterative method against its sweeps")
    plots.plot_error_against_sweeps(cases, path)
    return ["The error of the iterative method against the exact projection:", link]


def _provenance(content: dict[str, Any]) -> str:
    commit = content["commit_info"].get("id", "unknown")[:12]
    changed = " with changes" if content["commit_info"].get("dirty") else ""
    about = f"{_machine(content)}, commit {commit}{changed}, {content['datetime'][:10]}. Made by"
    return f"{about}\n\n    {content['command']}"


def _machine(content: dict[str, Any]) -> str:
    machine = content["machine_info"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    threads = f"{machine['threads']} thread" + ("s" if machine["threads"] != 1 else "")
    return f"{machine['device_name']}, {threads}, {machine['dtype']}, Python {machine['python']}, {versions}"


if __name__ == "__main__":
    sys.stdout.write("\n".join([*write(load()), write_peers(load(PEERS))]) + "\n")
