"""The arrows that readers drag: the numbers beside them are the library's."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from proma_bench import ProjectionConfig, accumulate, corrected_advantages

pytestmark = pytest.mark.site
FORMULAS = Path(__file__).parents[2] / "docs/web/formulas.js"
HANDLES = ("A", "foot", "S1", "S2")


def cases():
    """Problems of many sizes, among them such with gradients that are zero, parallel, opposite, huge and tiny."""
    random = np.random.default_rng(0)
    for case in range(60):
        count, size = 1 + case % 4, 2 + case % 5
        running, gradients = random.normal(size=size), random.normal(size=(count, size))
        if case % 6 == 1:
            gradients[0] = 0.0
        if case % 6 == 2:
            gradients[-1] = -3.0 * gradients[0]
        if case % 6 == 3:
            gradients *= 10.0 ** random.integers(-6, 6, size=(count, 1))
        config = {
            "method": ("exact", "iterative", "ridge")[case % 3],
            "sweeps": 1 + case % 7,
            "max_removed": (None, 0.0, 0.5, 2.0)[(case // 3) % 4],
        }
        yield running, gradients, random.normal(size=count), config


def library(running, gradients, advantages, config):
    """What remains of the running gradient, the corrected advantages, and whether the clamp was active."""
    running, gradients, advantages = map(torch.as_tensor, (running, gradients, advantages))
    settings = ProjectionConfig(**config)
    after = accumulate(running, gradients, advantages, settings)
    corrected = corrected_advantages(gradients @ gradients.T, gradients @ running, advantages, settings)
    free = accumulate(running, gradients, advantages, ProjectionConfig(**{**config, "max_removed": None}))
    remains = after - advantages @ gradients
    wanted = (running - (free - advantages @ gradients)).norm()
    clamped = config["max_removed"] is not None and wanted > config["max_removed"] * (advantages @ gradients).norm()
    return remains.numpy(), corrected.numpy(), bool(clamped)


def test_the_formulas_are_the_library_s(visit):
    page = visit("about:blank")
    page.evaluate(FORMULAS.read_text())
    clamps = set()
    for running, gradients, advantages, config in cases():
        problem = {"running": running.tolist(), "gradients": gradients.tolist(), "advantages": advantages.tolist(),
                   "method": config["method"], "sweeps": config["sweeps"],
                   "maxRemoved": config["max_removed"]}  # fmt: skip
        found = page.evaluate("problem => projection.step(problem)", problem)
        remains, corrected, clamped = library(running, gradients, advantages, config)
        size = np.linalg.norm(running)
        np.testing.assert_allclose(found["remains"], remains, atol=1e-7 * size, err_msg=str(problem))
        np.testing.assert_allclose(found["removed"], running - remains, atol=1e-7 * size)
        assert found["removedNorm"] == pytest.approx(np.linalg.norm(running - remains), abs=1e-7 * size)
        mine = advantages @ gradients - (advantages - np.array(found["coefficients"])) @ gradients
        np.testing.assert_allclose(mine, corrected @ gradients, atol=1e-7 * size, err_msg=str(problem))
        if min(np.linalg.norm(gradients, axis=1)) > 0:
            seen = gradients / np.linalg.norm(gradients, axis=1, keepdims=True)
            shown = np.array(found["overlaps"]) / np.linalg.norm(gradients, axis=1)
            np.testing.assert_allclose(shown, seen @ remains, atol=1e-7 * size)
        assert found["clamped"] == clamped
        clamps.add(clamped)
    assert clamps == {True, False}


def vectors(root):
    """A, S_1 and S_2 as the handles say where they are."""
    labels = {name: root.locator(f"circle.{name}").get_attribute("aria-label") for name in HANDLES}
    return {name: np.array([float(number) for number in re.search(r"at ([-\d., ]+);", label)[1].split(",")])
            for name, label in labels.items()}  # fmt: skip


def agrees(root):
    """The numbers beside the picture are the library's for the vectors and the settings in it."""
    at = vectors(root)
    value = {name: root.locator(f"[name={name}]").input_value() for name in ("method", "sweeps", "beta", "a1", "a2")}
    clamp = root.locator("[name=clamp]").is_checked()
    config = {"method": value["method"], "sweeps": int(value["sweeps"]),
              "max_removed": float(value["beta"]) if clamp else None}  # fmt: skip
    advantages = np.array([float(value["a1"]), float(value["a2"])])
    gradients = np.stack([at["S1"], at["S2"]])
    remains, corrected, clamped = library(at["A"], gradients, advantages, config)
    wanted = {
        "running": [np.linalg.norm(at["A"])],
        "removed": [np.linalg.norm(at["A"] - remains)],
        "remains": [np.linalg.norm(remains)],
        "overlaps": gradients @ remains,
        "coefficients": corrected,
    }
    for name, numbers in wanted.items():
        shown = root.locator(f"[data-number={name}]").inner_text()
        np.testing.assert_allclose([*map(float, shown.split(","))], numbers, atol=6e-4, err_msg=name)
    text = root.locator("[data-number=clamp]").inner_text()
    assert text.startswith("none" if not clamp else "active" if clamped else "not active")
    return at


def centre(handle):
    box = handle.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


@pytest.fixture
def arrows(visit, site):
    def opened(address="", **options):
        page = visit(site + address, **options)
        root = page.locator(".projection")
        root.scroll_into_view_if_needed()
        return page, root

    return opened


@pytest.mark.parametrize("address", ["", "tutorials/0_where_to_push/"])
def test_arrows_are_dragged_by_mouse(address, arrows):
    page, root = arrows(address)
    for name in HANDLES:
        before = agrees(root)
        root.locator(f"circle.{name}").scroll_into_view_if_needed()
        x, y = centre(root.locator(f"circle.{name}"))
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 12, y - 9, steps=4)
        page.mouse.up()
        after = agrees(root)
        assert not np.allclose(before[name], after[name])
        assert np.allclose(after["S1"][2], 0) and np.allclose(after["S2"][2], 0)
        page.mouse.move(x - 30, y, steps=2)  # the handle was let go
        assert np.allclose(vectors(root)[name], after[name])


def test_arrows_are_moved_by_keyboard(arrows):
    page, root = arrows()
    presses = [("A", "ArrowUp", 2, 0.1), ("foot", "Shift+ArrowUp", 1, 0.5)]
    presses += [("S1", "ArrowRight", 0, 0.1), ("S2", "ArrowDown", 1, -0.1)]
    for name, key, axis, by in presses:
        before = agrees(root)[name]
        root.locator(f"circle.{name}").focus()
        page.keyboard.press(key)
        moved = agrees(root)[name] - before
        assert moved[axis] == pytest.approx(by) and np.count_nonzero(np.abs(moved) > 1e-9) == 1


@pytest.mark.parametrize("address", ["", "tutorials/0_where_to_push/"])
def test_arrows_are_dragged_by_finger_on_a_phone(address, arrows):
    page, root = arrows(address, width=390, has_touch=True, is_mobile=True)
    root.locator("circle.S2").scroll_into_view_if_needed()
    (x, y), before = centre(root.locator("circle.S2")), agrees(root)["S2"]
    scrolled = page.evaluate("scrollY")
    touch = page.context.new_cdp_session(page)
    for kind, points in (("Start", [(x, y)]), ("Move", [(x + 5, y + 2)]), ("Move", [(x + 12, y + 8)]), ("End", [])):
        where = [{"x": left, "y": top} for left, top in points]
        touch.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": where})
    assert not np.allclose(agrees(root)["S2"], before)
    assert page.evaluate("scrollY") == scrolled


def test_every_setting_counts(arrows):
    _, root = arrows()
    seen = set()
    for method, sweeps, clamp, beta in (("exact", 2, False, "0.5"), ("iterative", 1, False, "0.5"),
                                        ("iterative", 5, False, "0.5"), ("ridge", 2, False, "0.5"),
                                        ("exact", 2, True, "0.5"), ("exact", 2, True, "2")):  # fmt: skip
        root.locator("[name=method]").select_option(method)
        if method == "iterative":
            root.locator("[name=sweeps]").fill(str(sweeps))
        root.locator("[name=clamp]").set_checked(clamp)
        if clamp:
            root.locator("[name=beta]").fill(beta)
        root.locator("[name=a1]").fill("0.7")
        agrees(root)
        seen.add(root.locator("[data-number=overlaps]").inner_text())
    assert len(seen) >= 4
    root.locator("[name=paper]").click()
    agrees(root)
    assert root.locator("[name=method]").input_value() == "iterative" and root.locator("[name=clamp]").is_checked()
    root.locator("[name=reset]").click()
    agrees(root)
    assert root.locator("[data-number=overlaps]").inner_text() == "0.000, 0.000"
    assert "perpendicular" in root.locator(".projection-says").inner_text()
