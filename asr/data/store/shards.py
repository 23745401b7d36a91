"""A manifest's audio packed into tar shards, with a manifest that says where in them each cut lies.

A shard is an ordinary tar file of ordinary audio files. It is read by place, not from end to end, so
that batches are planned as from single files, any step can be the first, and a damaged shard costs
the utterances in its damaged part and no others.
"""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import re
import tarfile
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from lhotse import AudioSource, MonoCut, MultiCut, Recording
from lhotse.cut import Cut
from lhotse.cut.data import DataCut
from lhotse.utils import fastcopy
from tqdm import tqdm

from asr.data.audio.samples import AudioError, probe
from asr.data.store.index import CutTable, open_cuts
from asr.data.store.manifest import MANIFEST_SUFFIX, LeftOut, load_samples
from asr.data.store.members import STORES, Member
from asr.data.store.preparation import num_workers
from asr.errors import InputError
from asr.files import make_folder, unfinished

FORMATS = ("keep", "flac", "opus")
# libsndfile's Opus knows these rates and no others.
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
_TAR_BLOCK = 512
_PER_TASK = 16
# What would lead out of the folder that a shard is unpacked to, and % itself, so that names stay
# as different as ids.
_UNSAFE = re.compile(r"[%/\\\x00-\x1f\x7f]|^\.{1,2}$")


@dataclass(frozen=True)
class ShardReport:
    """What ``write_shards`` made."""

    cuts_path: Path
    num_shards: int
    num_bytes: int
    num_utterances: int
    left_out: tuple[LeftOut, ...]

    def lines(self) -> list[str]:
        """For the terminal."""
        lines = [
            f"{self.num_utterances} utterances in {self.num_shards} shards of "
            f"{self.num_bytes / 1e6:.1f} MB, {len(self.left_out)} left out -> {self.cuts_path}"
        ]
        return lines + [f"  left out: {item.id}: {item.detail}" for item in self.left_out]


@dataclass(frozen=True)
class _Packed:
    """A cut whose one source still has to be put in its place, and that source's bytes."""

    cut: Cut
    content: bytes
    suffix: str

    def at(self, member: Member) -> Cut:
        recording = self.cut.recording
        source = AudioSource("url", recording.channel_ids, str(member))
        return fastcopy(self.cut, recording=fastcopy(recording, sources=[source]))


def write_shards(
    manifest: Path,
    out: Path,
    *,
    audio_format: str = "keep",
    shard_bytes: int = 1 << 29,
    url: str = "",
    num_jobs: int = 0,
) -> ShardReport:
    """Packs a manifest's audio into ``out/NAME-000000.tar`` …, then writes ``out/NAME.cuts.jsonl.gz``.

    Args:
        audio_format: ``keep`` copies a cut that is a whole file byte for byte and makes FLAC of any
            other; ``flac`` (16 bits) and ``opus`` encode every cut.
        shard_bytes: a shard ends before it grows beyond this.
        url: where the shards will be found later, such as s3://bucket/folder; empty: where they
            are written.
        num_jobs: threads that read and encode; 0 is one per core.

    Raises:
        InputError: no such manifest, format or store, ``out`` holds such shards already or cannot be
            written to, or not a single cut can be read.
    """
    if audio_format not in FORMATS:
        raise InputError(f"format {audio_format!r}: choose one of {', '.join(FORMATS)}")
    name = manifest.name.removesuffix(MANIFEST_SUFFIX)
    cuts_path = out / f"{name}{MANIFEST_SUFFIX}"
    if cuts_path.exists():
        raise InputError(f"{cuts_path}: there already; remove it or choose another folder")
    if url and not Member(f"{url}/x", 0, 0).is_of_a_store():
        raise InputError(f"--url {url}: shards are read from {', '.join(sorted(STORES))} only")
    table = open_cuts([manifest])
    make_folder(out)
    prefix = f"{url.rstrip('/')}/" if url else f"{out.resolve()}{os.path.sep}"
    left_out: list[LeftOut] = []
    try:
        with (
            unfinished(cuts_path) as temporary,
            temporary.open("wb") as packed_file,
            # neither time nor name: the same cuts give the same bytes
            gzip.GzipFile("", "wb", fileobj=packed_file, mtime=0) as file,
        ):
            packed = _pack_all(table, audio_format, num_jobs, left_out)
            writer = _ShardWriter(out, name, prefix, shard_bytes)
            count = 0
            for count, cut in enumerate(writer.write(packed), start=1):  # noqa: B007
                line = json.dumps(cut.to_dict(), ensure_ascii=False) + "\n"
                file.write(line.encode())
            if count == 0:
                first = f"; first: {left_out[0].detail}" if left_out else ""
                raise InputError(f"{manifest}: not a single cut can be read{first}")
    except OSError as error:
        raise InputError(f"{out}: cannot write shards: {error.strerror}") from None
    return ShardReport(cuts_path, writer.num_shards, writer.num_bytes, count, tuple(left_out))


class _ShardWriter:
    def __init__(self, out: Path, name: str, prefix: str, shard_bytes: int) -> None:
        self._out, self._name, self._prefix = out, name, prefix
        self._shard_bytes = shard_bytes
        self.num_shards = 0
        self.num_bytes = 0

    def write(self, packed: Iterator[_Packed]) -> Iterator[Cut]:
        """Every cut with its place in a shard."""
        item = next(packed, None)
        while item is not None:
            shard = f"{self._name}-{self.num_shards:06d}.tar"
            with (
                unfinished(self._out / shard) as temporary,
                tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar,
            ):
                while item is not None and (tar.offset == 0 or self._fits(tar, item)):
                    yield item.at(self._add(tar, shard, item))
                    item = next(packed, None)
                self.num_bytes += tar.offset
            self.num_shards += 1

    def _fits(self, tar: tarfile.TarFile, item: _Packed) -> bool:
        return tar.offset + len(item.content) <= self._shard_bytes

    def _add(self, tar: tarfile.TarFile, shard: str, item: _Packed) -> Member:
        info = tarfile.TarInfo(_member_name(f"{item.cut.id}{item.suffix}"))
        info.size = len(item.content)
        tar.addfile(info, io.BytesIO(item.content))
        padded = -(-info.size // _TAR_BLOCK) * _TAR_BLOCK
        crc32 = zlib.crc32(item.content)
        return Member(f"{self._prefix}{shard}", tar.offset - padded, info.size, crc32)


def _member_name(name: str) -> str:
    """Percent-encode what would make a path of a name: ``a/b.flac`` becomes ``a%2Fb.flac``."""
    return _UNSAFE.sub(lambda found: "".join(f"%{ord(char):02X}" for char in found[0]), name)


def _pack_all(
    table: CutTable, audio_format: str, num_jobs: int, left_out: list[LeftOut]
) -> Iterator[_Packed]:
    """In the table's order, a few tasks ahead; what cannot be read goes to ``left_out``."""

    jobs = num_workers(num_jobs)
    bar = tqdm(total=len(table), desc="shards", unit="utt", disable=None)
    with ThreadPoolExecutor(jobs) as pool, bar:
        starts = iter(range(0, len(table), _PER_TASK))
        tasks = deque(
            pool.submit(_pack_some, table, at, audio_format) for at in _take(starts, jobs)
        )
        while tasks:
            results = tasks.popleft().result()
            tasks += [pool.submit(_pack_some, table, at, audio_format) for at in _take(starts, 1)]
            bar.update(len(results))
            left_out += [result for result in results if isinstance(result, LeftOut)]
            yield from (result for result in results if isinstance(result, _Packed))


def _take(starts: Iterator[int], count: int) -> Iterator[int]:
    return itertools.islice(starts, count)


def _pack_some(table: CutTable, start: int, audio_format: str) -> list[_Packed | LeftOut]:
    cuts = (table[index] for index in range(start, min(start + _PER_TASK, len(table))))
    results: list[_Packed | LeftOut] = []
    for cut in cuts:
        try:
            path = _whole_file(cut) if audio_format == "keep" else None
            if path is not None:
                results.append(_Packed(cut, _audio_bytes(path), path.suffix))
            else:
                results.append(_encode(cut, audio_format))
        except (AudioError, OSError) as error:
            reason = error.reason if isinstance(error, AudioError) else "missing audio"
            results.append(LeftOut(str(cut.id), reason, str(error)))
    return results


def _whole_file(cut: Cut) -> Path | None:
    """The file that holds this cut and nothing else, if there is one."""
    if not isinstance(cut, DataCut) or cut.recording is None:
        return None
    recording = cut.recording
    whole = cut.start == 0.0 and abs(cut.duration - recording.duration) < 1e-6
    if not whole or recording.transforms or len(recording.sources) != 1:
        return None
    source = recording.sources[0]
    return Path(source.source) if source.type == "file" else None


def _audio_bytes(path: Path) -> bytes:
    """A file's content, once it is known for audio: shards are passed on, and a manifest may name any
    file of this machine.

    Raises:
        AudioError: it is none.
    """
    if path.exists() and not path.is_file():
        raise AudioError(f"{path}: a folder, a pipe or a device, not an audio file")
    probe(path)
    return path.read_bytes()


def _encode(cut: Cut, audio_format: str) -> _Packed:
    samples_cn = load_samples(cut)
    rate, num_samples = int(cut.sampling_rate), samples_cn.shape[1]
    # libsndfile would scale floats by 32767; these are the 16-bit samples themselves.
    pcm_nc = np.rint(samples_cn.T * 32768.0).clip(-32768, 32767).astype(np.int16)
    written = io.BytesIO()
    if audio_format == "opus":
        if rate not in _OPUS_RATES:
            known = ", ".join(map(str, _OPUS_RATES))
            raise InputError(f"cut {cut.id}: opus knows {known} samples per second, not {rate}")
        soundfile.write(written, pcm_nc, rate, format="OGG", subtype="OPUS")
    else:
        soundfile.write(written, pcm_nc, rate, format="FLAC", subtype="PCM_16")
    channels = list(range(samples_cn.shape[0]))
    channel: int | list[int] = 0 if len(channels) == 1 else channels
    recording = Recording(
        id=cut.id,
        sources=[],
        sampling_rate=rate,
        num_samples=num_samples,
        duration=num_samples / rate,
        channel_ids=channels,
    )
    kind = MonoCut if len(channels) == 1 else MultiCut
    packed = kind(
        id=cut.id,
        start=0.0,
        duration=num_samples / rate,
        channel=channel,
        supervisions=[
            fastcopy(part, recording_id=cut.id, channel=channel) for part in cut.supervisions
        ],
        recording=recording,
    )
    return _Packed(packed, written.getvalue(), ".opus" if audio_format == "opus" else ".flac")
