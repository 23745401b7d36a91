"""Speech of several folders in one small file, and back into samples.

    python tools/speech_pack.py --out OUT --kbit 11 train=FOLDER train=FOLDER dev=FOLDER

FOLDER is laid out as LibriSpeech's parts are. OUT gets `speech.bin` (each utterance an Ogg Opus
stream, one after another) and `speech.json` (part, id, speaker, text, samples, place). Encoding needs
PyAV; reading back needs soundfile and soxr only, and uses all cores.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

RATE = 16000


def utterances(folder: Path) -> list[tuple[Path, str]]:
    """(audio file, text) of a part, in the order of the names."""
    found = []
    for transcripts in sorted(folder.rglob("*.trans.txt")):
        for row in transcripts.read_text(encoding="utf-8").splitlines():
            name, text = row.split(maxsplit=1)
            (path,) = transcripts.parent.glob(f"{name}.*")
            found.append((path, text))
    return found


def encode(path: Path, kbit: float) -> tuple[bytes, int]:
    """An Ogg Opus stream of a file's samples, and how many those are; few pages, long packets."""
    import av  # where speech is packed only

    wave_n, rate = soundfile.read(path, dtype="float32")
    if rate != RATE or wave_n.ndim != 1:
        raise ValueError(f"{path}: got {rate} Hz, shape {wave_n.shape}; expected {RATE} Hz, mono")
    kept = io.BytesIO()
    with av.open(kept, "w", format="ogg", options={"page_duration": "20000000"}) as file:
        stream = file.add_stream("libopus", rate=RATE, layout="mono")
        stream.bit_rate = int(1000 * kbit)
        stream.options = {
            "frame_duration": "60",
            "application": "voip",
            "vbr": "on",
            "compression_level": "4",
        }
        stream.time_base = Fraction(1, RATE)
        size = 960
        padded_n = np.pad(wave_n, (0, -len(wave_n) % size))
        for start in range(0, len(padded_n), size):
            frame = av.AudioFrame.from_ndarray(
                padded_n[None, start : start + size], format="flt", layout="mono"
            )
            frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
            for packet in stream.encode(frame):
                file.mux(packet)
        for packet in stream.encode(None):
            file.mux(packet)
    return kept.getvalue(), len(wave_n)


def pack(out: Path, parts: Sequence[tuple[str, Path]], kbit: float) -> None:
    out.mkdir(parents=True, exist_ok=True)
    rows, place = [], 0
    with (out / "speech.bin").open("wb") as file:
        for part, folder in parts:
            for path, text in utterances(folder):
                content, num_samples = encode(path, kbit)
                file.write(content)
                speaker = path.name.split("-")[0]
                rows.append([part, path.stem, speaker, text, num_samples, place, len(content)])
                place += len(content)
            print(
                f"{part} {folder.name}: {len(rows)} utterances, {place / 2**20:.1f} MiB", flush=True
            )
    columns = ["part", "id", "speaker", "text", "samples", "place", "bytes"]
    (out / "speech.json").write_text(json.dumps({"columns": columns, "rows": rows}) + "\n")


def index(folder: Path, part: str) -> list[dict[str, Any]]:
    """The rows of a part."""
    content = json.loads((folder / "speech.json").read_text())
    rows = [dict(zip(content["columns"], row, strict=True)) for row in content["rows"]]
    return [row for row in rows if row["part"] == part]


def _decode_some(job: tuple[Path, list[tuple[int, int, int]], tuple[float, ...]]) -> list[Any]:
    import soxr

    packed, places, speeds = job
    found = []
    with packed.open("rb") as file:
        for place, size, num_samples in places:
            file.seek(place)
            wave_n, rate = soundfile.read(io.BytesIO(file.read(size)), dtype="float32")
            if rate != RATE:
                wave_n = soxr.resample(wave_n, rate, RATE)
            wave_n = wave_n[:num_samples]
            played = [
                wave_n if speed == 1.0 else soxr.resample(wave_n, RATE * speed, RATE)
                for speed in speeds
            ]
            found.append([np.rint(w.clip(-1, 1) * 32767).astype(np.int16) for w in played])
    return found


def decode(
    folder: Path, rows: list[dict[str, Any]], speeds: tuple[float, ...], processes: int
) -> list[list[np.ndarray]]:
    """int16 samples by speed, then by utterance."""
    places = [(row["place"], row["bytes"], row["samples"]) for row in rows]
    size = max(1, min(64, len(places) // (4 * processes) + 1))
    jobs = [
        (folder / "speech.bin", places[start : start + size], speeds)
        for start in range(0, len(places), size)
    ]
    if processes == 1:
        decoded = [_decode_some(job) for job in jobs]
    else:
        with ProcessPoolExecutor(processes) as pool:
            decoded = list(pool.map(_decode_some, jobs))
    return [list(column) for column in zip(*(row for some in decoded for row in some), strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kbit", type=float, default=11.0)
    parser.add_argument("parts", nargs="+", metavar="PART=FOLDER")
    args = parser.parse_args()
    parts = [(text.partition("=")[0], Path(text.partition("=")[2])) for text in args.parts]
    pack(args.out, parts, args.kbit)


if __name__ == "__main__":
    main()
