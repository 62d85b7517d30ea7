"""Writes the table of docs/rules.md that says which promises each update rule keeps.

python -m docs.rules            write the table
python -m docs.rules --check    fail if the page has another one
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from hypothesis import Phase, given

from docs.marked import between_markers
from proma_bench.projection.config import ProjectionConfig
from proma_bench.projection.recursion import PassRule
from proma_bench.projection.rules import UPDATE_RULES
from proma_bench.projection.updates import UpdateRule
from proma_bench.report.markdown import markdown_table
from proma_bench.testing import RULE_INVARIANTS, SOUND_RULE_INVARIANTS, Finding, ProjectionProblem, projection_problems
from proma_bench.testing.checks import search
from proma_bench.testing.rules import RuleInvariant, rule_failure

PAGE = Path(__file__).parent / "rules.md"
EXAMPLES = 200


def promises() -> str:
    """One row for each rule; what every rule must keep is left out, and required."""
    shown = [invariant for invariant in RULE_INVARIANTS if invariant not in SOUND_RULE_INVARIANTS]
    rows = []
    rules = {name: rule() for name, rule in {"proma": ProjectionConfig, **UPDATE_RULES}.items()}
    for name, rule in rules.items():
        if isinstance(rule, PassRule):  # the promises are about one microbatch
            continue
        lost = broken(rule)
        assert not lost.intersection(SOUND_RULE_INVARIANTS), name
        rows.append((f"`{name}`", *("–" if invariant in lost else "✓" for invariant in shown)))
    return markdown_table(("", *(Finding(invariant).name for invariant in shown)), rows, numbers=False)


def broken(rule: UpdateRule) -> set[RuleInvariant]:
    """The promises that one of the inputs breaks; no smaller input is looked for."""
    lost: set[RuleInvariant] = set()

    @search(max_examples=EXAMPLES, phases=[Phase.generate])
    @given(projection_problems(balanced=True))
    def collect(problem: ProjectionProblem) -> None:
        left = (invariant for invariant in RULE_INVARIANTS if invariant not in lost)
        lost.update([invariant for invariant in left if rule_failure(rule, invariant, problem)])

    collect()
    return lost


def main(arguments: list[str]) -> int:
    torch.set_num_threads(1)
    text = PAGE.read_text()
    page = between_markers(text, "promises", promises())
    assert page is not None, "the page has no place for the table"
    if "--check" in arguments:
        return int(page != text)
    PAGE.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
