"""`proma-bench new-method`: a commented update rule and its tests, to begin with."""

from __future__ import annotations

import importlib.util
import keyword
import shlex
import sys
from pathlib import Path

from rich.console import Console

from proma_bench import files
from proma_bench.console import say
from proma_bench.errors import UsageError

RULE = '''"""An update rule: how the step of each parameter tensor follows from what the backward pass has measured."""

import torch


def {name}(gram, overlap, advantages, *, strength=1.0):
    """Coefficients u of the sequence gradients: the step is  A + sum_i u_i S_i.

    Every tensor of the policy is one problem, and P of them come at once, in float64. So count axes from the end.

    gram        K_ij = <S_i, S_j>, inner products of the gradients of log p(sequence i)   [P, B, B]
    overlap     c_i = <A, S_i>, how much each sequence shares with the running gradient   [P, B]
    advantages  a_i: how much better than its group each sequence was                     [P, B]
    strength    a setting of your own:  --rule-settings strength 0.5
    """
    # Plain accumulation is `return advantages`. PROMA takes from the advantages what removes from A all that lies in
    # the span of the sequences. This rule takes the mean of what lies along each one, <A, S_i> / <S_i, S_i> S_i.
    squares = gram.diagonal(dim1=-2, dim2=-1)
    along = torch.where(squares > 0, overlap / squares, 0.0)
    return advantages - strength * along / overlap.shape[-1]
'''

TESTS = '''"""What the rule of {name}.py promises:  pytest test_{name}.py"""

import pytest
from hypothesis import HealthCheck, given, settings
from {name} import {name}

from proma_bench.testing import rules
from proma_bench.testing.strategies import projection_problems

# Every rule must keep these: finite, repeatable, and each tensor a problem of its own.
PROMISES = [*rules.SOUND_RULE_INVARIANTS]

# What kind of rule it is: `proma-bench verify {name}:{name}` tells which of these it keeps. Leave those in.
PROMISES += [
    rules.assert_rule_first_microbatch_is_plain,
    rules.assert_rule_scale_equivariant,
    rules.assert_rule_permutation_equivariant,
    rules.assert_rule_norm_not_increased,
]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_{name}_keeps(promise):
    @settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(projection_problems())
    def for_all(problem):
        promise({name}, problem)

    for_all()
'''


def new_method(name: str, folder: Path, console: Console) -> None:
    """Write ``NAME.py`` and ``test_NAME.py``, and say what to do with them.

    Raises:
        UsageError: the name is not one for a function, or there is such a file already. Nothing is written then.
    """
    if not (name.isidentifier() and name.isascii()) or keyword.iskeyword(name):
        raise UsageError(f"{name!r} cannot be the name of a function; take letters, digits and _ (my_rule, for one)")
    contents = {f"{name}.py": RULE.format(name=name), f"test_{name}.py": TESTS.format(name=name)}
    for file in contents:
        if (folder / file).exists() or (folder / file).is_symlink():
            raise UsageError(f"{folder / file} is there already; choose another name, or another --out")
    if name in {*sys.stdlib_module_names, *sys.modules} or importlib.util.find_spec(name) is not None:
        raise UsageError(
            f"{name!r} is the name of a module of Python's, or of one that is installed; choose another name"
        )
    for file, content in contents.items():
        files.create(folder, file, content.encode())
    path = shlex.quote(f"{folder / name}.py:{name}")
    say(console, f"{folder / name}.py is the rule, {folder / f'test_{name}.py'} what it promises. In that directory:")
    say(console, f"  proma-bench verify {name}:{name}")
    say(console, f"  pytest test_{name}.py        (both need the extra [testing])")
    say(console, "And from here:")
    say(console, f"  proma-bench run bandit --method {path}")
    say(console, f"  proma-bench ladder --tiers bandit --methods reinforce,grpo,proma,{path} --out runs/{name}")
