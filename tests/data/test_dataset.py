import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse.cut import Cut
from torch import Tensor

from asr.config import AugmentConfig, DataConfig, FeatureConfig, TokenizerConfig
from asr.data.audio.samples import AudioInfo
from asr.data.batches import DurationBatches
from asr.data.dataset import TrainingUtterances, Utterances, shuffled_givers
from asr.data.examples import Batch, collate
from asr.data.loader import Loader, iterate
from asr.data.sieve import NumFrames
from asr.data.store.index import FramesNeeded
from asr.data.store.preparation import Utterance, make_cut
from asr.errors import InputError
from asr.heads.ctc import Ctc, frames_needed
from asr.nn.features.kaldi import Fbank
from asr.nn.features.norm import GlobalNorm, estimate_norm
from asr.text.normalise import get_normaliser
from asr.text.tokenizer import TextProcessor, load_tokenizer, train_tokenizer

RATE = 8000
NORMALISER = get_normaliser("lowercase-apostrophe")
TOKENIZER = train_tokenizer(["abcdefghijklmnopqrstuvwxyz '"], TokenizerConfig(kind="char"))
PROCESSOR = TextProcessor(NORMALISER, TOKENIZER)
CTC: dict[str, FramesNeeded] = {"ctc": Ctc.frames_needed}
SPEEDS = AugmentConfig(speed_factors=[0.9, 1.0, 1.1])


def read(cuts: list[Cut]) -> Utterances:
    return Utterances(cuts, PROCESSOR, RATE)


def one_per_sample(num_samples: Tensor) -> Tensor:
    return num_samples


def write_cut(folder: Path, name: str, text: str, num_samples: int, speaker: str = "s1") -> Cut:
    path = folder / f"{name}.flac"
    rng = np.random.default_rng(num_samples)
    soundfile.write(path, rng.uniform(-0.5, 0.5, num_samples), RATE, subtype="PCM_16")
    return make_cut(Utterance(name, path, text, speaker), AudioInfo(num_samples, RATE, 1))


@pytest.fixture(scope="module")
def cuts(tmp_path_factory: pytest.TempPathFactory) -> list[Cut]:
    folder = tmp_path_factory.mktemp("audio")
    words = ["one", "two", "three", "four", "five", "six", "seven"]
    return [
        write_cut(folder, f"u{i}", f"{words[i % 7].upper()}, it's {words[i % 5]}!", 3000 + 517 * i)
        for i in range(12)
    ]


Build = Callable[..., TrainingUtterances]


@pytest.fixture(scope="module")
def build(cuts: list[Cut]) -> Build:
    def build_one(
        chosen: list[Cut] | None = None,
        *,
        data: DataConfig | None = None,
        augment: AugmentConfig | None = None,
        frames: NumFrames = one_per_sample,
        heads: dict[str, FramesNeeded] = CTC,
        seed: int = 1,
    ) -> TrainingUtterances:
        return TrainingUtterances(
            read(cuts if chosen is None else chosen),
            data or DataConfig(),
            augment or AugmentConfig(),
            seed,
            frames,
            heads,
        )

    return build_one


def assert_same(batches: list[Batch], others: list[Batch]) -> None:
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert batch.ids == other.ids
        assert batch.texts == other.texts
        assert torch.equal(batch.wave_bn, other.wave_bn)
        assert torch.equal(batch.tokens_bu, other.tokens_bu)


def test_items_are_the_files_samples_and_the_normalised_texts_tokens(
    build: Build, cuts: list[Cut]
) -> None:
    dataset = read(cuts)
    assert len(dataset) == len(cuts)
    assert build().sieve.left_out() == ()
    assert build().sieve.describe() == "no utterance left out"
    for index, cut in enumerate(cuts):
        example = dataset[0, index]
        wave_n, _ = soundfile.read(cut.recording.sources[0].source, dtype="float32")
        assert np.array_equal(example.wave_n, wave_n)
        assert example.id == cut.id
        assert example.speaker == "s1"
        assert example.text == NORMALISER(cut.supervisions[0].text)
        assert TOKENIZER.decode(example.tokens_u.tolist()) == example.text


def test_collate_pads_with_zeros(build: Build) -> None:
    dataset = build()
    examples = [dataset[0, index] for index in (3, 11, 0)]
    batch = collate(examples, RATE)
    assert batch.ids == ("u3", "u11", "u0")
    assert batch.wave_bn.dtype == torch.float32
    for tensor in (batch.wave_lens_b, batch.tokens_bu, batch.token_lens_b):
        assert tensor.dtype == torch.int64
    assert batch.wave_bn.shape == (3, 3000 + 517 * 11)
    assert batch.tokens_bu.shape == (3, max(len(example.tokens_u) for example in examples))
    for row, example in enumerate(examples):
        wave_len, token_len = int(batch.wave_lens_b[row]), int(batch.token_lens_b[row])
        assert np.array_equal(batch.wave_bn[row, :wave_len].numpy(), example.wave_n)
        assert (batch.wave_bn[row, wave_len:] == 0).all()
        assert batch.tokens_bu[row, :token_len].tolist() == example.tokens_u.tolist()
        assert (batch.tokens_bu[row, token_len:] == 0).all()
    assert batch.audio_s == pytest.approx(sum(len(e.wave_n) for e in examples) / RATE)
    moved = batch.to("cpu")
    assert_same([batch], [moved])
    assert len(moved) == 3


def test_speed_is_keyed_by_epoch_and_utterance_alone(build: Build, cuts: list[Cut]) -> None:
    dataset = build(augment=SPEEDS)
    backwards = build(cuts[::-1], augment=SPEEDS)
    for index in range(12):
        example = dataset[5, index]
        assert np.array_equal(example.wave_n, backwards[5, 11 - index].wave_n)
        expected = dataset.epoch_durations_s(5)[index] * RATE
        assert abs(len(example.wave_n) - expected) <= 1
    speeds = [dataset.durations_s / dataset.epoch_durations_s(epoch) for epoch in range(3)]
    assert set(np.round(speeds, 9).flat) == {0.9, 1.0, 1.1}
    assert not np.array_equal(dataset.epoch_durations_s(0), dataset.epoch_durations_s(1))
    assert np.array_equal(dataset.durations_s, build().durations_s)
    assert np.array_equal(dataset.longest_durations_s, dataset.durations_s / 0.9)


def test_the_default_augmentation_leaves_the_audio_as_it_is(build: Build, cuts: list[Cut]) -> None:
    dataset = build()
    assert np.array_equal(dataset.epoch_durations_s(0), dataset.durations_s)
    assert np.array_equal(dataset.longest_durations_s, dataset.durations_s)
    assert np.array_equal(dataset[4, 2].wave_n, read(cuts)[0, 2].wave_n)


@pytest.mark.parametrize("speeds", [[1.0], [0.9, 1.1]])
def test_silence_at_the_edges_moves_samples_and_changes_none(
    build: Build, cuts: list[Cut], speeds: list[float]
) -> None:
    """Oracle: the same utterance without silence, found by where the zeros end."""
    augment = AugmentConfig(speed_factors=speeds, edge_silence_s=0.5)
    dataset, plain = build(augment=augment), build(augment=AugmentConfig(speed_factors=speeds))
    backwards = build(cuts[::-1], augment=augment)
    edges_n: dict[int, list[tuple[int, int]]] = {}
    for epoch in range(8):
        planned_s = dataset.epoch_durations_s(epoch)
        assert planned_s.max() <= dataset.longest_durations_s.max()
        edges_n[epoch] = []
        for index in range(len(cuts)):
            found, expected = dataset[epoch, index], plain[epoch, index]
            spoken = np.flatnonzero(found.wave_n)
            before = int(spoken[0] - np.flatnonzero(expected.wave_n)[0])
            after = len(found.wave_n) - before - len(expected.wave_n)
            assert 0 <= min(before, after) <= max(before, after) <= 0.5 * RATE
            np.testing.assert_array_equal(found.wave_n, np.pad(expected.wave_n, (before, after)))
            assert len(found.wave_n) == pytest.approx(planned_s[index] * RATE, abs=2.5)
            assert found.text == expected.text
            assert np.array_equal(found.tokens_u, expected.tokens_u)
            # neither the order of the manifest nor what was read before matters
            assert np.array_equal(backwards[epoch, len(cuts) - 1 - index].wave_n, found.wave_n)
            edges_n[epoch].append((before, after))
    drawn_2n = np.array([edge for edges in edges_n.values() for edge in edges]).T
    # 96 on each side, 48 of them expected to be bare, standard deviation 5
    assert (drawn_2n == 0).sum(axis=1) == pytest.approx(48, abs=20)
    assert abs(np.corrcoef(drawn_2n)[0, 1]) < 0.4
    assert edges_n[0] != edges_n[1]
    assert np.array_equal(dataset.longest_durations_s, plain.longest_durations_s + 1.0)
    other_s = build(augment=AugmentConfig(edge_silence_s=0.5), seed=2).epoch_durations_s(0)
    assert not np.array_equal(
        other_s, build(augment=AugmentConfig(edge_silence_s=0.5)).epoch_durations_s(0)
    )


def test_hiss_lies_over_the_silence_at_the_edges(build: Build) -> None:
    dataset = build(augment=AugmentConfig(edge_silence_s=0.5, hiss_db=[-60.0, -60.0]))
    silent = build(augment=AugmentConfig(edge_silence_s=0.5))
    for index in range(len(dataset)):
        hiss_n = dataset[0, index].wave_n - silent[0, index].wave_n
        assert 20 * np.log10(hiss_n.std()) == pytest.approx(-60.0, abs=0.3)
        assert hiss_n.all()


def test_left_out_by_duration_and_text(build: Build, tmp_path: Path) -> None:
    chosen = [
        write_cut(tmp_path, "short", "hi", 100),
        write_cut(tmp_path, "good", "hi", 8000),
        write_cut(tmp_path, "long", "hi", 20000),
        write_cut(tmp_path, "mute", "?!", 8000),
    ]
    data = DataConfig(min_duration_s=0.1, max_duration_s=2.0)
    dataset = build(chosen, data=data)
    assert list(dataset.ids) == ["good"]
    assert [item.id for item in dataset.sieve.left_out()] == ["short", "long", "mute"]
    assert dataset.sieve.counts() == {
        "shorter than data.min_duration_s = 0.1": 1,
        "longer than data.max_duration_s = 2": 1,
        "no text after normalisation": 1,
    }
    assert "1 left out, longer than data.max_duration_s = 2 (first: long, 2.50 s)" in (
        dataset.sieve.describe()
    )
    assert list(read(chosen).ids) == ["short", "good", "long", "mute"]
    with pytest.raises(InputError, match="nothing to train on: 1 left out, shorter"):
        build(chosen[:1], data=data)


def test_left_out_where_ctc_has_too_few_frames(build: Build, tmp_path: Path) -> None:
    # "aab": three tokens and a blank between the equal ones.
    chosen = [write_cut(tmp_path, f"n{n}", "aab", n) for n in (3000, 3990, 4010, 5000)]

    def frames(num_samples: Tensor) -> Tensor:
        return num_samples // 1000

    dataset = build(chosen, frames=frames)
    assert list(dataset.ids) == ["n4010", "n5000"]
    assert dataset.sieve.counts() == {"too many tokens for its frames": 2}
    assert "4 frames needed, 2 there" in dataset.sieve.describe()
    # At the fastest speed an utterance has the fewest frames.
    dataset = build(chosen, frames=frames, augment=SPEEDS)
    assert list(dataset.ids) == ["n5000"]
    assert "4 frames needed, 3 there at speed 1.1" in dataset.sieve.left_out()[-1].detail
    for epoch in range(6):
        example = dataset[epoch, 0]
        assert len(example.wave_n) // 1000 >= frames_needed(example.tokens_u.tolist())


@pytest.mark.parametrize(
    ("heads", "kept"),
    [
        ({"free": lambda tokens: 0}, ["n2010", "n3010", "n4010"]),
        ({"each": len}, ["n3010", "n4010"]),
        ({"free": lambda tokens: 0, "each": len}, ["n3010", "n4010"]),
        ({"each": len, **CTC}, ["n4010"]),
    ],
)
def test_the_head_that_needs_most_frames_decides(
    heads: dict[str, FramesNeeded], kept: list[str], build: Build, tmp_path: Path
) -> None:
    chosen = [write_cut(tmp_path, f"n{n}", "aab", n) for n in (2010, 3010, 4010)]
    mute = write_cut(tmp_path, "mute", "?!", 4010)
    dataset = build([*chosen, mute], frames=lambda num_samples: num_samples // 1000, heads=heads)
    assert list(dataset.ids) == kept
    assert dataset.sieve.counts()["no text after normalisation"] == 1


def test_max_utterances_counts_those_kept(build: Build) -> None:
    data = DataConfig(min_duration_s=3200 / RATE, max_utterances=3)
    assert list(build(data=data).ids) == ["u1", "u2", "u3"]


def test_shuffled_texts_are_a_fixed_derangement_among_like_lengths() -> None:
    durations_s = np.random.default_rng(0).uniform(1, 20, 500)
    givers = shuffled_givers(durations_s, seed=1)
    assert sorted(givers) == list(range(500))
    assert (givers != np.arange(500)).all()
    assert np.array_equal(givers, shuffled_givers(durations_s, seed=1))
    assert not np.array_equal(givers, shuffled_givers(durations_s, seed=2))
    assert abs(durations_s[givers] - durations_s).max() < 5
    assert shuffled_givers(np.array([1.0, 2.0]), seed=3).tolist() == [1, 0]
    with pytest.raises(InputError, match="at least two"):
        shuffled_givers(np.array([1.0]), seed=1)


def test_shuffle_labels_moves_tokens_with_texts_and_only_in_training(
    build: Build, tmp_path: Path
) -> None:
    names = "abcdefghij"
    chosen = [write_cut(tmp_path, f"v{name}", name, 4000) for name in names]
    data = DataConfig(shuffle_labels=True)
    dataset = build(chosen, data=data)
    assert all(text != own for text, own in zip(dataset.texts, names, strict=True))
    assert sorted(dataset.texts) == list(names)
    for index, text in enumerate(dataset.texts):
        assert dataset[0, index].text == dataset[7, index].text == text
        assert TOKENIZER.decode(dataset[0, index].tokens_u.tolist()) == text
    assert list(read(chosen).texts) == list(names)


def test_who_gets_a_text_without_words_is_left_out_with_that_text(
    build: Build, tmp_path: Path
) -> None:
    chosen = [write_cut(tmp_path, name, text, 4000) for name, text in (("a", "?!"), ("b", "word"))]
    dataset = build(chosen, data=DataConfig(shuffle_labels=True))
    assert list(dataset.texts) == ["word"]
    assert [(item.id, item.detail) for item in dataset.sieve.left_out()] == [("b", "'?!'")]


def test_cache_never_changes_a_sample(tmp_path: Path) -> None:
    reads: list[str] = []
    # One MiB has room for u1, 2 bytes a sample, and u3, 4 bytes, then not for u0 and u4.
    num_samples = [60_000, 100_000, 4000, 200_000, 60_000]
    cuts = [write_cut(tmp_path, f"u{i}", "text", count) for i, count in enumerate(num_samples)]

    def load(cut: Cut, sample_rate: int) -> np.ndarray:
        reads.append(cut.id)
        wave_n, _ = soundfile.read(cut.recording.sources[0].source, dtype="float32")
        # No multiple of 1/32768, as after resampling: as int16 the next epoch would differ.
        return wave_n * np.float32(0.3) if cut.id == "u3" else wave_n

    def dataset(cache_mb: int) -> TrainingUtterances:
        every = Utterances(cuts, PROCESSOR, RATE, load)
        data = DataConfig(cache_mb=cache_mb)
        return TrainingUtterances(every, data, SPEEDS, 1, one_per_sample, CTC)

    plain, cached = dataset(0), dataset(1)
    order = (1, 3, 0, 4)
    expected = {(e, i): plain[e, i].wave_n for e in range(3) for i in order}
    reads.clear()
    for epoch in range(3):
        for index in order:
            assert np.array_equal(cached[epoch, index].wave_n, expected[epoch, index])
    assert [reads.count(f"u{i}") for i in range(5)] == [3, 1, 0, 1, 3]


def test_a_pickled_dataset_gives_the_same_items_without_its_cache(build: Build) -> None:
    dataset = build(augment=SPEEDS, data=DataConfig(cache_mb=1))
    before = dataset[1, 3]
    copy = pickle.loads(pickle.dumps(dataset))
    assert np.array_equal(copy[1, 3].wave_n, before.wave_n)
    assert copy._cache._waves == {}


def assert_one_line_about(error: InputError, name: str) -> None:
    assert name in str(error)
    assert "\n" not in str(error)
    assert "Traceback" not in str(error)


def test_workers_change_nothing_live_through_epochs_and_tell_what_they_cannot_read(
    build: Build, cuts: list[Cut], tmp_path: Path
) -> None:
    gone = write_cut(tmp_path, "gone", "text", 4000)
    (tmp_path / "gone.flac").unlink()
    dataset = build([*cuts, gone], augment=SPEEDS)
    plan = DurationBatches(dataset.durations_s[:-1], 4.0, 1)
    loader = Loader(dataset, num_workers=2)
    for epoch in range(2):
        batches = plan.epoch(epoch, dataset.epoch_durations_s(epoch)[:-1])
        here = list(iterate(dataset, batches, num_workers=0, epoch=epoch))
        assert_same(here, list(loader.epoch(epoch, batches)))
        assert [len(batch) for batch in here] == [len(batch) for batch in batches]
    batches = [np.array([0]), np.array([12, 1]), np.array([2])]
    failing = loader.epoch(2, batches)
    assert next(failing).ids == ("u0",)
    with pytest.raises(InputError) as caught:
        next(failing)
    assert_one_line_about(caught.value, "gone")


def test_unreadable_audio_is_one_line(build: Build, tmp_path: Path) -> None:
    dataset = build([write_cut(tmp_path, name, "text", 4000) for name in ("fine", "gone")])
    (tmp_path / "gone.flac").unlink()
    batches = iterate(dataset, [np.array([0]), np.array([1])])
    assert next(batches).ids == ("fine",)
    with pytest.raises(InputError) as caught:
        next(batches)
    assert_one_line_about(caught.value, "gone")


def test_real_speech_end_to_end() -> None:
    root = os.environ.get("SIGMOID_ASR_DATA")
    if not root:
        pytest.skip("SIGMOID_ASR_DATA is not set: no real speech here")
    folder = Path(root) / "librispeech-mini" / "LibriSpeech" / "dev-clean-mini"
    lines = []
    for path in sorted(folder.glob("*/*/*.trans.txt"))[:3]:
        for line in path.read_text().splitlines():
            name, text = line.split(" ", 1)
            lines.append((path.parent / f"{name}.flac", name, text))
    assert lines
    lines = lines[:16]
    cuts = []
    for path, name, text in lines:
        info = soundfile.info(path)
        utterance = Utterance(name, path, text, name.split("-")[0])
        cuts.append(make_cut(utterance, AudioInfo(info.frames, info.samplerate, 1)))
    texts = [NORMALISER(text) for _, _, text in lines]
    tokenizer = train_tokenizer(texts, TokenizerConfig(kind="bpe", vocab_size=100))
    fbank, norm = Fbank(FeatureConfig()), GlobalNorm(80)
    dataset = TrainingUtterances(
        Utterances(cuts, TextProcessor(NORMALISER, tokenizer), 16000),
        DataConfig(),
        AugmentConfig(),
        seed=1,
        num_frames=lambda num_samples: fbank.num_frames(num_samples) // 4,
        heads=CTC,
    )
    assert len(dataset) == len(cuts)
    plan = DurationBatches(dataset.durations_s, 60, 1, 120, dataset.ids)
    feats = [fbank(b.wave_bn, b.wave_lens_b) for b in iterate(dataset, plan.epoch(0))]
    mean_f, std_f = estimate_norm(feats)
    assert ((mean_f > 5) & (mean_f < 20)).all(), "log-mel energies of 16-bit speech"
    assert ((std_f > 1) & (std_f < 6)).all()
    norm.set_statistics(mean_f, std_f)
    normed = [norm(feats_btf, lens_b) for feats_btf, lens_b in feats]
    total = sum(int(lens_b.sum()) for _, lens_b in feats)
    mean_f = sum(feats_btf.sum((0, 1)) for feats_btf in normed) / total
    torch.testing.assert_close(mean_f, torch.zeros(80), rtol=0, atol=1e-3)


def test_a_saved_tokenizer_gives_the_dataset_the_same_tokens(
    cuts: list[Cut], tmp_path: Path
) -> None:
    TOKENIZER.save(tmp_path)
    again = Utterances(cuts, TextProcessor(NORMALISER, load_tokenizer(tmp_path)), RATE)
    for index, example in enumerate(read(cuts)[0, i] for i in range(len(cuts))):
        assert np.array_equal(again[0, index].tokens_u, example.tokens_u)
