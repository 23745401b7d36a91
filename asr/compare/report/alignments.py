"""The utterances on which two systems differ most: what was said, what they heard, the sound."""

from __future__ import annotations

from collections.abc import Sequence

from asr.compare.report.elements import escaped
from asr.compare.report.gather import Contents, Heard
from asr.wer import Edit, Op


def alignments(contents: Contents) -> str:
    if not contents.heard or contents.pair is None:
        return ""
    metric = contents.comparison.metric
    intro = (
        f"<h2>Where they differ most</h2><p>Utterances of {escaped(contents.set_name or '')} on which "
        f"{escaped(contents.pair[0])} and {escaped(contents.pair[1])} differ by most errors. Struck "
        f"through: missed; underlined: invented; coloured: heard as another {metric.unit}.</p>"
    )
    return intro + "".join(_heard(one, contents.pair, metric.gap) for one in contents.heard)


def _heard(one: Heard, names: Sequence[str], gap: str) -> str:
    reference = gap.join(edit.reference for edit in one.edits[0] if edit.reference is not None)
    audio = (
        f'<audio controls preload="none" src="{one.audio}"></audio>'
        if one.audio
        else f'<p class="small">no audio: {escaped(one.why_silent or "")}</p>'
    )
    words = "".join(
        f'<p class="words"><b>{escaped(name)}, {errors} errors</b>{_edits(edits, gap)}</p>'
        for name, errors, edits in zip(names, one.errors, one.edits, strict=True)
    )
    return (
        f'<div class="pair"><div class="small">{escaped(one.id)}, speaker {escaped(one.speaker)}, '
        f'{one.duration_s:.1f} s</div>{audio}<p class="words"><b>said</b>{escaped(reference)}</p>'
        f"{words}</div>"
    )


def _edits(edits: Sequence[Edit], gap: str) -> str:
    words = []
    for edit in edits:
        if edit.op is Op.DELETION:
            words.append(f"<del>{escaped(edit.reference or '')}</del>")
        elif edit.op is Op.INSERTION:
            words.append(f"<ins>{escaped(edit.hypothesis or '')}</ins>")
        elif edit.op is Op.SUBSTITUTION:
            words.append(f'<span class="wrong">{escaped(edit.hypothesis or "")}</span>')
        else:
            words.append(escaped(edit.hypothesis or ""))
    return gap.join(words) or "(nothing)"
