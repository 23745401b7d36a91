"""Word and character error rates of a decoded set, an aligned listing, and trn files for sclite."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.columns import in_columns
from asr.decode.decoded import DecodedUtterance, Decoding, read_decoded
from asr.decode.trn import trn_ids, trn_text
from asr.files import write_atomically
from asr.printable import printable
from asr.run_folder import DecodedFolder
from asr.wer import (
    WER,
    Edit,
    ErrorCounts,
    Metric,
    Op,
    align,
    characters,
    count_errors,
    edit_distance,
)

_LISTING_WIDTH = 100
_EVAL_SIGN = {Op.CORRECT: "", Op.SUBSTITUTION: "S", Op.DELETION: "D", Op.INSERTION: "I"}


@dataclass(frozen=True)
class GroupScore:
    """Error counts of some utterances together: a speaker's, or all of them.

    Attributes:
        character_errors, reference_characters: of the texts, words separated by single spaces.
    """

    num_utterances: int
    num_wrong: int
    counts: ErrorCounts
    character_errors: int
    reference_characters: int

    @property
    def cer(self) -> float:
        """Character errors per reference character; NaN without reference characters."""
        if not self.reference_characters:
            return math.nan
        return self.character_errors / self.reference_characters

    @property
    def sentence_error_rate(self) -> float:
        """Share of the utterances with any error."""
        return self.num_wrong / self.num_utterances


@dataclass(frozen=True)
class Score:
    """Contents of ``score.json``; speakers are in sorted order."""

    decoding: Decoding
    audio_s: float
    total: GroupScore
    speakers: dict[str, GroupScore]


def score_folder(folder: Path) -> Score:
    """Score a decoded set, EXP/decode/<set>/.

    Writes ``ref.trn``, ``hyp.trn``, ``alignment.txt`` and ``score.json`` into the folder, after
    everything was read; each file appears whole or not at all, ``score.json`` last.

    Raises:
        InputError: missing, malformed or empty ``hypotheses.jsonl`` or ``decode.json``, an id
            twice, another number of utterances than were decoded, texts too long to be scored.
    """
    utterances, decoding = read_decoded(folder)
    counts = utterance_counts(utterances)
    score = _score(utterances, counts, decoding)
    ids = trn_ids(utterances)
    files = DecodedFolder(folder)
    write_atomically(files.reference_trn, trn_text(ids, [u.reference for u in utterances]))
    write_atomically(files.hypothesis_trn, trn_text(ids, [u.hypothesis for u in utterances]))
    write_atomically(files.alignment, format_alignments(utterances, score))
    write_atomically(files.score, json.dumps(score_as_json(score), indent=2) + "\n")
    return score


def utterance_counts(
    utterances: Sequence[DecodedUtterance], metric: Metric = WER
) -> list[ErrorCounts]:
    """Error counts of each utterance."""
    return [count_errors(*map(metric.split, (u.reference, u.hypothesis))) for u in utterances]


def character_counts(utterance: DecodedUtterance) -> tuple[int, int]:
    """(character errors, reference characters) of an utterance, spaces between words included."""
    reference, hypothesis = map(characters, (utterance.reference, utterance.hypothesis))
    return edit_distance(reference, hypothesis), len(reference)


def score_as_json(score: Score) -> dict[str, Any]:
    """The content of ``score.json``; rates are fractions, null where there are no words."""
    decoding = score.decoding
    return {
        "set": decoding.set_name,
        "normaliser": decoding.normaliser,
        "search": decoding.search,
        "beam": decoding.beam,
        "audio_s": score.audio_s,
        "rtf": decoding.rtf,
        **_group_as_json(score.total),
        "speakers": {name: _group_as_json(group) for name, group in score.speakers.items()},
    }


def format_score(score: Score) -> str:
    """A table for the terminal: a line per speaker, the total, and how texts were normalised."""
    header = ["speaker", "utterances", "words", "WER %", "S", "D", "I", "CER %"]
    header += ["wrong utterances %"]
    rows = [_table_row(name, group) for name, group in score.speakers.items()]
    rows.append(_table_row("total", score.total))
    head, rule, *lines = in_columns([header, *rows], left=(0,)).split("\n")
    return "\n".join([describe(score), "", head, rule, *lines[:-1], rule, lines[-1]])


def describe(score: Score) -> str:
    """One line that names the set, its size, the search and the normaliser."""
    decoding = score.decoding
    parts = [f"{decoding.set_name}: {score.audio_s / 3600:.2f} h"]
    if decoding.search is not None:
        width = "" if decoding.beam is None else f", beam {decoding.beam}"
        head = "" if decoding.head is None else f" of the {decoding.head} head"
        parts.append(f"search {decoding.search}{head}{width}")
    return printable("; ".join([*parts, f"normaliser {decoding.normaliser}"]))


def format_alignments(utterances: Sequence[DecodedUtterance], score: Score) -> str:
    """Every utterance's words in columns, those with the most errors first."""
    listed = []
    for utterance in utterances:
        edits = align(utterance.reference.split(), utterance.hypothesis.split())
        num_errors = sum(edit.op is not Op.CORRECT for edit in edits)
        listed.append((num_errors, utterance, edits))
    # A stable sort: utterances with as many errors stay in the order of the file.
    listed.sort(key=lambda item: -item[0])
    total = score.total.counts
    head = [
        describe(score),
        f"WER {percent(total.wer)} %: {total.substitutions} substitutions, {total.deletions} "
        f"deletions, {total.insertions} insertions in {total.reference_words} words; "
        f"CER {percent(score.total.cer)} %",
        "Most errors first. S substitution, D deletion, I insertion; stars fill gaps.",
    ]
    blocks = [_listing_block(utterance, edits) for _, utterance, edits in listed]
    return "\n".join(head) + "\n\n" + "\n".join(blocks)


def percent(fraction: float) -> str:
    """A rate in percent with two decimals, a dash where there was nothing to divide by."""
    return f"{100 * fraction:.2f}" if math.isfinite(fraction) else "-"


def _score(
    utterances: Sequence[DecodedUtterance], counts: Sequence[ErrorCounts], decoding: Decoding
) -> Score:
    scored = [(c, *character_counts(u)) for u, c in zip(utterances, counts, strict=True)]
    by_speaker: dict[str, list[_Scored]] = defaultdict(list)
    for utterance, one in zip(utterances, scored, strict=True):
        by_speaker[utterance.speaker].append(one)
    return Score(
        decoding=decoding,
        audio_s=math.fsum(utterance.duration_s for utterance in utterances),
        total=_group(scored),
        speakers={speaker: _group(by_speaker[speaker]) for speaker in sorted(by_speaker)},
    )


_Scored = tuple[ErrorCounts, int, int]
"""Word errors of an utterance, its character errors and reference characters."""


def _group(scored: Sequence[_Scored]) -> GroupScore:
    return GroupScore(
        num_utterances=len(scored),
        num_wrong=sum(counts.errors > 0 for counts, _, _ in scored),
        counts=sum((counts for counts, _, _ in scored), ErrorCounts()),
        character_errors=sum(errors for _, errors, _ in scored),
        reference_characters=sum(characters for _, _, characters in scored),
    )


def _group_as_json(group: GroupScore) -> dict[str, Any]:
    counts = group.counts
    return {
        "num_utterances": group.num_utterances,
        "wrong_utterances": group.num_wrong,
        "sentence_error_rate": group.sentence_error_rate,
        "reference_words": counts.reference_words,
        "correct": counts.correct,
        "substitutions": counts.substitutions,
        "deletions": counts.deletions,
        "insertions": counts.insertions,
        "errors": counts.errors,
        "wer": counts.wer if math.isfinite(counts.wer) else None,
        "reference_characters": group.reference_characters,
        "character_errors": group.character_errors,
        "cer": group.cer if math.isfinite(group.cer) else None,
    }


def _table_row(name: str, group: GroupScore) -> list[str]:
    counts = group.counts
    numbers = (counts.substitutions, counts.deletions, counts.insertions)
    return [
        printable(name),
        str(group.num_utterances),
        str(counts.reference_words),
        percent(counts.wer),
        *(str(number) for number in numbers),
        percent(group.cer),
        percent(group.sentence_error_rate),
    ]


def _listing_block(utterance: DecodedUtterance, edits: Sequence[Edit]) -> str:
    tally = {op: sum(edit.op is op for edit in edits) for op in Op}
    substitutions, deletions, insertions = (
        tally[op] for op in (Op.SUBSTITUTION, Op.DELETION, Op.INSERTION)
    )
    num_words = tally[Op.CORRECT] + substitutions + deletions
    lines = [
        f"id: {printable(utterance.id)}   speaker: {printable(utterance.speaker)}   "
        f"errors: {substitutions + deletions + insertions} in {num_words} words "
        f"(S {substitutions}, D {deletions}, I {insertions})"
    ]
    for columns in _fold(edits):
        for name, cells in zip(("REF: ", "HYP: ", "EVAL:"), columns, strict=True):
            lines.append(f"{name} {' '.join(cells)}".rstrip())
    return "\n".join(lines) + "\n"


def _fold(edits: Sequence[Edit]) -> list[tuple[list[str], list[str], list[str]]]:
    """Columns of reference, hypothesis and sign, equally wide, in lines that fit a screen."""
    lines: list[tuple[list[str], list[str], list[str]]] = []
    used = _LISTING_WIDTH
    for edit in edits:
        reference, hypothesis = (printable(w or "") for w in (edit.reference, edit.hypothesis))
        width = max(len(reference), len(hypothesis))
        if used + width + 1 > _LISTING_WIDTH:
            lines.append(([], [], []))
            used = len("EVAL:")
        gap = "*" * width
        cells = (reference or gap, hypothesis or gap, _EVAL_SIGN[edit.op])
        for line, cell in zip(lines[-1], cells, strict=True):
            line.append(cell.ljust(width))
        used += width + 1
    return lines or [([], [], [])]
