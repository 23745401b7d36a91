"""Times of searches over that of the first one, several times over in turn: one manifest, one process.

    tools/bench_searches.py --model exp/both --cuts test.cuts.jsonl.gz --searches ctc/greedy joint

Each time is that of `asr decode` without its start: reading, encoder, head and search. A machine's speed
drifts, so what counts are the ratios within a round: median, lowest and highest.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
from pathlib import Path

from measure import Step, environment, interleaved_ms

from asr.decode.decode import frames_of, open_utterances
from asr.model.folder import Model, load_model
from asr.runtime import prepare_cpu
from asr.search.factory import build_search
from asr.search.options import SearchOptions


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, nargs="+")
    parser.add_argument("--cuts", type=Path, required=True)
    parser.add_argument("--searches", nargs="+", default=["ctc/greedy", "rescore", "joint"])
    parser.add_argument("--beam", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-batch-s", type=float, default=300.0)
    args = parser.parse_args()
    prepare_cpu(args.threads)
    print(json.dumps(environment("tools/bench_searches.py", ["torch"])))
    for folder in args.model:
        print(json.dumps({"model": str(folder)} | ratios(load_model(folder), args)), flush=True)
    return 0


def ratios(model: Model, args: argparse.Namespace) -> dict[str, object]:
    """Return the times (s) and the ratios of a model's searches."""
    utterances = open_utterances(model, args.cuts)

    def decoding(name: str) -> None:
        search = build_search(_options(name, args.beam), model)
        for _, *outputs in frames_of(model, utterances, args.max_batch_s, head=search.head):
            search(*outputs)

    steps: dict[str, Step] = {name: functools.partial(decoding, name) for name in args.searches}
    times = interleaved_ms(steps, args.rounds)
    base = times[args.searches[0]]
    found: dict[str, object] = {}
    for name, several in times.items():
        over = sorted(one / first for one, first in zip(several, base, strict=True))
        found[name] = {
            "median_s": round(statistics.median(several) / 1e3, 2),
            "ratio": [round(one, 2) for one in (statistics.median(over), over[0], over[-1])],
        }
    return found


def _options(name: str, beam: int) -> SearchOptions:
    """``ctc/greedy`` is greedy search of the ctc head, ``joint`` of the first head that has it."""
    head, _, search = name.rpartition("/")
    return SearchOptions(search, None if search == "greedy" else beam, head=head or None)


if __name__ == "__main__":
    sys.exit(main())
