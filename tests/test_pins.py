"""The pinned packages go with the oldest Python that is promised, and with each other, by their own metadata.

That they can be had from PyPI, where torch is the build for a GPU, takes a network: CONTRIBUTING.md has the command.
"""

from __future__ import annotations

import importlib.metadata
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def pins() -> dict[str, str]:
    """The version of each package in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(one.name): next(iter(one.specifier)).version for one in requirements}


PINS = pins()
HERE = {
    name: found
    for found in importlib.metadata.distributions()
    if PINS.get(name := canonicalize_name(found.metadata["Name"])) == found.version.partition("+")[0]
}


def oldest_python() -> str:
    """The first release that ``requires-python`` allows: some systems have it still."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project["requires-python"].removeprefix(">=") + ".0"


@pytest.mark.parametrize("name", sorted(HERE))
def test_a_pinned_package_takes_the_oldest_python(name: str) -> None:
    needs = HERE[name].metadata.get("Requires-Python") or ""
    assert SpecifierSet(needs).contains(oldest_python()), f"{name} {PINS[name]} needs Python {needs}: pin an older one"


@pytest.mark.parametrize("name", sorted(HERE))
def test_a_pinned_package_takes_the_other_pins(name: str) -> None:
    for requirement in map(Requirement, HERE[name].requires or []):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            pinned = PINS.get(canonicalize_name(requirement.name))
            assert pinned is None or requirement.specifier.contains(pinned), f"{requirement}, and {pinned} is pinned"


def test_an_environment_has_the_pinned_versions_or_was_made_without_them() -> None:
    names = {canonicalize_name(found.metadata["Name"]) for found in importlib.metadata.distributions()} & PINS.keys()
    if len(HERE) < 0.8 * len(names):
        pytest.skip("this environment was made without constraints.txt")
    assert {"torch", "numpy", "transformers"} <= HERE.keys(), names - HERE.keys()
