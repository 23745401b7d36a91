from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, Recording

from asr.config import AugmentConfig
from asr.data.noise import Surroundings, add_noise, reverberate
from asr.errors import InputError

RATE = 8000


def speech(num_samples: int = 8000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, num_samples).astype(np.float32)


def manifest(path: Path, waves: list[np.ndarray], rate: int = RATE) -> str:
    cuts = []
    for number, wave_n in enumerate(waves):
        audio = path.with_name(f"{path.stem}{number}.wav")
        soundfile.write(audio, wave_n, rate, subtype="FLOAT")
        cuts.append(Recording.from_file(audio).to_cut())
    CutSet.from_cuts(cuts).to_file(path)
    return str(path)


def snr_db(clean_n: np.ndarray, noisy_n: np.ndarray) -> float:
    clean_n, noisy_n = clean_n.astype(np.float64), noisy_n.astype(np.float64)
    return 10 * np.log10(np.sum(clean_n**2) / np.sum((noisy_n - clean_n) ** 2))


@pytest.mark.parametrize("wanted_db", [-5.0, 0.0, 12.5, 30.0])
def test_the_ratio_is_the_one_asked_for(wanted_db: float) -> None:
    clean_n = speech()
    noisy_n = add_noise(clean_n, 7 * speech(seed=1), wanted_db)
    assert noisy_n.dtype == np.float32
    assert snr_db(clean_n, noisy_n) == pytest.approx(wanted_db, abs=1e-3)
    silence_n = np.zeros(8000, dtype=np.float32)
    assert add_noise(clean_n, silence_n, wanted_db) is clean_n
    assert add_noise(silence_n, clean_n, wanted_db) is silence_n


@pytest.mark.parametrize(("num_samples", "num_taps"), [(3000, 900), (500, 2000), (1, 50), (257, 1)])
def test_a_room_is_a_convolution_from_its_direct_path_on(num_samples: int, num_taps: int) -> None:
    rng = np.random.default_rng(num_samples)
    wave_n = speech(num_samples)
    delay = min(37, num_taps - 1)
    response_n = rng.normal(0, 0.2, num_taps) * np.exp(-np.arange(num_taps) / 100)
    response_n[delay] = -1.5  # the highest peak, of either sign
    full = np.convolve(wave_n.astype(np.float64), response_n)[delay:][:num_samples]
    full = np.pad(full, (0, num_samples - len(full)))
    expected_n = full * np.sqrt(np.sum(wave_n.astype(np.float64) ** 2) / np.sum(full**2))
    heard_n = reverberate(wave_n, response_n.astype(np.float32))
    assert heard_n.shape == wave_n.shape
    assert heard_n.dtype == np.float32
    np.testing.assert_allclose(heard_n, expected_n, atol=1e-6)


def test_a_click_stays_where_it_was() -> None:
    wave_n = np.zeros(4000, dtype=np.float32)
    wave_n[1234] = 0.5
    response_n = np.zeros(900, dtype=np.float32)
    response_n[[300, 420]] = 1.0, 0.6
    heard_n = reverberate(wave_n, response_n)
    assert np.argsort(np.abs(heard_n))[-2:].tolist() == [1234 + 120, 1234]


def test_draws_are_keyed_by_seed_epoch_and_utterance(tmp_path: Path) -> None:
    noises = [speech(num_samples, seed=9 + num_samples) for num_samples in (3000, 40000)]
    config = AugmentConfig(
        noises=[manifest(tmp_path / "noise.jsonl", noises)],
        noise_probability=0.75,
        noise_snr_db=[5.0, 15.0],
    )
    clean_n = speech()
    surroundings = Surroundings(config, RATE, seed=1)
    names = [f"u{i}" for i in range(200)]
    noisy = {name: surroundings(clean_n, 3, name) for name in names}
    again = Surroundings(config, RATE, seed=1)
    for name in names[::-7]:
        assert np.array_equal(again(clean_n, 3, name), noisy[name])
    changed = [name for name in names if not np.array_equal(noisy[name], clean_n)]
    assert 120 < len(changed) < 180  # 150 expected, standard deviation 6
    ratios_db = np.array([snr_db(clean_n, noisy[name]) for name in changed])
    assert 5 <= ratios_db.min() < 6
    assert 14 < ratios_db.max() <= 15.001
    assert len({noisy[name].tobytes() for name in changed}) == len(changed)
    for other in (
        Surroundings(config, RATE, seed=2)(clean_n, 3, changed[0]),
        surroundings(clean_n, 4, changed[0]),
    ):
        assert not np.array_equal(other, noisy[changed[0]])


def test_a_noise_is_a_stretch_of_its_recording_or_repeated(tmp_path: Path) -> None:
    clean_n = speech(4000)
    for length in (1500, 20000):
        ramp_n = np.linspace(0.1, 0.9, length, dtype=np.float32)
        config = AugmentConfig(
            noises=[manifest(tmp_path / f"ramp{length}.jsonl", [ramp_n])], noise_probability=1.0
        )
        surroundings = Surroundings(config, RATE, seed=1)
        starts = set()
        for name in map(str, range(8)):
            added_n = surroundings(clean_n, 0, name).astype(np.float64) - clean_n
            steps_n = np.diff(added_n)
            slope = np.median(steps_n)
            jumps = np.flatnonzero(np.abs(steps_n - slope) > 10 * slope)
            assert jumps.tolist() == ([] if length == 20000 else [1499, 2999])
            starts.add(round(added_n[0] / slope))
        # one that is long enough begins somewhere else each time
        assert len(starts) == (8 if length == 20000 else 1)


def test_hiss_has_the_levels_asked_for_and_is_white() -> None:
    config = AugmentConfig(hiss_db=[-80.0, -40.0])
    hiss = Surroundings(config, RATE, seed=1)
    silence_n = np.zeros(20_000, dtype=np.float32)
    levels_db, spectrum = [], np.zeros(100)
    for name in map(str, range(200)):
        heard_n = hiss(silence_n, 0, name)
        assert heard_n.dtype == np.float32
        levels_db.append(20 * np.log10(heard_n.std()))
        power = np.abs(np.fft.rfft(heard_n / heard_n.std()))[1:] ** 2
        spectrum += power.reshape(100, -1).mean(axis=1) / len(heard_n)
    assert np.histogram(levels_db, bins=4, range=(-80, -40))[0] == pytest.approx(50, abs=20)
    assert spectrum / 200 == pytest.approx(1, rel=0.05)
    # over speech it is the same, and a function of seed, epoch and utterance alone
    wave_n = speech(20_000)
    added_n = hiss(wave_n, 3, "u") - wave_n
    np.testing.assert_allclose(added_n, hiss(silence_n, 3, "u"), atol=1e-6)
    for other in (hiss(silence_n, 4, "u"), Surroundings(config, RATE, seed=2)(silence_n, 3, "u")):
        assert abs(np.corrcoef(other, added_n)[0, 1]) < 0.05


def test_some_utterances_get_no_hiss() -> None:
    hiss = Surroundings(AugmentConfig(hiss_db=[-60.0, -60.0], hiss_probability=0.25), RATE, seed=1)
    silence_n = np.zeros(50, dtype=np.float32)
    hissing = [hiss(silence_n, 0, name).any() for name in map(str, range(400))]
    assert sum(hissing) == pytest.approx(100, abs=40)  # standard deviation 9
    assert hissing != [hiss(silence_n, 1, name).any() for name in map(str, range(400))]


def test_a_response_of_several_microphones_and_another_rate(tmp_path: Path) -> None:
    response_n2 = np.zeros((1600, 2), dtype=np.float32)
    response_n2[400, 0], response_n2[100, 1] = 1.0, 1.0
    rooms = [manifest(tmp_path / "rooms.jsonl", [response_n2], rate=2 * RATE)]
    config = AugmentConfig(rooms=rooms, room_probability=1.0)
    # speech without its highest frequencies, which resampling a click takes away
    wave_n = np.convolve(speech(), np.hanning(9), "same").astype(np.float32)
    heard_n = Surroundings(config, RATE, seed=1)(wave_n, 0, "u")
    # the first microphone heard one click: nothing but the resampler's filter is left of the room
    assert snr_db(wave_n, heard_n) > 40


def test_a_missing_manifest_is_told_at_the_start(tmp_path: Path) -> None:
    config = AugmentConfig(noises=[str(tmp_path / "none.jsonl")])
    with pytest.raises(InputError, match="no such manifest"):
        Surroundings(config, RATE, seed=1)
