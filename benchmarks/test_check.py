"""What it costs to find out whose rows are whose: in the first microbatch of a structure, and in later ones."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.conftest import SETTINGS
from benchmarks.microbatches import PLAIN, ours, plain
from benchmarks.published import check_no_gross_regression
from benchmarks.works import Case, model_cases, sharing_copy, small_network

CHECKS = {"PROMA, no check": False, "PROMA, later microbatches": True, "PROMA, first microbatch": "always"}
"""With ``check="always"`` every microbatch does what the first one of a structure does."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        settings = metafunc.config.stash[SETTINGS]
        cases = [small_network(settings), *model_cases(settings)]
        metafunc.parametrize("case", cases, ids=[case.id for case in cases])


def test_check(case: Case, compare: Any) -> None:
    work = case.make()
    original = work.module()
    contenders = {PLAIN: plain(work, sharing_copy(original))}
    for name, check in CHECKS.items():
        contenders[name] = ours(work, sharing_copy(original), "iterative", check=check)
    compare(f"check: {case.name}", "check", contenders, PLAIN, sizes=work.sizes)


def test_check_has_not_grossly_regressed(case: Case, published: Any, measured: Any) -> None:
    check_no_gross_regression(f"check: {case.name}", measured, published)
