"""The simulated experts: the model against autograd, Voronoi losses by hand and where they are 0."""

from __future__ import annotations

import itertools
import json
import math
import sys
from pathlib import Path

import moe
import numpy as np
import pytest
import torch
from torch import Tensor
from voronoi import aligned_losses, cell_losses, matched_losses


def tensor(rows: object) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("gate", ["softmax", "sigmoid"])
@pytest.mark.parametrize("experts", ["linear", "tanh"])
def test_outputs_and_derivatives(gate: str, experts: str) -> None:
    setting = moe.Setting(gate, "dense", experts, 3)
    theta, x = random(2, 15), random(2, 5, seed=2)
    y_rn, j_rnp = moe.outputs(setting, theta, x)
    # by the formula, one point
    rows, u = theta[1].view(3, 5), x[1, 4]
    gates = torch.stack([r[0] * u * u + r[1] * u + r[2] for r in rows])
    gates = gates.softmax(0) if gate == "softmax" else gates.sigmoid()
    heard = torch.stack([r[3] * u + r[4] for r in rows])
    expected = (gates * (heard.tanh() if experts == "tanh" else heard)).sum()
    assert y_rn[1, 4] == pytest.approx(float(expected))
    by_autograd = torch.autograd.functional.jacobian(lambda t: moe.outputs(setting, t, x)[0], theta)
    for r in range(2):
        torch.testing.assert_close(j_rnp[r], by_autograd[r, :, r])


EVERY_DAY = [one for one in moe.SETTINGS if one.fitted == 2] + moe.SETTINGS[-1:]


@pytest.mark.parametrize(
    "setting",
    [
        one if one in EVERY_DAY else pytest.param(one, marks=pytest.mark.slow)
        for one in moe.SETTINGS
    ],
    ids=lambda setting: setting.name,
)
def test_fits_learn_the_function(setting: moe.Setting) -> None:
    """With 1000 points the function's error is within a few of its standard errors, sqrt(p / n)."""
    found = moe.simulate(setting, 1000, 2, seed=2)
    assert max(found["function"]) < 4 * moe.NOISE * (15 / 1000) ** 0.5
    if setting.fitted == 2:
        # No further from the truth than the information matrix lets least squares be.
        x_1n = torch.linspace(-moe.HALF_WIDTH, moe.HALF_WIDTH, 1000, dtype=torch.float64)[None]
        j_np = moe.outputs(setting, setting.truth_jp.flatten()[None], x_1n)[1][0]
        j_np = j_np[:, moe.free_parameters(setting)]
        errors_p = moe.NOISE * torch.linalg.inv(j_np.T @ j_np).diagonal().sqrt()
        assert max(found["voronoi"]) < 3 * float(errors_p.sum())


def test_a_fit_stays_in_the_box_and_gets_no_worse() -> None:
    setting = moe.Setting("sigmoid", "dense", "tanh", 3)
    x, theta = random(2, 40), random(2, 15, seed=3)
    y = random(2, 40, seed=4)
    before = (moe.outputs(setting, theta, x)[0] - y).square().sum(1)
    after_rp, squares_r = moe.fit(setting, theta, x, y)
    assert after_rp.abs().max() <= moe.BOX
    assert (squares_r < before).all()
    torch.testing.assert_close(
        (moe.outputs(setting, after_rp, x)[0] - y).square().sum(1), squares_r
    )


TRUE = tensor([[0, 0, 0, 1, 0], [2, 1, math.log(2), -1, 0]])


def test_cells_by_hand() -> None:
    """One fitted expert near the first, two near the second, whose weights add up to its 2."""
    fitted = tensor([[[0, 0, 0, 1, 0.1], [2.1, 1, 0, -1, 0.2], [2, 1.3, 0, -1, 0]]])
    found = cell_losses(fitted, TRUE, Tensor.exp)
    assert found["voronoi"][0] == pytest.approx(0.1 + (0.1**2 + 0.2**2) + 0.3**2)
    assert found["experts"][0] == pytest.approx((0.1 + 0.2 + 0) / 3)
    assert found["equivalent"][0] == pytest.approx((0.1 + 0.3) + 0.1 + 0.1)
    # exp(c) of the last is 3: its cell weighs 4 in place of 2
    fitted[0, 2, 2] = math.log(3)
    found = cell_losses(fitted, TRUE, Tensor.exp)
    assert found["voronoi"][0] == pytest.approx(2 + 0.1 + (0.1**2 + 0.2**2) + 3 * 0.3**2)
    # nobody in the second cell: all of its weight is missing
    alone = tensor([[[0, 0, 0, 1, 0.1]]])
    assert cell_losses(alone, TRUE, Tensor.exp)["voronoi"][0] == pytest.approx(2 + 0.1)
    # sigmoid weights: 0.5 in place of sigmoid(log 2) = 2/3
    two = tensor([[[0, 0, 0, 1, 0.1], [2, 1, 0, -1, 0]]])
    found = cell_losses(two, TRUE, Tensor.sigmoid)
    assert found["voronoi"][0] == pytest.approx((2 / 3 - 1 / 2) + 0.5 * 0.1)


def test_matches_by_hand() -> None:
    true = tensor([[1, 0, 0, 1, 0], [-1, 0, 0, -1, 0]])
    two = tensor([[[-1, 0.2, 0, -1, 0], [1, 0, 0.3, 1, 0.1]]])
    for experts in ("linear", "tanh"):
        found = matched_losses(two, true, experts)
        assert found["voronoi"][0] == pytest.approx(0.2 + 0.3 + 0.1)
        assert found["experts"][0] == pytest.approx(0.1)
        # a third expert counts by its size alone, whatever its gate
        three = torch.cat([two, tensor([[[4, -3, 2, 0.03, 0.04]]])], dim=1)
        found = matched_losses(three, true, experts)
        assert found["voronoi"][0] == pytest.approx(0.6 + 0.05)


def split(setting: moe.Setting, share: float) -> Tensor:
    """The truth with its last expert as two copies that weigh as much together."""
    first, last = setting.truth_jp
    one, other = last.clone(), last.clone()
    if setting.gate == "softmax":
        one[2], other[2] = last[2] + math.log(share), last[2] + math.log(1 - share)
    else:
        weight = float(last[2].sigmoid())
        one[2], other[2] = (math.log(w / (1 - w)) for w in (share * weight, (1 - share) * weight))
    return torch.stack([first, one, other])


def equivalents(setting: moe.Setting) -> list[Tensor]:
    """Three experts that give the function of the two true ones, where the theory has the loss be 0."""
    first, last = setting.truth_jp
    if (setting.gate, setting.regime) != ("sigmoid", "dense"):
        return [split(setting, share) for share in (0.5, 0.2)]
    zero = torch.cat([random(3), torch.zeros(2, dtype=torch.float64)])
    found = [torch.stack([first, last, zero])]
    if setting.experts == "linear":
        for other, one in ((first, last), (last, first)):
            part = random(2, seed=5)
            halves = [torch.cat([one[:3], eta]) for eta in (part, one[3:] - part)]
            flat = torch.cat([tensor([0, 0, 0.7]), one[3:] / tensor(0.7).sigmoid()])
            found += [torch.stack([other, *halves]), torch.stack([other, -one, flat])]
    return found


@pytest.mark.parametrize("setting", moe.SETTINGS, ids=lambda setting: setting.name)
def test_zero_where_the_function_is_the_true_one(setting: moe.Setting) -> None:
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[None]
    true = moe.outputs(setting, setting.truth_jp.flatten()[None], x)[0]
    for fitted in [setting.truth_jp] if setting.fitted == 2 else equivalents(setting):
        torch.testing.assert_close(moe.outputs(setting, fitted.flatten()[None], x)[0], true)
        for order in itertools.permutations(range(len(fitted))):
            found = moe.voronoi_losses(setting, fitted[list(order)].flatten()[None])
            assert [float(one) for one in found.values()] == pytest.approx([0, 0, 0], abs=1e-12)
            shaken = fitted[list(order)] + 0.1 * random(*fitted.shape, seed=7)
            assert moe.voronoi_losses(setting, shaken.flatten()[None])["voronoi"] > 0.01


@pytest.mark.parametrize("setting", moe.SETTINGS, ids=lambda setting: setting.name)
def test_order_and_a_common_score_change_nothing(setting: moe.Setting) -> None:
    fitted = random(4, setting.fitted, moe.PARAMS)
    expected = moe.voronoi_losses(setting, fitted.flatten(1))
    for order in itertools.permutations(range(setting.fitted)):
        found = moe.voronoi_losses(setting, fitted[:, list(order)].flatten(1))
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value)
    if setting.gate == "softmax":
        moved = fitted.clone()
        moved[..., :3] += tensor([0.3, -2.0, 1.1])
        for key, value in aligned_losses(moved, setting.truth_jp).items():
            torch.testing.assert_close(value, expected[key])


def test_linear_experts_in_one_cell_may_be_anything_with_the_right_mean() -> None:
    """Behind softmax: the same function, far in the theory's loss, 0 away from an equivalent."""
    setting = moe.Setting("softmax", "dense", "linear", 3)
    fitted = split(setting, 0.25)
    fitted[1, 3:] += tensor([0.9, 1.8])
    fitted[2, 3:] -= tensor([0.3, 0.6])
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[None]
    true = moe.outputs(setting, setting.truth_jp.flatten()[None], x)[0]
    torch.testing.assert_close(moe.outputs(setting, fitted.flatten()[None], x)[0], true)
    found = moe.voronoi_losses(setting, fitted.flatten()[None])
    assert found["equivalent"][0] == pytest.approx(0, abs=1e-12)
    assert found["voronoi"][0] > 0.1


def test_slope_of_known_errors() -> None:
    sizes = [100, 1000, 10000]
    rng = np.random.default_rng(0)
    errors_sr = np.array([n**-0.5 * np.exp(rng.normal(0, 0.1, size=40)) for n in sizes])
    value, low, high = moe.slope(sizes, errors_sr, 1)
    assert low < -0.5 < high
    assert value == pytest.approx(-0.5, abs=0.03)
    assert high - low < 0.1


def test_page_and_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(moe, "SETTINGS", moe.SETTINGS[:1])
    words = ["moe.py", "--sizes", "100", "200", "--repetitions", "2", "--out", str(tmp_path / "m")]
    monkeypatch.setattr(sys, "argv", words)
    moe.main()
    content = json.loads((tmp_path / "m.json").read_text())
    assert list(content["results"]) == [setting.name for setting in moe.SETTINGS]
    page = (tmp_path / "m.md").read_text()
    for name, found in content["results"].items():
        line = next(line for line in page.splitlines() if line.startswith(f"| {name} |"))
        value, low, high = found["voronoi_slope"]
        assert f"{value:.2f} [{low:.2f}, {high:.2f}]" in line
    assert "![errors against n](m.png)" in page
    assert (tmp_path / "m.png").stat().st_size > 10_000
