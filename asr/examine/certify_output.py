"""A certificate as a table for the terminal and as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from asr.columns import in_columns
from asr.examine.certify import FAILS, HOLDS, MOST, NOT_APPLICABLE, Certificate, Line
from asr.files import finite

_HEADER = ("property", "what changes nothing", *MOST, "texts", "verdict")


def format_certificate(certificate: Certificate) -> str:
    """The lines in columns, the verdict over all of them last."""
    shortest_s, longest_s = min(certificate.durations_s), max(certificate.durations_s)
    head = (
        f"{certificate.model}: {len(certificate.ids)} utterances of {certificate.cuts}, "
        f"{shortest_s:.1f} to {longest_s:.1f} s, on {certificate.device}, "
        f"attention by {certificate.attention_backend}"
    )
    rows = [_HEADER, *(_cells(line) for line in certificate.lines)]
    table = in_columns(rows, left=(0, 1, len(_HEADER) - 1))
    reasons = [
        f"{NOT_APPLICABLE}: {line.what}: {line.reason}"
        for line in certificate.lines
        if line.verdict == NOT_APPLICABLE
    ]
    limits = ", ".join(f"{limit:g} in {name}" for name, limit in MOST.items())
    legend = f"largest difference of a log-probability, allowed: {limits}; greedy texts equal"
    if any(line.what.startswith("decoder") for line in certificate.lines):
        legend += ", of the decoder the likeliest token of every step"
    return "\n".join([head, "", table, "", legend, *reasons, "", verdict(certificate)])


def verdict(certificate: Certificate) -> str:
    """One line over all lines."""
    count = {
        word: sum(line.verdict == word for line in certificate.lines)
        for word in (HOLDS, FAILS, NOT_APPLICABLE)
    }
    tail = f"{count[HOLDS]} hold, {count[FAILS]} fail, {count[NOT_APPLICABLE]} not applicable"
    return f"{'certified' if certificate.certified else 'NOT CERTIFIED'}: {tail}"


def certificate_as_json(certificate: Certificate) -> dict[str, Any]:
    """Return a certificate for JSON; a difference that is not finite is null."""
    content = finite(dataclasses.asdict(certificate))
    return {"certified": certificate.certified, "allowed": MOST, **content}


def _cells(line: Line) -> tuple[str, ...]:
    figures = [f"{line.largest[name]:.1e}" if name in line.largest else "-" for name in MOST]
    texts = f"{line.texts_equal}/{line.num_texts}" if line.num_texts else "-"
    return (line.property, line.what, *figures, texts, line.verdict)
