"""The cheat sheet: each picture shows what the text says about the method."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

from docs import cheat_sheet as sheet

PAGE = (sheet.HOME / "cheat_sheet.md").read_text()
CONFLICT, AGREE = sheet.NEW.values()
both = pytest.mark.parametrize("new", [CONFLICT, AGREE], ids=["conflict", "agree"])


def test_the_gradients_conflict_and_agree():
    assert sheet.OLD @ CONFLICT < 0 < sheet.OLD @ AGREE


@both
def test_proma_keeps_nothing_of_the_old_along_the_new(new):
    kept = sheet.proma(new) - new
    assert abs(kept @ new) < 1e-12
    assert torch.allclose(kept, sheet.OLD - (sheet.OLD @ new) / (new @ new) * new)
    removed = sheet.plain(new) - sheet.clamped(new)
    assert torch.allclose(removed.norm(), torch.minimum(0.5 * new.norm(), (sheet.plain(new) - sheet.proma(new)).norm()))


def test_surgery_acts_on_conflicts_alone():
    assert torch.allclose(sheet.pcgrad(AGREE), sheet.plain(AGREE))
    assert torch.allclose(sheet.gem(AGREE), AGREE)
    assert sheet.pcgrad(CONFLICT) @ sheet.OLD > sheet.plain(CONFLICT) @ sheet.OLD
    assert abs(sheet.gem(CONFLICT) @ sheet.OLD) < 1e-12


@both
def test_ogd_leaves_the_old_task_alone(new):
    assert abs(sheet.ogd(new) @ sheet.OLD) < 1e-12


@both
def test_trpo_ends_on_the_ellipse_and_no_step_on_it_is_better(new):
    step, total = sheet.trpo(new), sheet.OLD + new
    assert abs(step @ sheet.fisher(new) @ step / 2 - sheet.BUDGET) < 1e-12
    angles = torch.linspace(0, 2 * torch.pi, 1000, dtype=torch.float64)
    others = torch.stack([angles.cos(), angles.sin()], dim=1)
    others *= (2 * sheet.BUDGET / torch.einsum("ni,ij,nj->n", others, sheet.fisher(new), others)).sqrt()[:, None]
    assert (others @ total).max() <= step @ total + 1e-12


@both
def test_isopo_is_shorter_than_the_sum(new):
    assert sheet.isopo(new).norm() < sheet.plain(new).norm()


@both
def test_ppo_leaves_the_sum_at_the_edge_of_the_band(new):
    step, total = sheet.ppo(new), sheet.plain(new)
    reached = (step - sheet.OLD) @ new / (new @ new)  # the share of the new gradient that was followed
    assert 0 < reached < 1
    assert abs(reached * (total @ new) - sheet.BAND) < 1e-12


def test_every_picture_is_drawn_and_shown_with_a_text(tmp_path):
    shown = dict(re.findall(r"!\[(.+?)\]\(cheat-(\w+)\.png\)", PAGE)).values()
    assert sorted(shown) == sorted(sheet.METHODS)
    for name in sheet.METHODS:
        sheet.draw(name, tmp_path / "drawn.png")
        drawn, kept = plt.imread(tmp_path / "drawn.png"), plt.imread(Path(sheet.HOME / f"cheat-{name}.png"))
        assert abs(drawn.shape[1] - kept.shape[1]) < 20 and kept.std() > 0.05
