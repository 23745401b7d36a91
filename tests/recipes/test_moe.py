"""The simulated experts: the model against autograd, Voronoi losses by hand and where they are 0."""

from __future__ import annotations

import itertools
import json
import math
import sys
from pathlib import Path

import moe
import moe_fit
import moe_report
import numpy as np
import pytest
import torch
from moe_fit import Model
from torch import Tensor
from voronoi import aligned_losses, cell_losses, matched_losses


def tensor(rows: object) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def model(gate: str, experts: str) -> Model:
    return moe.Setting(gate, "dense", experts, 3).model


@pytest.mark.parametrize("gate", ["softmax", "sigmoid"])
@pytest.mark.parametrize("experts", ["linear", "tanh"])
def test_outputs_and_derivatives(gate: str, experts: str) -> None:
    own, theta, x = model(gate, experts), random(2, 3, 5), random(2, 7, seed=2)
    y_rn, j_rpn = moe_fit.outputs(own, theta, x)
    # by the formula, one point
    rows, u = theta[1], x[1, 4]
    gates = torch.stack([r[0] * u * u + r[1] * u + r[2] for r in rows])
    gates = gates.softmax(0) if gate == "softmax" else gates.sigmoid()
    values = torch.stack([r[3] * u + r[4] for r in rows])
    expected = (gates * (values.tanh() if experts == "tanh" else values)).sum()
    assert y_rn[1, 4] == pytest.approx(float(expected))
    by_autograd = torch.autograd.functional.jacobian(lambda t: moe_fit.outputs(own, t, x)[0], theta)
    for r in range(2):
        torch.testing.assert_close(j_rpn[r], by_autograd[r, :, r].flatten(1).T)


@pytest.mark.parametrize("setting", moe.SETTINGS, ids=lambda setting: setting.name)
def test_fits_learn_the_function(setting: moe.Setting) -> None:
    """With 1000 points the function's error is within a few of its standard errors, sqrt(p / n)."""
    found = moe.simulate(setting, 1000, 2, seed=2)
    # A bounded answer differs from the truth, and its distance adds to the noise.
    noise = math.hypot(moe.NOISE, misfit(setting))
    assert max(found["function"]) < 4 * noise * (15 / 1000) ** 0.5
    if setting.fitted == 2:
        # No further from the truth than the information matrix lets least squares be.
        x_1n = torch.linspace(-moe.HALF_WIDTH, moe.HALF_WIDTH, 1000, dtype=torch.float64)[None]
        j_pn = moe_fit.outputs(setting.model, setting.truth_jp[None], x_1n)[1][0]
        j_pn = j_pn[~moe_fit.known(setting.model, 2)]
        errors_p = moe.NOISE * torch.linalg.inv(j_pn @ j_pn.T).diagonal().sqrt()
        assert max(found["voronoi"]) < 3 * float(errors_p.sum())


def misfit(setting: moe.Setting) -> float:
    """Root mean square of the best answer's difference from the truth."""
    both = (moe.answer(setting), setting.truth_jp)
    near, true = (moe_fit.outputs(setting.model, one[None], moe.grid())[0] for one in both)
    return float((near - true).square().mean().sqrt())


def test_a_fit_stays_in_the_box_and_gets_no_worse() -> None:
    own = model("sigmoid", "tanh")
    x, theta, y = random(2, 40), random(2, 3, 5, seed=3), random(2, 40, seed=4)
    before = (moe_fit.outputs(own, theta, x)[0] - y).square().sum(1)
    after, squares_r = moe_fit.fit(own, theta, x, y, moe.NOISE)
    assert after.abs().max() <= moe.BOX
    assert (squares_r < before).all()
    torch.testing.assert_close((moe_fit.outputs(own, after, x)[0] - y).square().sum(1), squares_r)


@pytest.mark.parametrize(
    ("gate", "regime", "fitted", "rank", "free"),
    [
        ("softmax", "dense", 2, 7, 7),
        ("sigmoid", "dense", 2, 10, 10),
        # the gate of an expert that is 0 is not determined: three parameters
        ("sigmoid", "dense", 3, 12, 15),
    ],
)
@pytest.mark.parametrize("experts", ["linear", "tanh"])
def test_rank_of_the_information(
    gate: str, regime: str, fitted: int, rank: int, free: int, experts: str
) -> None:
    setting = moe.Setting(gate, regime, experts, fitted)
    found = moe.information(setting)
    assert (found["rank"], found["free"]) == (rank, free)
    promised = ["-1/2"] * 2 if rank == free else ["nothing"] * 2
    assert moe.theory(setting, rank, free) == promised


@pytest.mark.parametrize("experts", ["linear", "tanh"])
def test_the_bounded_answer_is_regular(experts: str) -> None:
    """In its box, not the truth, with full rank and positive curvature, and no neighbour is nearer."""
    setting = moe.Setting("sigmoid", "bounded", experts, 3)
    found, near = moe.information(setting), moe.answer(setting)
    assert found["rank"] == found["free"] > 0
    assert min(found["least"], found["curvature"]) > 1e-5
    torch.testing.assert_close(setting.model.clamp(near), near)
    others = setting.model.clamp(near + 0.05 * random(200, 3, 5))
    x_1n = moe.grid()
    true_1n = moe_fit.outputs(setting.model, setting.truth_jp[None], x_1n)[0]
    wrong_rn = moe_fit.outputs(setting.model, others, x_1n.expand(200, -1))[0] - true_1n
    assert wrong_rn.square().mean(1).sqrt().min() > misfit(setting) > 0.001


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


@pytest.mark.parametrize(
    "setting",
    [setting for setting in moe.SETTINGS if setting.regime != "bounded"],
    ids=lambda setting: setting.name,
)
def test_zero_where_the_function_is_the_true_one(setting: moe.Setting) -> None:
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[None]
    true = moe_fit.outputs(setting.model, setting.truth_jp[None], x)[0]
    for fitted in [setting.truth_jp] if setting.fitted == 2 else equivalents(setting):
        torch.testing.assert_close(moe_fit.outputs(setting.model, fitted[None], x)[0], true)
        for order in itertools.permutations(range(len(fitted))):
            found = moe.voronoi_losses(setting, fitted[list(order)][None])
            assert [float(one) for one in found.values()] == pytest.approx([0, 0, 0], abs=1e-12)
            shaken = fitted[list(order)] + 0.1 * random(*fitted.shape, seed=7)
            assert moe.voronoi_losses(setting, shaken[None])["voronoi"] > 0.01


@pytest.mark.parametrize("setting", moe.SETTINGS, ids=lambda setting: setting.name)
def test_order_and_a_common_score_change_nothing(setting: moe.Setting) -> None:
    fitted = random(4, setting.fitted, moe.PARAMS)
    expected = moe.voronoi_losses(setting, fitted)
    for order in itertools.permutations(range(setting.fitted)):
        found = moe.voronoi_losses(setting, fitted[:, list(order)])
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
    true = moe_fit.outputs(setting.model, setting.truth_jp[None], x)[0]
    torch.testing.assert_close(moe_fit.outputs(setting.model, fitted[None], x)[0], true)
    found = moe.voronoi_losses(setting, fitted[None])
    assert found["equivalent"][0] == pytest.approx(0, abs=1e-12)
    assert found["voronoi"][0] > 0.1


@pytest.mark.parametrize("experts", ["linear", "tanh"])
def test_bounded_losses_are_distances_from_the_answer(experts: str) -> None:
    setting = moe.Setting("sigmoid", "bounded", experts, 3)
    fitted = moe.answer(setting).clone()[[2, 0, 1]]
    assert float(moe.voronoi_losses(setting, fitted[None])["voronoi"]) == pytest.approx(0)
    fitted[0] += tensor([0.01, -0.02, 0.03, 0.3, 0.4])
    found = moe.voronoi_losses(setting, fitted[None])
    assert float(found["voronoi"]) == pytest.approx(0.06 + 0.5)
    assert float(found["experts"]) == pytest.approx(0.5)


def test_slope_of_known_errors() -> None:
    sizes = [100, 1000, 10000]
    rng = np.random.default_rng(0)
    errors_sr = np.array([n**-0.5 * np.exp(rng.normal(0, 0.1, size=40)) for n in sizes])
    found = moe_report.slope(sizes, errors_sr)
    assert found.low < -0.5 < found.high
    assert found.value == pytest.approx(-0.5, abs=0.03)
    assert found.high - found.low < 0.1
    assert moe_report.against(found, "-1/2") == "which holds the theory's -1/2"
    assert moe_report.against(found, "-1/4") == "faster than the theory's -1/4"


def test_page_picture_and_rendering_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(
        moe, "SETTINGS", [moe.SETTINGS[0], moe.Setting("sigmoid", "dense", "tanh", 3)]
    )
    words = ["moe.py", "--sizes", "100", "200", "--repetitions", "2", "--out", str(tmp_path / "m")]
    monkeypatch.setattr(sys, "argv", words)
    moe.main()
    content = json.loads((tmp_path / "m.json").read_text())
    assert list(content["results"]) == [setting.name for setting in moe.SETTINGS]
    page = (tmp_path / "m.md").read_text()
    for name, found in content["results"].items():
        line = next(line for line in page.splitlines() if line.startswith(f"| {name} |"))
        slope = moe_report.slope([100, 200], np.array(found["voronoi"]))
        assert f"{slope.fixed()} ({found['theory']['voronoi']})" in line
    assert "| 12 of 15 |" in page
    assert "The theory promises nothing for sigmoid, dense, tanh experts, one too many" in page
    assert "![errors against n](m.png)" in page
    monkeypatch.setattr(sys, "argv", [*words, "--from-json"])
    monkeypatch.setattr(moe, "simulate", None)
    moe.main()
    assert (tmp_path / "m.md").read_text() == page
    assert (tmp_path / "m.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "words", [["--sizes", "100"], ["--sizes", "200", "100"], ["--repetitions", "1"]]
)
def test_refusals_are_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        moe.parsed(words)
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.split("error: ")[1].startswith(words[0])
