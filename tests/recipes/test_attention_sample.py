"""The simulation of attention layers: model, fit and statistics against independent oracles."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import attention
import attention_fit
import curves
import numpy as np
import pytest
import run_record
import torch
from attention_fit import FP64, Data
from sigmoid_attention import Weighting, reference
from torch import Tensor


@pytest.fixture(autouse=True)
def one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, dtype=FP64, generator=torch.Generator().manual_seed(seed))


WEIGHTINGS = {"softmax": Weighting.softmax(), "sigmoid": Weighting.sigmoid()}


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_outputs_are_the_first_row_of_the_packages_attention(weighting: str) -> None:
    x_kin, theta_rhwia = random(7, 5, 11), random(2, 3, 4, 5, 2, seed=2)
    found_ron = attention_fit.outputs(weighting, theta_rhwia, x_kin)
    for theta_hwia, found_on in zip(theta_rhwia, found_ron, strict=True):
        q, k, v, o = theta_hwia.unbind(1)
        query, key, value = (torch.einsum("kin,hia->nhka", x_kin, w) for w in (q, k, v))
        rows = reference.attend(query, key, value, weighting=WEIGHTINGS[weighting])
        expected = torch.einsum("nha,hoa->on", rows[:, :, 0], o)
        torch.testing.assert_close(found_on, expected)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_normal_equations_against_autograd(weighting: str) -> None:
    x_kin, y_on, theta = random(6, 3, 100), random(3, 100, seed=2), random(2, 2, 4, 3, 2, seed=3)
    jj, jr, squares_r = attention_fit.normal_equations(weighting, theta, Data.of(x_kin, y_on))
    for r in range(len(theta)):

        def residual(one: Tensor) -> Tensor:
            return (y_on - attention_fit.outputs(weighting, one[None], x_kin)[0]).flatten()

        j = -torch.autograd.functional.jacobian(residual, theta[r]).flatten(1)
        torch.testing.assert_close(jj[r], j.T @ j)
        torch.testing.assert_close(jr[r], j.T @ residual(theta[r]))
        torch.testing.assert_close(squares_r[r], residual(theta[r]).square().sum())


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_number_of_parameters_is_the_rank_of_the_jacobian(weighting: str) -> None:
    generator = torch.Generator().manual_seed(4)
    for heads in (2, 3):
        theta = attention.draw_layers(1, heads, generator)
        data = Data.of(random(8, 4, 500), torch.zeros(4, 500, dtype=FP64))
        jj = attention_fit.normal_equations(weighting, theta, data)[0][0]
        assert torch.linalg.matrix_rank(jj, rtol=1e-9) == attention.num_parameters(heads)


def test_teachers_have_the_stated_scores_and_outputs() -> None:
    generator = torch.Generator().manual_seed(5)
    x_kin = torch.randn(8, 4, 20000, generator=generator, dtype=FP64)
    for weighting, theta in attention.draw_teachers(x_kin, generator).items():
        b_rhij, _ = attention_fit.products(theta)
        scores_hn = torch.einsum("in,hij,jn->hn", x_kin[0], b_rhij[0], x_kin[1])
        assert scores_hn.std(1).tolist() == pytest.approx([attention.SCORE_STD] * 2, rel=0.05)
        variance = attention_fit.outputs(weighting, theta, x_kin).square().mean()
        assert float(variance) == pytest.approx(1)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_an_exact_fit_has_the_error_that_least_squares_theory_says(weighting: str) -> None:
    """sigma^2 p / (4N): within a fifth on average, and four times smaller with four times the data;
    the sum of squares is p noise variances below the teacher's."""
    one = attention.Crossing(weighting, weighting, 0)
    num = attention.num_parameters(2)
    ratios, gains = [], []
    for number in range(12):
        generator = torch.Generator().manual_seed(100 + number)
        x_kin = torch.randn(8, 4, 8192, generator=generator, dtype=FP64)
        teacher = attention.draw_teachers(x_kin, generator)[weighting]
        noise_on = attention.NOISE * torch.randn(4, 4096, generator=generator, dtype=FP64)
        true_on = attention_fit.outputs(weighting, teacher, x_kin)[0]
        data = Data.of(x_kin[..., :4096], true_on[:, :4096] + noise_on).single()
        for size in (1024, 4096):
            theta, squares = attention.refit(one, teacher, data.first(size), 50)
            fresh_kin, fresh_on = x_kin[..., 4096:], true_on[:, 4096:]
            wrong_on = attention_fit.outputs(weighting, theta, fresh_kin)[0] - fresh_on
            expected = attention.NOISE**2 * num / (4 * size)
            ratios.append(float(wrong_on.square().mean()) / expected)
            below = noise_on[:, :size].square().sum() - squares[0]
            gains.append(float(below) / attention.NOISE**2)
    small, large = np.mean(ratios[::2]), np.mean(ratios[1::2])
    assert small == pytest.approx(1, abs=0.2)
    assert large == pytest.approx(1, abs=0.2)
    assert np.mean(gains) == pytest.approx(num, rel=0.15)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_random_starts_find_the_optimum_near_the_teacher(weighting: str) -> None:
    one = attention.Crossing(weighting, weighting, 0)
    generator = torch.Generator().manual_seed(6)
    x_kin = torch.randn(8, 4, 512, generator=generator, dtype=FP64)
    teacher = attention.draw_teachers(x_kin, generator)[weighting]
    noise_on = attention.NOISE * torch.randn(4, 512, generator=generator, dtype=FP64)
    y_on = attention_fit.outputs(weighting, teacher, x_kin)[0] + noise_on
    data = Data.of(x_kin, y_on).single()
    best = float(attention.fit_sizes(one, data, [512], generator)[0][1][0])
    near = float(attention.refit(one, teacher, data, 100)[1][0])
    assert best < near + attention.NOISE**2


# --- statistics ---------------------------------------------------------------------------------

SIZES = [100, 400, 1600, 6400]


def made_up(scale: float, floor: float, seed: int) -> np.ndarray:
    """Errors (repetition, size) around floor + scale / N with a tenth of spread."""
    rng = np.random.default_rng(seed)
    return (floor + scale / np.array(SIZES)) * np.exp(rng.normal(0, 0.1, size=(20, len(SIZES))))


def test_ratio_of_sizes_recovers_a_known_one() -> None:
    index_br = curves.resamples(20)
    under = curves.means(made_up(1, 0, 1), index_br)
    over = curves.means(made_up(3, 0, 2), index_br)
    found = curves.ratio_at(SIZES, over, under, 0.002)
    assert found is not None
    assert found.low < 3 < found.high
    assert found.value == pytest.approx(3, rel=0.1)
    assert found.high / found.low < 1.5
    slope = curves.estimate(curves.slopes(SIZES, over))
    assert slope.value == pytest.approx(-1, abs=0.05)
    assert slope.low < -1 < slope.high


def test_pairing_narrows_the_interval() -> None:
    """What all curves of a repetition share drops out of the ratio."""
    shared = np.exp(np.random.default_rng(3).normal(0, 1, size=(20, 1)))
    index_br = curves.resamples(20)
    under = curves.means(made_up(1, 0, 1) * shared, index_br)
    over = curves.means(made_up(2, 0, 2) * shared, index_br)
    found = curves.ratio_at(SIZES, over, under, float(under[0, 2]))
    alone = curves.estimate(curves.size_at(SIZES, under, float(under[0, 2])))
    assert found is not None
    assert found.low < 2 < found.high
    assert found.high / found.low < 1.5 < alone.high / alone.low


def test_a_floor_has_no_finite_size() -> None:
    index_br = curves.resamples(20)
    under, floor = (curves.means(made_up(1, f, 1), index_br) for f in (0, 0.01))
    found = curves.ratio_at(SIZES, floor, under, 0.001)
    assert found is not None
    assert found.value == found.low == found.high == np.inf
    assert curves.ratio_at(SIZES, under, floor, 0.001) is None
    assert np.isnan(curves.size_at(SIZES, under, 1.0)).all()


def test_interpolation_by_hand() -> None:
    curve = np.array([[0.1, 0.2, 0.001, 0.0005]])  # the rise is levelled to 0.1
    assert curves.size_at(SIZES, curve, 0.01)[0] == pytest.approx(800)
    assert curves.size_at(SIZES, curve, 0.001)[0] == pytest.approx(1600)


# --- program ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["--sizes", "64"],
        ["--sizes", "256", "128"],
        ["--sizes", "8", "128"],
        ["--repetitions", "1"],
        ["--from-json", "--out", "nowhere"],
    ],
)
def test_refusals_are_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        attention.parsed(words)
    assert stopped.value.code == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.split("error: ")[1].startswith(next(word for word in words if word[0] == "-"))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits of seconds that are not finished."""
    for name, value in {"STARTS": 2, "SHORT": 3, "ITERATIONS": 3, "FRESH": 200}.items():
        monkeypatch.setattr(attention, name, value)


@pytest.mark.usefixtures("short")
def test_page_picture_and_rendering_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    words = ["attention.py", "--sizes", "64", "128", "--repetitions", "3", "--out"]
    monkeypatch.setattr(sys, "argv", [*words, str(tmp_path / "a")])
    attention.main()
    content = json.loads((tmp_path / "a.json").read_text())
    assert list(content["results"]) == [one.name for one in attention.CROSSINGS]
    page = (tmp_path / "a.md").read_text()
    for name, found in content["results"].items():
        assert np.shape(found["excess"]) == (3, 2)
        line = next(line for line in page.splitlines() if line.startswith(f"| {name} |"))
        middle = np.exp(np.log(found["excess"]).mean(0))
        assert line.split(" | ")[1].startswith(f"{curves.number(float(middle[0]))} [")
    assert content["run"]["command"] in page
    assert content["run"]["digest"] == run_record.digest(["attention.py", "attention_fit.py"])
    (tmp_path / "a.md").unlink()
    monkeypatch.setattr(sys, "argv", [*words, str(tmp_path / "a"), "--from-json"])
    monkeypatch.setattr(attention, "simulate", None)
    attention.main()
    assert (tmp_path / "a.md").read_text() == page
    assert (tmp_path / "a.png").stat().st_size > 10_000


@pytest.mark.usefixtures("short")
def test_repetitions_are_reproducible_and_different() -> None:
    one, again, other = (attention.repetition([64, 128], 3, number) for number in (0, 0, 1))
    assert one == again
    assert one != other


def test_a_page_names_the_commit_only_of_the_code_that_computed_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = run_record.record("python x.py", ["curves.py"]) | {"minutes": 1.0}
    run |= {"commit": "aaaa", "changed": True}
    monkeypatch.setattr(run_record, "commit", lambda: ("bbbb", False))
    assert run_record.stated(run).startswith("Commit bbbb;")
    other = run | {"digest": "0" * 64}
    assert run_record.stated(other).startswith("Commit aaaa with uncommitted changes;")
    monkeypatch.setattr(run_record, "commit", lambda: ("bbbb", True))
    assert run_record.stated(run).startswith("Commit aaaa with uncommitted changes;")
