import gzip
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.testing.dummies import dummy_cut, dummy_supervision

from asr.config import AugmentConfig, DataConfig, TokenizerConfig
from asr.data.batches import DurationBatches
from asr.data.dataset import TrainingUtterances, Utterances
from asr.data.store import index as index_module
from asr.data.store.index import NO_TEXT, CutIndex, CutList, build_index, open_cuts
from asr.errors import InputError
from asr.heads.ctc import Ctc
from asr.text.normalise import get_normaliser
from asr.text.tokenizer import TextProcessor, train_tokenizer

TEXTS = ["Hello there", "aab", "?!", "moon soon", "Ünïcode"]
NORMALISER = get_normaliser("lowercase-apostrophe")
TOKENIZER = train_tokenizer(["hello there moon soon aab"], TokenizerConfig(kind="char"))
PROCESSOR = TextProcessor(NORMALISER, TOKENIZER)
CTC = ("ctc", Ctc.frames_needed)


def make_cuts(count: int = 12, offset: int = 0) -> list[Cut]:
    cuts = []
    for number in range(offset, offset + count):
        text, speaker = TEXTS[number % len(TEXTS)], f"speaker{number % 3}"
        supervision = dummy_supervision(number, duration=1.0 + number, text=text)
        supervision.speaker = speaker
        cut = dummy_cut(number, duration=1.0 + number, supervisions=[supervision])
        cut.recording.sources[0].type = "file"  # Lhotse's dummy is a command
        cuts.append(cut)
    # a MixedCut has neither duration nor supervisions of its own in the manifest
    cuts[3] = cuts[3].append(cuts[4]).with_id("mixed")
    return cuts


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "part.cuts.jsonl.gz"
    CutSet.from_cuts(make_cuts()).to_file(path)
    return path


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl", "a.json"])
def test_an_index_holds_what_lhotse_reads(tmp_path: Path, name: str) -> None:
    CutSet.from_cuts(make_cuts()).to_file(tmp_path / name)
    cuts = list(CutSet.from_file(tmp_path / name))
    table = CutIndex(build_index(tmp_path / name, tmp_path))
    assert list(table) == cuts
    assert table[7] == cuts[7]
    assert table.durations_s.tolist() == [cut.duration for cut in cuts]
    in_memory = CutList(cuts)
    assert np.array_equal(table.keys, in_memory.keys)
    assert len(np.unique(table.keys)) == len(cuts)
    assert np.array_equal(table.speaker_keys, in_memory.speaker_keys)
    assert len(np.unique(table.speaker_keys)) == 3
    texts = [" ".join(part.text for part in cut.supervisions) for cut in cuts]
    assert [table.text(i) for i in range(len(table))] == texts
    assert texts[3] == "moon soon Ünïcode"


def test_an_index_is_made_once_and_again_when_the_manifest_changes(manifest: Path) -> None:
    first = build_index(manifest, manifest.parent)
    made = (first / "lines.jsonl").stat().st_mtime_ns
    assert build_index(manifest, manifest.parent) == first
    assert (first / "lines.jsonl").stat().st_mtime_ns == made
    CutSet.from_cuts(make_cuts(5)).to_file(manifest)
    second = build_index(manifest, manifest.parent)
    assert len(CutIndex(second)) == 5
    # nothing is left of the old one, nor of the making
    assert sorted(manifest.parent.iterdir()) == sorted([manifest, second])


def test_several_that_make_an_index_at_once_make_one(manifest: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: build_index(manifest, manifest.parent), range(4)))
    assert len(set(made)) == 1
    assert sorted(manifest.parent.iterdir()) == sorted([manifest, made[0]])


def test_a_pickled_index_is_its_folder(manifest: Path) -> None:
    table = CutIndex(build_index(manifest, manifest.parent))
    pickled = pickle.dumps(table)
    assert len(pickled) < 500
    assert list(pickle.loads(pickled)) == list(table)


def test_small_and_large_manifests_as_one(
    manifest: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "other.cuts.jsonl.gz"
    CutSet.from_cuts(make_cuts(40, offset=100)).to_file(other)
    eager = [*CutSet.from_file(manifest), *CutSet.from_file(other)]
    between = (manifest.stat().st_size + other.stat().st_size) // 2
    monkeypatch.setattr(index_module, "INDEX_ABOVE_BYTES", between)
    folder = tmp_path / "indices"
    table = open_cuts([manifest, str(other)], folder)
    assert [path.name.split(".index")[0] for path in folder.iterdir()] == [other.name]
    assert list(table) == eager
    assert table.starts.tolist() == [0, 12]
    chosen = table.select(np.array([13, 2, 11, 12]))
    assert list(chosen) == [eager[i] for i in (13, 2, 11, 12)]
    assert chosen.text(1) == "?!"
    assert chosen.durations_s.tolist() == [eager[i].duration for i in (13, 2, 11, 12)]
    needed = table.frames_needed(*CTC, PROCESSOR)
    assert np.array_equal(chosen.frames_needed(*CTC, PROCESSOR), needed[[13, 2, 11, 12]])


def test_frames_that_ctc_needs_by_hand_and_from_the_cache(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = CutIndex(build_index(manifest, manifest.parent))
    # "hello there": 11 and one blank; "aab": 3 + 1; nothing; "moon soon" 9 + 2 ("mixed" has more)
    expected = [12, 4, NO_TEXT]
    assert table.frames_needed(*CTC, PROCESSOR)[:3].tolist() == expected
    assert table.frames_needed(*CTC, PROCESSOR)[8] == 11
    other = train_tokenizer(["hello there aab"] * 9, TokenizerConfig(kind="bpe", vocab_size=14))
    coarser = table.frames_needed(*CTC, TextProcessor(NORMALISER, other))
    assert coarser[0] < 12
    asked: list[int] = []
    real = CutIndex.text
    monkeypatch.setattr(
        CutIndex, "text", lambda self, index: asked.append(index) or real(self, index)
    )
    monkeypatch.setattr(index_module, "_PROBED_TEXTS", 1)
    table.frames_needed(*CTC, PROCESSOR)
    asked.clear()
    assert table.frames_needed(*CTC, PROCESSOR)[:3].tolist() == expected
    assert asked == [0], "only the probe is read"


def test_counts_of_a_head_lie_in_a_file_of_its_own_and_ctcs_where_they_always_lay(
    manifest: Path,
) -> None:
    table = CutIndex(build_index(manifest, manifest.parent))
    table.frames_needed(*CTC, PROCESSOR)
    (of_ctc,) = table.folder.glob("*-frames-*")
    assert of_ctc.name == "ctc-frames-49df2bfc2a669b3463d7403a3c56ffc5.npy"
    expected = [11, 3, NO_TEXT]  # "hello there", "aab", nothing
    assert table.frames_needed("other", len, PROCESSOR)[:3].tolist() == expected
    # a head that is changed is asked again
    twice = table.frames_needed("other", lambda tokens: 2 * len(tokens), PROCESSOR)
    assert twice[:3].tolist() == [22, 6, NO_TEXT]
    assert table.frames_needed("other", len, PROCESSOR)[:3].tolist() == expected
    names = sorted(path.name.split("-")[0] for path in table.folder.glob("*-frames-*"))
    assert names == ["ctc", "other", "other"]


def test_training_from_an_index_is_training_from_memory_and_reads_only_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "many.cuts.jsonl.gz"
    CutSet.from_cuts(make_cuts(400)).to_file(path)

    def utterances(table: CutList | CutIndex) -> TrainingUtterances:
        return TrainingUtterances(
            Utterances(table, PROCESSOR, 16000),
            DataConfig(max_duration_s=300.0, min_duration_s=2.5),
            AugmentConfig(speed_factors=[0.9, 1.0, 1.1]),
            seed=1,
            num_frames=lambda num_samples: num_samples // 16000,
            heads=dict([CTC]),
        )

    eager = utterances(CutList(CutSet.from_file(path)))
    build = CutIndex(build_index(path, tmp_path))
    build.frames_needed(*CTC, PROCESSOR)
    read: list[str] = []
    real = index_module.deserialize_item
    monkeypatch.setattr(
        index_module, "deserialize_item", lambda item: read.append(item["id"]) or real(item)
    )
    lazy = utterances(CutIndex(build.folder))
    batches = DurationBatches(lazy.durations_s, 400, 1, 1000)
    last = len(batches.plan(3)) - 1
    step = batches.plan(3, lazy.epoch_durations_s(3))[last]
    # two texts are read for "mixed", whose supervisions lie in its tracks
    assert set(read) <= {"mixed"}
    assert lazy.ids[int(step[0][0])] == read[-1]
    same = DurationBatches(eager.durations_s, 400, 1, 1000).plan(3, eager.epoch_durations_s(3))
    assert [batch.tolist() for batch in step] == [batch.tolist() for batch in same[last]]
    assert list(lazy.ids) == list(eager.ids)
    assert list(lazy.texts) == list(eager.texts)
    assert lazy.sieve.left_out() == eager.sieve.left_out()
    assert lazy.sieve.counts().keys() == {
        "shorter than data.min_duration_s = 2.5",
        "longer than data.max_duration_s = 300",
        "no text after normalisation",
        "too many tokens for its frames",
    }
    assert lazy.num_speakers == 3


def test_bad_manifests_leave_nothing_behind(tmp_path: Path) -> None:
    def refused(content: bytes, name: str, message: str) -> None:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            build_index(path, tmp_path / "indices")
        assert list((tmp_path / "indices").iterdir()) == []

    line = json.dumps(make_cuts(1 + 4)[0].to_dict()).encode() + b"\n"
    refused(line + line, "twice.jsonl", "two cuts have the id 'dummy-mono-cut-0000'")
    refused(line + b"{]\n", "broken.jsonl", "line 2 is not a Lhotse cut")
    refused(line + b'{"id": "x"}\n', "other.jsonl", "line 2 is not a Lhotse cut")
    refused(b"\n", "empty.jsonl", "no cuts in it")
    refused(gzip.compress(line * 99)[:-20], "short.jsonl.gz", "cannot be read as a manifest")
    (tmp_path / "file").write_text("")
    (tmp_path / "good.jsonl").write_bytes(line)
    with pytest.raises(InputError, match=r"cannot write an index here.*data\.index_folder"):
        build_index(tmp_path / "good.jsonl", tmp_path / "file")
