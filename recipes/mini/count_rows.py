#!/usr/bin/env python
"""Row sums and output norms of each head against the length of the audio, model by model.

python count_rows.py --visible counts/visible-alibi-s1 --effective counts/effective-alibi-s1 \
    --cuts data/test.cuts.jsonl.gz --out counts-rows

A row sum is the mean over rows of sum_j p_ij, an output norm the mean over frames of |sum_j p_ij v_j|,
of a few speakers' utterances joined to each duration. "at first" has no content: scores are the
position's alone, as they nearly are when training begins.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from lhotse.cut import Cut
from numpy.typing import NDArray

from asr import provenance
from asr.data.joining import join_speakers
from asr.data.store.manifest import load_waveform, read_cuts
from asr.errors import InputError
from asr.files import write_atomically
from asr.model.folder import Model, load_model
from asr.nn.attention import attentions
from asr.pictures import COLOURS, as_png, new_figure
from asr.probe.diagnostics import Seen, watch_attention

NUM_RECORDINGS = 4

Measured = dict[str, NDArray[np.float64]]
"""``sums`` (layer, head), ``norms`` (layer, head), ``empty`` (head): row sums without content."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--visible", type=Path, required=True, help="experiment folder")
    parser.add_argument("--effective", type=Path, required=True, help="experiment folder")
    parser.add_argument("--cuts", type=Path, required=True, help="manifest")
    parser.add_argument("--lengths", type=float, nargs="+", default=[1, 15, 30, 60, 120])
    parser.add_argument("--out", type=Path, required=True, help="stem of the files written")
    args = parser.parse_args()
    try:
        write(args)
    except InputError as error:
        parser.exit(2, f"count_rows.py: error: {error}\n")


def write(args: argparse.Namespace) -> None:
    """Write the picture and its JSON."""
    cuts = list(read_cuts(args.cuts))
    recordings = [join_speakers(cuts, length_s) for length_s in args.lengths]
    recordings = [rows[:: max(1, len(rows) // NUM_RECORDINGS)] for rows in recordings]
    recordings = [rows[:NUM_RECORDINGS] for rows in recordings]
    found = {
        name: [measure(load_model(folder), rows) for rows in recordings]
        for name, folder in (("visible", args.visible), ("effective", args.effective))
    }
    seconds = [float(np.mean([row.duration for row in rows])) for rows in recordings]
    content = {
        "lengths_s": args.lengths,
        "environment": provenance.environment() | {"versions": provenance.versions()},
        "seconds": seconds,
        "models": {
            name: [{key: value.tolist() for key, value in one.items()} for one in of_lengths]
            for name, of_lengths in found.items()
        },
    }
    write_atomically(args.out.with_suffix(".json"), json.dumps(content, indent=1) + "\n")
    write_atomically(args.out.with_suffix(".png"), picture(seconds, found))
    for name, of_lengths in found.items():
        for second, one in zip(seconds, of_lengths, strict=True):
            sums = " ".join(f"{value:.2f}" for value in one["sums"].mean(0))
            empty = " ".join(f"{value:.2f}" for value in one["empty"])
            print(f"{name} {second:.3g} s: row sums by head {sums}; without content {empty}")


def measure(model: Model, recordings: Sequence[Cut]) -> Measured:
    """Return the means over recordings, each computed whole."""
    net, rate = model.net.eval(), model.config.features.sample_rate
    layers = attentions(net)
    sums: list[NDArray[np.float64]] = []
    norms: list[NDArray[np.float64]] = []
    empty: list[NDArray[np.float64]] = []
    for recording in recordings:
        wave_n = load_waveform(recording, rate)
        with ExitStack() as stack, torch.inference_mode():
            for layer in layers:
                stack.enter_context(watch_attention(layer, lambda s: _tell(s, sums, norms, empty)))
            net(torch.from_numpy(wave_n)[None], torch.tensor([len(wave_n)]))
    shape = (len(recordings), len(layers), -1)
    return {
        "sums": np.stack(sums).reshape(shape).mean(0),
        "norms": np.stack(norms).reshape(shape).mean(0),
        "empty": np.stack(empty).reshape(shape).mean((0, 1)),
    }


def _tell(
    seen: Seen,
    sums: list[NDArray[np.float64]],
    norms: list[NDArray[np.float64]],
    empty: list[NDArray[np.float64]],
) -> None:
    weights_bhts = seen.weights()
    _, _, v_bhsd = seen.attention._heads(seen.x_btd)
    sums.append(weights_bhts.sum(3).mean((0, 2)).numpy().astype(float))
    norms.append((weights_bhts @ v_bhsd).norm(dim=3).mean((0, 2)).numpy().astype(float))
    nothing = dataclasses.replace(seen, q_bhtd=torch.zeros_like(seen.q_bhtd))
    empty.append(nothing.weights().sum(3).mean((0, 2)).numpy().astype(float))


def picture(seconds: Sequence[float], found: dict[str, list[Measured]]) -> bytes:
    """Draw row sums without content, of trained models, and output norms, a column for each count."""
    figure = new_figure(8, 7.5)
    panels = figure.subplots(3, len(found), sharex=True, sharey="row", squeeze=False)
    kinds = {"empty": "row sum, no content", "sums": "row sum, trained", "norms": "output norm"}
    for column, (name, of_lengths) in enumerate(found.items()):
        for row, (key, title) in enumerate(kinds.items()):
            axes = panels[row, column]
            values = np.stack(
                [one[key] if key == "empty" else one[key].mean(0) for one in of_lengths]
            )
            for head in range(values.shape[1]):
                axes.plot(
                    seconds,
                    values[:, head],
                    "-o",
                    ms=3,
                    color=COLOURS[head % len(COLOURS)],
                    label=f"head {head + 1}",
                )
            axes.set_xscale("log")
            axes.set_xticks(seconds, [f"{value:.3g}" for value in seconds])
            axes.minorticks_off()
            axes.grid(alpha=0.25)
            if row == 0:
                axes.set_title(f"n = {name}")
            if column == 0:
                axes.set_ylabel(title)
            if row == len(kinds) - 1:
                axes.set_xlabel("seconds of audio")
    for row in range(len(kinds)):
        panels[row, 0].set_ylim(0, 1.08 * panels[row, 0].get_ylim()[1])
    panels[0, 0].legend(frameon=False, fontsize=8)
    return as_png(figure)


if __name__ == "__main__":
    main()
