"""Settings: stored and read back, and in step with the classes they are handed to."""

import dataclasses
import json

import pytest

import proma_bench
from proma_bench.backward.uncovered import UNCOVERED
from proma_bench.errors import UsageError
from proma_bench.experiments.training import Training
from proma_bench.learning.config import to_json
from proma_bench.projection.config import SETTINGS, ProjectionConfig
from proma_bench.projection.methods import PROJECTION_METHODS
from proma_bench.tiers.bandit.config import BanditConfig


def test_settings_survive_being_stored():
    config = BanditConfig(method="grpo", learning_rate=1 / 3, max_removed=None, shuffle=False)
    stored = json.loads(json.dumps(to_json(config)))
    assert stored.pop("tier") == "bandit" and BanditConfig(**stored) == config


def test_projection_defaults_are_those_of_the_library():
    assert Training(BanditConfig()).proma.rule == ProjectionConfig()
    assert {field.name for field in dataclasses.fields(ProjectionConfig)} == set(SETTINGS.values())


def test_every_projection_that_a_backward_pass_can_serve_is_an_option():
    for name, method in PROJECTION_METHODS.items():
        if method.takes == "gradients":
            with pytest.raises(UsageError, match=f"method '{name}' stacks the sequence gradients"):
                BanditConfig(projection=name)
        else:
            assert BanditConfig(projection=name).projection == name


def test_what_happens_to_uncovered_parameters_is_an_option_with_a_name():
    for value in UNCOVERED:
        stored = json.loads(json.dumps(to_json(BanditConfig(uncovered=value))))
        assert stored["uncovered"] == value
    with pytest.raises(UsageError, match=r"unknown uncovered 'autogard'; did you mean 'autograd'\?"):
        BanditConfig(uncovered="autogard")


def test_the_package_exports_what_it_says():
    for name in proma_bench.__all__:
        assert getattr(proma_bench, name).__name__ == name
    assert set(proma_bench.__all__) <= set(dir(proma_bench))
    with pytest.raises(AttributeError, match="no attribute 'projct'"):
        proma_bench.projct  # noqa: B018
