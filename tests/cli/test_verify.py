"""`proma-bench verify`, and the findings that it prints."""

import subprocess
import sys

import pytest
import torch

from proma_bench import project, testing
from proma_bench.cli import main

MODULE = """
import torch
from proma_bench import project as imported

def right(running, seq_grads):
    return imported(running, seq_grads)

def in_place(running, seq_grads):
    return running.copy_(imported(running, seq_grads))

def approximate(running, seq_grads):
    return imported(running, seq_grads, method="iterative")

def forgot_to_normalise(running, seq_grads):
    return running - torch.einsum('ij,bij,bkl->kl', running, seq_grads, seq_grads)

def first_one_only(running, seq_grads):
    return imported(running, seq_grads[:1])

number = 3
"""

RULES = """
import torch

def damped(gram, overlap, advantages):
    return torch.linalg.solve(gram + torch.eye(gram.shape[-1]).double(), advantages)

def for_one_tensor(gram, overlap, advantages):
    return torch.linalg.solve(gram + torch.eye(len(gram)).double(), advantages)

def divides(gram, overlap, advantages):
    return advantages / gram.diagonal(dim1=-2, dim2=-1).sqrt()

def throws_dice(gram, overlap, advantages):
    return advantages * torch.rand(())

def mixes_tensors(gram, overlap, advantages):
    return advantages + gram.sum()

def scales(gram, overlap, advantages, *, running_norm):
    from proma_bench.projection.updates import Update
    return Update(advantages, kept=torch.full_like(running_norm, 2.0))

def wants_more(gram, overlap, advantages, *, weights):
    return advantages
"""


@pytest.fixture
def verify(tmp_path, monkeypatch, capsys):
    """Runs the command on a function of the module above; returns exit code, standard output and error."""
    (tmp_path / "users_own.py").write_text(MODULE)
    (tmp_path / "users_rules.py").write_text(RULES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("proma_bench.cli.verify.EXAMPLES", 50)
    for name in ("users_own", "users_rules"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    def run(*arguments):
        code = main(["verify", *arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.mark.parametrize(
    "name",
    ["users_own.py:right", "./users_own.py:right", "users_own:right", "users_own:in_place", "proma_bench:project"],
)
def test_a_right_projection_keeps_every_promise_in_a_line_each(verify, name):
    code, out, err = verify(name)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[: len(testing.EXACT_INVARIANTS)]] == ["holds"] * 11
    assert "orthogonal to" in out and "has no component along any sequence gradient" in out
    assert lines[-1] == f"{name} keeps all 11 promises of an exact projection, on 50 inputs"


def test_an_approximate_one_keeps_what_is_asked_of_it(verify):
    assert verify("users_own:approximate", "--inexact")[0] == 0
    code, out, err = verify("users_own:approximate")
    assert code == 1
    assert "broken  orthogonal to" in out and "holds   norm not increased" in out
    assert err.startswith("proma-bench: users_own:approximate breaks ")


def test_a_wrong_one_is_shown_with_sizes_and_a_small_counterexample(verify):
    code, out, _ = verify("users_own:first_one_only")
    assert code == 1
    assert "broken  orthogonal to" in out and "measured " in out and ", allowed " in out
    assert "holds   finite" in out
    breaks = next(line for line in out.splitlines() if line.startswith("breaks ") and "orthogonal to" in line)
    assert "finite" not in breaks
    shown = out[out.index(breaks) :].splitlines()[1:4]
    assert [line.split()[0] for line in shown] == ["running", "seq_grads", "result"]
    assert shown[0].split()[1] == "[1]" and shown[1].split()[1:3] == ["[2,", "1]"]  # two sequences, one parameter


def test_an_exception_is_a_broken_promise(verify):
    code, out, _ = verify("users_own:forgot_to_normalise")
    assert code == 1
    assert "raised RuntimeError: einsum" in out
    assert "result     raises RuntimeError" in out


def words(out):
    """The state of each promise by name."""
    lines = [line.partition("  ") for line in out.splitlines() if line.startswith(("holds", "broken", "not so"))]
    return {rest.strip()[:26].strip(): state.strip() for state, _, rest in lines}


def test_an_update_rule_is_told_by_its_arguments(verify):
    """What every rule must keep is held against it; the rest says what kind of rule it is."""
    code, out, err = verify("users_rules:damped")
    assert (code, err) == (0, "")
    state = words(out)
    assert [name for name, held in state.items() if held != "holds"] == [
        "first microbatch is plain",
        "scale equivariant",
    ]
    assert list(state)[:3] == ["finite", "repeatable", "batched"] and len(state) == 7
    assert out.splitlines()[-1] == (
        "users_rules:damped keeps all 3 promises of an update rule, and 2 of 4 that a rule may have, on 50 inputs"
    )


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("for_one_tensor", {"finite", "repeatable", "batched"}),
        ("divides", {"finite", "repeatable", "batched"}),  # a zero gradient: the result is not finite, which raises
        ("throws_dice", {"repeatable", "batched"}),
        ("mixes_tensors", {"batched"}),
    ],
)
def test_what_no_rule_may_do_is_broken_with_a_small_counterexample(verify, name, broken):
    code, out, err = verify(f"users_rules:{name}")
    assert code == 1 and err.startswith(f"proma-bench: users_rules:{name} breaks {len(broken)} of the 3 promises")
    assert {name for name, held in words(out).items() if held == "broken"} == broken
    shown = out[out.index("breaks ") :].splitlines()[1:5]
    assert [line.split()[0] for line in shown] == ["running", "seq_grads", "advantages", "coefficients"]


def test_a_rule_that_makes_the_running_gradient_longer_is_seen(verify):
    code, out, _ = verify("users_rules:scales")
    assert code == 0 and words(out)["norm not increased"] == "not so"


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("proma_bench:ProjectionConfig", ["permutation equivariant"]),  # the iterative one
        ("proma_bench.projection.rules.isopo:Isopo", ["first microbatch is plain"]),
        ("proma_bench.projection.rules.pcgrad:PCGrad", ["first microbatch is plain", "permutation equivariant"]),
    ],
)
def test_built_in_rules_are_verified_with_their_defaults(verify, name, lost):
    code, out, _ = verify(name)
    assert code == 0
    assert [promise for promise, held in words(out).items() if held == "not so"] == lost


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("users_rules:wants_more", "the rule wants_more in "),
        ("users_own:rihgt", "users_own has no function 'rihgt'; did you mean 'right'?"),
        ("users_own:number", "users_own has no function 'number'; did you mean 'in_place'?"),
        ("user_own:right", "unknown module: 'user_own'; did you mean 'users_own'?"),
        ("users_own.deep:right", "unknown module: 'users_own.deep'"),
        ("proma_bench.projecton:project", "unknown module: 'proma_bench.projecton'; did you mean 'proma_bench.proj"),
        ("users_own", "a function is named FILE.py:NAME or PACKAGE.MODULE:NAME, got 'users_own'"),
        ("..:right", "a function is named FILE.py:NAME or PACKAGE.MODULE:NAME, got '..:right'"),
        ("broken:right", "cannot import broken: ZeroDivisionError: division by zero"),
        ("leaves:right", "cannot import leaves: SystemExit: 0"),
        ("needs:right", "cannot import needs: ModuleNotFoundError: No module named 'not_there'"),
    ],
)
def test_a_wrong_name_is_one_line_with_the_nearest_one(verify, tmp_path, name, message):
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "leaves.py").write_text("raise SystemExit(0)")
    (tmp_path / "needs.py").write_text("import not_there")
    code, out, err = verify(name)
    assert (code, out) == (2, "")
    assert err.startswith(f"proma-bench: {message}")
    assert err.count("\n") == 1


def test_without_hypothesis_it_says_what_to_install():
    program = (
        "import sys\n"
        "sys.modules['hypothesis'] = None\n"
        "from proma_bench.cli import main; sys.exit(main(['verify', 'a:b']))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == (
        "proma-bench: this needs hypothesis, which is not installed; it comes with the extra [testing]: "
        'python -m pip install "proma-bench[testing]" (in a checkout: ".[testing]")\n'
    )


# ------------------------------------------------------------------------------------------------------ findings


def test_each_promise_is_judged_on_its_own():
    def everything_removed(running, seq_grads):
        return torch.zeros_like(running)

    findings = testing.examine_projection(everything_removed, examples=50)
    assert [finding.invariant for finding in findings] == list(testing.EXACT_INVARIANTS)
    broken = [finding for finding in findings if not finding.holds]
    assert [finding.name for finding in broken] == ["in span", "zero invariant"]
    running, seq_grads, _ = broken[0].counterexample
    assert running.numel() == 1 and not seq_grads.any()
    with pytest.raises(AssertionError, match="not in the span"):
        testing.assert_in_span(everything_removed, running, seq_grads)


def test_counterexamples_are_rounded_where_they_can_be():
    findings = testing.examine_projection(lambda running, seq_grads: 2 * running, examples=50)
    problem = next(finding.counterexample for finding in findings if finding.name == "norm not increased")
    assert all(torch.equal(values, values.round()) for values in (problem.running, problem.seq_grads))


def test_a_projection_that_throws_dice_is_found_out():
    def dice(running, seq_grads):
        return project(running, seq_grads) + torch.rand(()).item()

    findings = {finding.name: finding for finding in testing.examine_projection(dice, examples=50)}
    assert not findings["idempotent"].holds
    assert findings["finite"].holds
