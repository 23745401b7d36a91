import json
import random
import tarfile
import zlib
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile
from lhotse import AudioSource, CutSet, MonoCut, Recording, SupervisionSegment
from lhotse.cut import Cut
from lhotse.recipes.yesno import prepare_yesno

from asr import cli, config
from asr.config import TokenizerConfig
from asr.data.audio.samples import AudioError
from asr.data.dataset import Utterances
from asr.data.loader import Loader
from asr.data.store.manifest import load_waveform, read_cuts
from asr.data.store.members import Member
from asr.data.store.shards import write_shards
from asr.errors import InputError
from asr.text.normalise import get_normaliser
from asr.text.tokenizer import TextProcessor, train_tokenizer
from asr.train.run import train

RATE = 16000


def write_wave(path: Path, num_samples: int, num_channels: int = 1) -> Recording:
    rng = np.random.default_rng(num_samples)
    # a voice's frequencies, or Opus would keep nothing of it
    phases_nc = 2 * np.pi * np.cumsum(rng.uniform(150, 900, (num_samples, num_channels)), axis=0)
    soundfile.write(path, 0.5 * np.sin(phases_nc / RATE), RATE, subtype="PCM_16")
    return Recording.from_file(path)


def as_cut(name: str, recording: Recording, start: float, duration: float) -> Cut:
    channel = recording.channel_ids if recording.num_channels > 1 else 0
    segment = SupervisionSegment(name, recording.id, 0.0, duration, channel, text=f"text of {name}")
    if recording.num_channels > 1:
        return recording.to_cut().with_id(name)
    return MonoCut(name, start, duration, 0, supervisions=[segment], recording=recording)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Whole files (one of two channels), parts of a longer file, two cuts one after the other."""
    folder = tmp_path / "audio"
    folder.mkdir()
    cuts = []
    for number in range(8):
        recording = write_wave(folder / f"whole{number}.flac", 9000 + 800 * number)
        cuts.append(as_cut(f"whole{number}", recording, 0.0, recording.duration))
    long = write_wave(folder / "long.wav", 40000)
    cuts += [as_cut(f"part{i}", long, 0.5 * i, 0.75) for i in range(3)]
    cuts.append(write_wave(folder / "two.flac", 12000, 2).to_cut().with_id("two"))
    cuts.append(cuts[0].append(cuts[8]).with_id("mixed"))
    path = tmp_path / "some.cuts.jsonl.gz"
    CutSet.from_cuts(cuts).to_file(path)
    return path


def utterances(cuts: CutSet) -> Utterances:
    tokenizer = train_tokenizer(["text"], TokenizerConfig(kind="char"))
    return Utterances(cuts, TextProcessor(get_normaliser("none"), tokenizer), RATE)


def test_shards_are_tar_files_of_the_same_audio(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shards"
    command = ["shard", "--cuts", str(manifest), "--out", str(out), "--shard-mb", "0.06"]
    assert cli.main(command) == 0
    assert "13 utterances in" in capsys.readouterr().out
    cuts, packed = read_cuts(manifest), read_cuts(out / manifest.name)
    assert [cut.id for cut in packed] == [cut.id for cut in cuts]
    shards = sorted(out.glob("*.tar"))
    assert len(shards) > 2
    assert all(shard.stat().st_size <= 60_000 + 20 * 512 for shard in shards)
    for cut, same in zip(cuts, packed, strict=True):
        assert np.array_equal(load_waveform(same, RATE), load_waveform(cut, RATE))
        assert [part.text for part in same.supervisions] == [part.text for part in cut.supervisions]
        assert same.duration == cut.duration
        member = Member.parse(same.recording.sources[0])
        assert member is not None
        with tarfile.open(member.shard) as tar:
            (info,) = [info for info in tar if info.name.split(".")[0] == cut.id]
            assert (info.offset_data, info.size) == (member.offset, member.size)
            if cut.id.startswith(("whole", "two")):
                extracted = tar.extractfile(info)
                assert extracted is not None
                assert extracted.read() == Path(cut.recording.sources[0].source).read_bytes()
    assert cli.main(command) == 2, "what is there is not overwritten"
    assert "there already" in capsys.readouterr().err


def test_members_stay_in_the_folder_they_are_unpacked_to(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    recording = write_wave(tmp_path / "a.wav", 8000)
    bare.write_bytes((tmp_path / "a.wav").read_bytes())
    ids = ["plain-1_é.b", "/etc/cron.d/x", "../../x", "..%2F..%2Fx", "a\\..\\b", "a\nb", ".."]
    cuts = [as_cut(name, recording, 0.0, 0.5) for name in ids]
    # no suffix hides what the last id is
    cuts[-1] = as_cut("..", Recording.from_file(bare), 0.0, 0.5)
    manifest = tmp_path / "odd.cuts.jsonl.gz"
    CutSet.from_cuts(cuts).to_file(manifest)
    packed = read_cuts(write_shards(manifest, tmp_path / "out").cuts_path)
    assert [cut.id for cut in packed] == ids
    for cut in packed:
        assert load_waveform(cut, RATE).size == 8000
    with tarfile.open(tmp_path / "out" / "odd-000000.tar") as tar:
        names = tar.getnames()
    assert names[0] == "plain-1_é.b.wav"
    assert names[1:3] == ["%2Fetc%2Fcron.d%2Fx.wav", "..%2F..%2Fx.wav"]
    assert names[-1] == "%2E%2E"
    assert len(set(names)) == len(ids)
    assert not any(set(name) & set("/\\\n") for name in names)


def test_opus_keeps_length_and_sound(manifest: Path, tmp_path: Path) -> None:
    report = write_shards(manifest, tmp_path / "opus", audio_format="opus")
    originals = read_cuts(manifest)
    for cut, same in zip(originals, read_cuts(report.cuts_path), strict=True):
        wave_n, lossy_n = load_waveform(cut, RATE), load_waveform(same, RATE)
        assert lossy_n.shape == wave_n.shape
        assert np.corrcoef(wave_n, lossy_n)[0, 1] > 0.9
    flac = write_shards(manifest, tmp_path / "flac", audio_format="flac")
    for cut, same in zip(originals, read_cuts(flac.cuts_path), strict=True):
        assert np.array_equal(load_waveform(same, RATE), load_waveform(cut, RATE))


def test_stores_that_could_not_be_read_are_refused(manifest: Path, tmp_path: Path) -> None:
    for url in ("sftp://host/some", "simplecache::s3://bucket", "file:///tmp"):
        with pytest.raises(InputError, match=f"--url {url}: shards are read from abfs"):
            write_shards(manifest, tmp_path / "shards", url=url)
    assert not (tmp_path / "shards").exists()


def test_shards_behind_a_url(manifest: Path, tmp_path: Path) -> None:
    report = write_shards(manifest, tmp_path / "shards", url="memory://bucket/some/")
    store = fsspec.filesystem("memory")
    cuts, packed = read_cuts(manifest), read_cuts(report.cuts_path)
    with pytest.raises(InputError, match=r"cut whole0: shard memory://bucket/some/.*no such file"):
        load_waveform(packed["whole0"], RATE)
    for shard in (tmp_path / "shards").glob("*.tar"):
        store.pipe_file(f"/bucket/some/{shard.name}", shard.read_bytes())
    for cut, same in zip(cuts, packed, strict=True):
        assert np.array_equal(load_waveform(same, RATE), load_waveform(cut, RATE))


def test_a_damaged_shard_is_named_and_costs_what_was_in_it(manifest: Path, tmp_path: Path) -> None:
    report = write_shards(manifest, tmp_path / "shards", shard_bytes=100_000)
    shards = sorted((tmp_path / "shards").glob("*.tar"))
    packed = read_cuts(report.cuts_path)
    by_shard = {
        str(shard): [cut.id for cut in packed if str(shard) in cut.recording.sources[0].source]
        for shard in shards
    }
    assert len(by_shard[str(shards[0])]) > 2
    second = Member.parse(packed[by_shard[str(shards[0])][1]].recording.sources[0])
    assert second is not None
    with shards[0].open("r+b") as file:
        file.truncate(second.offset + second.size // 2)
    shards[1].unlink()
    lost = {*by_shard[str(shards[0])][1:], *by_shard[str(shards[1])]}
    loader = Loader(utterances(packed), max_unreadable=1.0)
    batches = list(loader.epoch(0, [np.arange(5), np.arange(5, len(packed))]))
    kept = [name for batch in batches for name in batch.ids]
    assert kept == [cut.id for cut in packed if cut.id not in lost]
    assert set(loader.left_out) == lost
    for name, item in loader.left_out.items():
        where, reason = (
            (shards[0], "truncated") if name in by_shard[str(shards[0])] else (shards[1], "missing")
        )
        assert item.reason == f"{reason} shard"
        assert str(where) in item.detail
    with pytest.raises(
        InputError, match=r"more than data.max_unreadable = 0.1 .*shard .*some-000001"
    ):
        list(Loader(utterances(packed), max_unreadable=0.1).epoch(0, [np.arange(13)]))


def test_what_cannot_be_packed_is_named_and_no_half_shard_is_left(
    manifest: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "audio"
    (folder / "whole3.flac").unlink()
    report = write_shards(manifest, tmp_path / "shards")
    assert [item.id for item in report.left_out] == ["whole3"]
    assert "whole3.flac" in report.lines()[1]
    assert len(read_cuts(report.cuts_path)) == report.num_utterances == 12
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"not a single cut can be read; first: .*whole0"):
        write_shards(manifest, tmp_path / "nothing")
    assert list((tmp_path / "nothing").iterdir()) == []
    with pytest.raises(InputError, match="no such manifest"):
        write_shards(tmp_path / "none.cuts.jsonl.gz", tmp_path / "nothing")
    with pytest.raises(InputError, match="choose one of keep, flac, opus"):
        write_shards(manifest, tmp_path / "nothing", audio_format="mp3")


def yesno_corpus(folder: Path) -> None:
    """Sixty files in the layout of Lhotse's recipe `yesno`: 8 kHz, the words in the name."""
    folder.mkdir()
    for number in range(60):
        bits = [number * 37 >> bit & 1 for bit in range(8)]
        time_n = np.arange(1200) / 8000
        tones = [np.sin(2 * np.pi * (900 if bit else 300) * time_n) for bit in bits]
        wave_n = 0.3 * np.concatenate(tones)
        soundfile.write(folder / f"{'_'.join(map(str, bits))}.wav", wave_n, 8000)


def train_yesno(folder: Path, cuts: Path, name: str, *settings: str) -> list[float]:
    """Two epochs; the losses of every step and both validations."""
    settings = (
        f"data.train=[{cuts}]",
        f"data.dev=[{folder}/test.cuts.jsonl.gz]",
        "encoder.num_layers=1",
        "encoder.dim=16",
        "encoder.ff_dim=16",
        "encoder.conv_kernel=3",
        "encoder.subsampling_channels=4",
        "tokenizer.kind=char",
        "train.global_batch_s=9",
        "train.max_batch_s=9",
        "train.epochs=2",
        "train.num_threads=1",
        "train.tensorboard=false",
        "train.log_steps=1",
        *settings,
    )
    train(config.load([], settings), folder / name)
    log = (folder / name / "log.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in log]
    return [record["loss"] for record in records if record["kind"] in ("train", "valid")]


def test_another_lhotse_recipe_trains_the_same_from_files_and_from_shards(tmp_path: Path) -> None:
    yesno_corpus(tmp_path / "waves_yesno")
    for part, sets in prepare_yesno(tmp_path / "waves_yesno").items():
        cuts = CutSet.from_manifests(**sets)
        cuts.to_file(tmp_path / f"{part}.cuts.jsonl.gz")
    files = tmp_path / "train.cuts.jsonl.gz"
    report = write_shards(files, tmp_path / "shards", shard_bytes=200000)
    assert (report.num_utterances, report.num_shards) == (30, 3)
    losses = train_yesno(tmp_path, files, "files")
    assert len(losses) == 2 * 4 + 2
    assert train_yesno(tmp_path, report.cuts_path, "shards") == losses
    # without one of three shards training goes on with what is left, or stops, as configured
    (tmp_path / "shards" / "train-000001.tar").unlink()
    left = train_yesno(tmp_path, report.cuts_path, "left", "data.max_unreadable=0.4")
    assert len(left) == len(losses)
    assert np.isfinite(left).all()
    assert left != losses
    with pytest.raises(InputError, match=r"train-000001\.tar: no such file"):
        train_yesno(tmp_path, report.cuts_path, "stops")


def test_the_same_shards_have_the_same_bytes(manifest: Path, tmp_path: Path) -> None:
    for name, num_jobs in (("a", 1), ("b", 3)):
        write_shards(manifest, tmp_path / name, url="memory://here", num_jobs=num_jobs)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "some-000000.tar",
        "some.cuts.jsonl.gz",
    ]
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_a_flipped_bit_of_a_shard_is_named_or_changes_nothing(
    manifest: Path, tmp_path: Path
) -> None:
    cuts = read_cuts(write_shards(manifest, tmp_path / "out").cuts_path)
    members = {cut.id: Member.parse(cut.recording.sources[0]) for cut in cuts}
    expected = {cut.id: load_waveform(cut, RATE) for cut in cuts}
    (shard,) = (tmp_path / "out").glob("*.tar")
    content = shard.read_bytes()
    rng = random.Random(1)
    num_named = 0
    for _ in range(40):
        place = rng.randrange(len(content))
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.randrange(8)
        shard.write_bytes(damaged)
        for cut in cuts:
            member = members[cut.id]
            assert member is not None
            if member.offset <= place < member.offset + member.size:
                num_named += 1
                with pytest.raises(
                    AudioError, match=rf"cut {cut.id}: shard {shard}: damaged: "
                ) as e:
                    load_waveform(cut, RATE)
                assert e.value.reason == "damaged shard"
            elif abs(member.offset - place) < 2000:  # its header, its neighbour
                np.testing.assert_array_equal(load_waveform(cut, RATE), expected[cut.id])
    assert num_named > 20


def test_members_without_a_sum_are_read(manifest: Path, tmp_path: Path) -> None:
    (cut, *_) = read_cuts(write_shards(manifest, tmp_path / "out").cuts_path)
    source = cut.recording.sources[0]
    member = Member.parse(source)
    assert member is not None
    assert member.crc32 == zlib.crc32(member.read())
    old, separator, _ = source.source.partition("&crc32=")
    assert separator
    found = Member.parse(AudioSource("url", [0], old))
    assert found == Member(member.shard, member.offset, member.size)
    assert found.read() == member.read()


@pytest.mark.parametrize(
    "place", ["offset=0&size=999999999999999999", "offset=999999999999&size=9"]
)
def test_a_member_that_is_larger_than_its_shard_is_not_given_room(
    tmp_path: Path, place: str
) -> None:
    (tmp_path / "a.tar").write_bytes(bytes(100))
    member = Member.parse(AudioSource("url", [0], f"{tmp_path}/a.tar#{place}"))
    assert member is not None
    with pytest.raises(AudioError, match=r"a\.tar: truncated"):
        member.read()
