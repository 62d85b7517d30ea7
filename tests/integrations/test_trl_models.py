"""Architectures and adapters in TRL: each is right or refused when the trainer is made, as docs/trl.md says."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

os.environ.update(HF_HUB_OFFLINE="1", TRL_EXPERIMENTAL_SILENCE="1")  # nothing is downloaded here, and nothing reported

pytest.importorskip("trl", reason="needs the extra [trl]")

import trl_models

PAGE = (Path(__file__).parents[2] / "docs/trl.md").read_text()
ROWS = dict(re.findall(r"^\| (.+?) \| ((?:right|with autograd|refused).*?) +\|$", PAGE, flags=re.MULTILINE))

SOUND = ("right", "with autograd", "refused")


def test_the_page_has_all_of_them() -> None:
    assert ROWS.keys() == trl_models.ADAPTERS.keys() | {f"`{name}`" for name in trl_models.ARCHITECTURES}


@pytest.mark.parametrize("name", trl_models.ADAPTERS)
def test_adapter(name: str) -> None:
    found = trl_models.adapter(name)
    assert found.verdict in SOUND, found
    assert ROWS[name].startswith(found.verdict), found


@pytest.mark.parametrize("name", trl_models.ARCHITECTURES)
def test_architecture(name: str) -> None:
    found = trl_models.architecture(name)
    assert found.verdict in SOUND, found
    assert ROWS[f"`{name}`"].startswith(found.verdict), found
