"""Speed, memory and accuracy of `asr transcribe` on a CPU, and that ONNX Runtime writes the same text.

    tools/bench_transcribe.py speed --cuts test.cuts.jsonl.gz --out docs/results/transcribe-cpu
    tools/bench_transcribe.py joined --model exp/mine --cuts test.cuts.jsonl.gz --words test.words.txt \
        --pause-s 0 0.3 0.5 1 --pause-db -80 none --vad --vad-silence-s 0.25
    tools/bench_transcribe.py precision --model exp/mine --cuts test.cuts.jsonl.gz
    tools/bench_transcribe.py onnx --model exp/mine --cuts test.cuts.jsonl.gz

``speed`` takes the 12 x 256 Conformer with untrained weights: time does not depend on what they say.
Each length is a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from measure import environment

import asr
from asr import config
from asr.api import Failure
from asr.data.store.manifest import load_waveform, read_cuts
from asr.files import write_atomically
from asr.model.folder import save_model
from asr.model.recogniser import Recogniser
from asr.runtime import prepare_cpu
from asr.search.options import GREEDY, SearchOptions
from asr.text.tokenizer import train_tokenizer

RATE = 16000
MINUTES = (1, 4, 15, 60)
# What is asked for, and what is aimed at.
MAX_RTF, AIMED_RTF, MAX_PEAK_MB = 0.03, 0.015, 2048


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=tuple(MEASURES))
    parser.add_argument("--cuts", type=Path, help="manifest of the speech to use")
    parser.add_argument("--model", type=Path, help="a trained model (joined, onnx)")
    parser.add_argument("--words", type=Path, help="when words start, from the synthetic corpus")
    parser.add_argument("--out", type=Path, default=Path("transcribe-cpu"))
    parser.add_argument("--minutes", type=float, nargs="+", default=MINUTES, help="lengths (speed)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--window-s", type=float, default=30.0)
    parser.add_argument("--overlap-s", type=float, default=4.0)
    parser.add_argument("--vad", action="store_true", help="as in asr transcribe (joined)")
    parser.add_argument("--vad-silence-s", type=float, default=2.0, help="as there (joined)")
    parser.add_argument(
        "--pause-s", type=float, nargs="+", default=[0.0], help="pauses between the joined"
    )
    parser.add_argument(
        "--pause-db",
        nargs="+",
        default=["-80"],
        help="white noise in the pauses, dB of full scale; none: digital silence (joined)",
    )
    parser.add_argument(
        "--lm", type=Path, help="n-gram model: beam search, weights as tuned (joined)"
    )
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("inputs", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    print(json.dumps(MEASURES[args.what](args), indent=1))
    return 0


def speed(args: argparse.Namespace) -> dict[str, Any]:
    """Files of 1 to 60 minutes of joined speech, and the same hour as utterances."""
    env = environment("python tools/bench_transcribe.py", ("torch", "numpy"))
    with tempfile.TemporaryDirectory() as folder:
        model = untrained(Path(folder))
        waves = [load_waveform(cut, RATE) for cut in read_cuts(args.cuts)]
        rows = []
        for minutes in args.minutes:
            path = Path(folder) / f"{minutes}.wav"
            soundfile.write(path, repeated(waves, minutes * 60), RATE)
            rows.append({"input": f"{minutes:g} min joined"} | measured(args, model, [path]))
        utterances = Path(folder) / "utterances"
        utterances.mkdir()
        for number in range(min(len(waves), 1500)):
            soundfile.write(utterances / f"{number:05d}.wav", waves[number], RATE)
        name = f"{len(list(utterances.iterdir()))} utterances"
        rows.append({"input": name} | measured(args, model, [utterances]))
    result = {
        "environment": env | {"threads": args.threads},  # of the processes that are measured
        "precision": args.precision,
        "rows": rows,
        "judged": judged(rows),
    }
    write_report(args.out, result)
    return result


def untrained(folder: Path) -> Path:
    cfg = config.load([], ["tokenizer.kind=char"])
    tokenizer = train_tokenizer(["the quick brown fox jumps over a lazy dog"], cfg.tokenizer)
    torch.manual_seed(0)
    net = Recogniser(cfg, tokenizer.vocab_size)
    save_model(folder / "model", net.state_dict(), cfg, tokenizer)
    return folder / "model"


def repeated(waves: list[np.ndarray], duration_s: float) -> np.ndarray:
    joined_n = np.concatenate(waves)
    return np.resize(joined_n, int(duration_s * RATE))


def measured(args: argparse.Namespace, model: Path, inputs: list[Path]) -> dict[str, Any]:
    command = [sys.executable, __file__, "one", *map(str, inputs), "--model", str(model)]
    command += ["--threads", str(args.threads), "--precision", args.precision]
    command += ["--window-s", str(args.window_s), "--overlap-s", str(args.overlap_s)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(run.stdout)
    print(inputs[0].name, found, file=sys.stderr)
    return found


def one(args: argparse.Namespace) -> dict[str, Any]:
    """This process: reading to text, without loading the model; its peak memory with everything."""
    prepare_cpu(args.threads)
    transcriber = load(args)
    begun = time.perf_counter()
    outcomes = list(transcriber.transcribe_all(args.inputs))
    wall_s = time.perf_counter() - begun
    audio_s = 0.0
    for outcome in outcomes:
        if isinstance(outcome.result, Failure):
            raise outcome.result.error
        audio_s += outcome.result.duration_s
    return {
        "audio_s": round(audio_s, 1),
        "wall_s": round(wall_s, 2),
        "rtf": round(wall_s / audio_s, 5),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def load(args: argparse.Namespace, vad: bool = False) -> asr.Transcriber:
    return asr.load(
        args.model,
        "cpu",
        SearchOptions("beam", lm=args.lm) if args.lm else GREEDY,
        window_s=args.window_s,
        overlap_s=args.overlap_s,
        precision=args.precision,
        vad=vad,
        vad_silence_s=args.vad_silence_s,
    )


def joined(args: argparse.Namespace) -> dict[str, Any]:
    """WER of all utterances in one file and one by one; how far word starts are off in each."""
    from jiwer import process_words

    prepare_cpu(args.threads)
    cuts = list(read_cuts(args.cuts))
    waves = [load_waveform(cut, RATE) for cut in cuts]
    references = [cut.supervisions[0].text.lower() for cut in cuts]
    starts_s = spoken_starts_s(args.words) if args.words else {}
    plain = load(args)
    transcriber = load(args, vad=True) if args.vad else plain
    singles = [plain.transcribe(wave_n, RATE) for wave_n in waves]
    wer_alone = 100 * process_words(references, [one.text or "-" for one in singles]).wer
    result: dict[str, Any] = {
        "words": sum(len(text.split()) for text in references),
        "wer_alone": round(wer_alone, 2),
    }
    if starts_s:
        alone = zip(references, singles, cuts, strict=True)
        each_s = [start_errors_s(text, one, starts_s[cut.id]) for text, one, cut in alone]
        result |= medians_ms(np.concatenate(each_s))
    result["joined"] = []
    for pause_s, pause_db in pauses(args):
        pause_n = noise(pause_s, pause_db)
        whole_n = np.concatenate([part_n for wave_n in waves for part_n in (wave_n, pause_n)])
        whole = transcriber.transcribe(whole_n, RATE)
        found = process_words(" ".join(references), whole.text or "-")
        row = {
            "pause_s": pause_s,
            "pause_db": pause_db,
            "wer": round(100 * found.wer, 2),
            "gap": round(100 * found.wer - wer_alone, 2),
            "sub_del_ins": [found.substitutions, found.deletions, found.insertions],
            "stretches_without_speech": len(whole.gaps),
            "words_in_text": len(whole.text.split()),
            "words_timed": len(whole.words),
        }
        if starts_s:
            begun_s = np.cumsum([0] + [(len(w) + len(pause_n)) / RATE for w in waves])
            in_whole_s = [
                start_s + at_s
                for cut, at_s in zip(cuts, begun_s[:-1], strict=True)
                for start_s in starts_s[cut.id]
            ]
            row |= medians_ms(start_errors_s(" ".join(references), whole, in_whole_s))
        print(row, file=sys.stderr, flush=True)
        result["joined"].append(row)
    return result


def pauses(args: argparse.Namespace) -> list[tuple[float, float | None]]:
    """(seconds, dB of full scale or None for digital silence); no pause has no level."""
    levels_db = [None if level == "none" else float(level) for level in args.pause_db]
    each = [
        (pause_s, level_db) for pause_s in args.pause_s if pause_s > 0.0 for level_db in levels_db
    ]
    return [(0.0, None)] * (0.0 in args.pause_s) + each


def noise(duration_s: float, level_db: float | None) -> np.ndarray:
    """float32 of this root mean square, the same each time."""
    scale = 0.0 if level_db is None else 10.0 ** (level_db / 20.0)
    return np.random.default_rng(0).normal(0, scale, int(duration_s * RATE)).astype("f4")


def precision(args: argparse.Namespace) -> dict[str, Any]:
    """WER of the same utterances in 32-bit floats and in 8-bit integers."""
    from jiwer import process_words

    prepare_cpu(args.threads)
    references = [cut.supervisions[0].text.lower() for cut in read_cuts(args.cuts)]
    result: dict[str, Any] = {"utterances": len(references)}
    texts: dict[str, list[str]] = {}
    for name in ("fp32", "int8"):
        transcriber = asr.load(args.model, "cpu", precision=name)
        outcomes = transcriber.transcribe_all([args.cuts])
        texts[name] = [str(outcome.result) or "-" for outcome in outcomes]
        result[f"wer_{name}"] = 100 * process_words(references, texts[name]).wer
    result["wer_int8_against_fp32"] = 100 * process_words(texts["fp32"], texts["int8"]).wer
    return result


def spoken_starts_s(path: Path) -> dict[str, list[float]]:
    """Return the start of each utterance's words; NaN where espeak-ng does not say."""
    lines = [line.split() for line in path.read_text().splitlines()]
    return {name: [float(t) if t != "-" else np.nan for t in times] for name, *times in lines}


def start_errors_s(reference: str, found: asr.Transcript, starts_s: list[float]) -> np.ndarray:
    """Starts of the words that were recognised minus those of the same words in ``starts_s``."""
    from jiwer import process_words

    errors_s: list[float] = []
    for chunk in process_words(reference, found.text or "-").alignments[0]:
        if chunk.type == "equal":
            heard = found.words[chunk.hyp_start_idx : chunk.hyp_end_idx]
            said_s = starts_s[chunk.ref_start_idx : chunk.ref_end_idx]
            errors_s += [
                word.start_s - at_s
                for word, at_s in zip(heard, said_s, strict=True)
                if not np.isnan(at_s)
            ]
    return np.array(errors_s)


def medians_ms(errors_s: np.ndarray) -> dict[str, float]:
    """The median distance of word starts, and the median with its sign."""
    return {
        "median_start_error_ms": round(1000 * float(np.median(np.abs(errors_s))), 1),
        "median_signed_start_error_ms": round(1000 * float(np.median(errors_s)), 1),
    }


def onnx(args: argparse.Namespace) -> dict[str, Any]:
    """The first 100 utterances: texts of ONNX Runtime and of PyTorch."""
    import onnxruntime

    from asr.search.greedy import greedy
    from asr.transcribe.onnx import export_onnx

    transcriber = load(args)
    waves = [load_waveform(cut, RATE) for cut in list(read_cuts(args.cuts))[:100]]
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(args.model, Path(folder) / "model.onnx")
        session = onnxruntime.InferenceSession(str(Path(folder) / "model.onnx"))
    equal = 0
    for wave_n in waves:
        inputs = {"wave": wave_n[None], "wave_lens": np.array([len(wave_n)])}
        found = session.run(None, inputs)
        log_probs_btv, frames_b = (torch.from_numpy(output) for output in found)
        best = greedy(log_probs_btv, frames_b)[0]
        text = transcriber.model.tokenizer.decode(best.tokens)
        equal += " ".join(text.split()) == transcriber.transcribe(wave_n, RATE).text
    return {"utterances": len(waves), "equal_texts": equal}


def judged(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The bounds, and whether time is linear: seconds for a further hour, between two lengths."""
    joined_rows = [row for row in rows if "joined" in row["input"]]
    steps = [
        3600 * (after["wall_s"] - before["wall_s"]) / (after["audio_s"] - before["audio_s"])
        for before, after in itertools.pairwise(joined_rows)
    ]
    long_rtf = max(joined_rows[-1]["rtf"], rows[-1]["rtf"])  # an hour, and utterances
    peak_mb = max(row["peak_mb"] for row in rows)
    found = {
        "rtf": long_rtf,
        f"rtf at most {MAX_RTF}": long_rtf <= MAX_RTF,
        f"rtf at most {AIMED_RTF} (aim)": long_rtf <= AIMED_RTF,
        "peak_mb": peak_mb,
        f"peak below {MAX_PEAK_MB} MB": peak_mb < MAX_PEAK_MB,
        "s_per_further_hour": [round(step, 1) for step in steps],
    }
    if steps:
        last_mb = joined_rows[-1]["peak_mb"] - joined_rows[-2]["peak_mb"]
        found["mb_from_last_but_one_to_last"] = last_mb
    return found


def write_report(out: Path, result: dict[str, Any]) -> None:
    write_atomically(out.with_suffix(".json"), json.dumps(result, indent=1) + "\n")
    head = "| input | audio, s | time, s | real-time factor | peak memory, MB |\n|---|---|---|---|---|\n"
    lines = [
        f"| {r['input']} | {r['audio_s']} | {r['wall_s']} | {r['rtf']} | {r['peak_mb']} |\n"
        for r in result["rows"]
    ]
    env = result["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in env["versions"].items())
    text = (
        f"# asr transcribe on {env['processor']}, {env['threads']} threads\n\n    {env['command']}\n\n"
        f"Commit {env['commit']}, {env['date']}; Python {env['python']}, {versions}; load average "
        f"before the run {env['load_average']}. Conformer of 12 layers x 256, untrained, greedy "
        f"search; {result['precision']}.\n\n"
        f"{head}{''.join(lines)}\n"
        + "".join(f"- {name}: {value}\n" for name, value in result["judged"].items())
        + f"\n![time and memory]({out.name}.png)\n"
    )
    write_atomically(out.with_suffix(".md"), text)
    plot(out.with_suffix(".png"), [r for r in result["rows"] if "joined" in r["input"]])


def plot(path: Path, rows: list[dict[str, Any]]) -> None:
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    minutes = [row["audio_s"] / 60 for row in rows]
    left.plot(minutes, [row["wall_s"] for row in rows], "o-")
    left.set(xlabel="audio, minutes", ylabel="time, s", xlim=(0, None), ylim=(0, None))
    right.plot(minutes, [row["peak_mb"] for row in rows], "o-")
    room = 1.1 * max(row["peak_mb"] for row in rows)
    right.set(xlabel="audio, minutes", ylabel="peak memory, MB", xlim=(0, None), ylim=(0, room))
    figure.savefig(path, dpi=100)


MEASURES = {
    "speed": speed,
    "one": one,
    "joined": joined,
    "precision": precision,
    "onnx": onnx,
}

if __name__ == "__main__":
    sys.exit(main())
