import numpy as np
import pytest

from asr.data.batches import DurationBatches
from asr.data.draws import stable_hash
from asr.data.mixing import Mixture
from asr.errors import InputError


def corpora(*sizes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys, durations and corpus numbers; every corpus has lengths of its own."""
    count = sum(sizes)
    keys = [stable_hash(f"u{i}") & (1 << 64) - 1 for i in range(count)]
    sources = np.repeat(np.arange(len(sizes)), sizes)
    durations_s = np.random.default_rng(0).uniform(2, 6, count) * (1 + sources)
    return np.array(keys, dtype=np.uint64), durations_s, sources


def test_shares_of_audio_are_the_weights_and_everything_is_played() -> None:
    keys, durations_s, sources = corpora(1000, 300, 50)
    weights = [1.0, 1.0, 2.0]
    mixture = Mixture(keys, durations_s, sources, weights, seed=1)
    epochs = [mixture.indices(epoch) for epoch in range(60)]
    played = np.concatenate(epochs)
    played_s = np.bincount(sources[played], durations_s[played])
    assert played_s / played_s.sum() == pytest.approx(np.array(weights) / 4, rel=0.02)
    # the smallest corpus has the largest weight: whole in every epoch
    assert all((sources[indices] == 2).sum() == 50 for indices in epochs)
    for indices in epochs:
        assert len(np.unique(indices)) == len(indices) >= mixture.least
    # of each corpus as many in every epoch, and each utterance as often as any other, up to one
    for corpus in (0, 1):
        sizes = [int((sources[indices] == corpus).sum()) for indices in epochs]
        assert max(sizes) - min(sizes) <= 1
        counts = np.bincount(played, minlength=len(keys))[sources == corpus]
        assert counts.max() - counts.min() <= 1
        assert counts.min() >= 1


def test_an_epoch_is_a_function_of_its_number_and_the_seed() -> None:
    keys, durations_s, sources = corpora(400, 40)
    mixture = Mixture(keys, durations_s, sources, [1, 1], seed=1)
    again = Mixture(keys, durations_s, sources, [10, 10], seed=1)
    assert np.array_equal(mixture.indices(1000), again.indices(1000))
    other = Mixture(keys, durations_s, sources, [1, 1], seed=2)
    assert not np.array_equal(mixture.indices(3), other.indices(3))
    # which part comes when has nothing to do with the order of the manifest
    first = mixture.indices(0)
    places = np.flatnonzero(sources == 0)
    drawn = np.isin(places, first)
    assert abs(np.corrcoef(drawn, places)[0, 1]) < 0.2


def test_steps_of_a_mixture() -> None:
    keys, durations_s, sources = corpora(900, 100)
    mixture = Mixture(keys, durations_s, sources, [1, 3], seed=1)
    batches = DurationBatches(durations_s, 60, 1, 120, mixture=mixture)
    for epoch in (0, 7):
        plan = batches.plan(epoch)
        assert len(plan) == batches.num_steps
        seen = np.concatenate([plan.utterances(step) for step in range(len(plan))])
        assert np.array_equal(np.sort(seen), mixture.indices(epoch))
        audio_s = [durations_s[plan.utterances(step)].sum() for step in range(len(plan))]
        assert 90 < min(audio_s) <= max(audio_s) < 150
    assert batches.waste < 0.08


def test_bad_weights() -> None:
    keys, durations_s, sources = corpora(10, 10)
    for weights in ([1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [1.0, 1.0, 1.0]):
        with pytest.raises(
            InputError, match=r"data\.train_weights = .*one number above 0 for each"
        ):
            Mixture(keys, durations_s, sources, weights, seed=1)
