"""Settings: stored and read back, and in step with the classes they are handed to."""

import json

import pytest

import proma_bench
from proma_bench.config import PROJECTIONS, BanditConfig, from_json, to_json
from proma_bench.errors import UsageError
from proma_bench.projection import METHODS, ProjectionConfig
from proma_bench.train import Training


def test_settings_survive_being_stored():
    config = BanditConfig(method="grpo", learning_rate=1 / 3, max_removed=None, shuffle=False)
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


def test_unknown_settings_are_named():
    with pytest.raises(UsageError, match="unknown setting 'hiden'; did you mean 'hidden'"):
        from_json({"tier": "bandit", "hiden": 3})
    with pytest.raises(UsageError, match="unknown tier ''"):
        from_json({})


def test_projection_defaults_are_those_of_the_library():
    assert Training(BanditConfig()).proma.config == ProjectionConfig()
    assert set(PROJECTIONS) == set(METHODS) - {"qr"}  # which needs the gradients written out


def test_the_package_exports_what_it_says():
    for name in proma_bench.__all__:
        assert getattr(proma_bench, name).__name__ == name
    assert set(proma_bench.__all__) <= set(dir(proma_bench))
    with pytest.raises(AttributeError, match="no attribute 'projct'"):
        proma_bench.projct  # noqa: B018
