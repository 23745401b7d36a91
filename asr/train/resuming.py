"""Checks that a run can be resumed: its configuration and the content of its data are compared."""

from __future__ import annotations

import dataclasses
from typing import Any

from asr import config as configuration
from asr.config import CONTENT, FREE, REPORTED, Config
from asr.errors import InputError
from asr.files import read_json_object
from asr.run_folder import RunFolder
from asr.train.checkpoint import list_checkpoints
from asr.train.setup import forget_tokenizer


@dataclasses.dataclass(frozen=True)
class Change:
    """An option that is another than when the run was last started."""

    key: str
    before: Any
    now: Any
    on_resume: str

    def __str__(self) -> str:
        return f"{self.key} was {self.before!r}, now {self.now!r}"


def claim_folder(exp: RunFolder, config: Config, resume: bool) -> list[Change]:
    """Check that the folder is new or can be resumed; a tokenizer of a run that was killed at its
    start is removed.

    Returns:
        options whose new values lead to another result from here on.

    Raises:
        InputError: it holds another run and ``resume`` is not asked for, or it holds one with
            another configuration, or files of something else lie where a run's tokenizer does.
    """
    if not exp.config.is_file():
        forget_tokenizer(exp)
        return []
    if not resume:
        raise InputError(
            f"{exp.root}: holds a run already; add --resume to go on with it, "
            "or name another folder with --exp"
        )
    changes = _changes(configuration.load([exp.config], follow_base=False), config)
    free = {FREE, REPORTED} | ({CONTENT} if _begun_with(exp) else set())
    if refused := [change for change in changes if change.on_resume not in free]:
        listed = "; ".join(map(str, refused))
        raise InputError(f"{exp.root}: cannot resume with another configuration: {listed}")
    told = [change for change in changes if change.on_resume == REPORTED]
    for change in told:
        if change.key == "train.epochs" and change.now < change.before:
            raise InputError(f"{exp.root}: {change}: a run can only be made longer")
    return told


def check_steps_left(exp: RunFolder, config: Config, num_steps: int, changes: list[Change]) -> None:
    """Refuse changes of a run that has no step left on which they could act.

    Args:
        num_steps: of the whole run.
    """
    if changes and num_steps <= max(list_checkpoints(exp.checkpoints), default=0):
        listed = "; ".join(map(str, changes))
        raise InputError(f"{exp.root}: {listed}: of no effect, as {finished(config)}")


def finished(config: Config) -> str:
    """Describe how to continue a run that is complete."""
    epochs = config.train.epochs
    trained = "the one epoch is" if epochs == 1 else f"all {epochs} epochs are"
    return f"{trained} trained; train.epochs={2 * epochs} goes on to twice as many"


def check_contents(exp: RunFolder, contents: dict[str, dict[str, Any]]) -> None:
    """Compare what the manifests hold with what they held when the run began, wherever they lie now.

    Args:
        contents: ``Setup.data``.

    Raises:
        InputError: they hold something else.
    """
    begun = _begun_with(exp)
    if not begun:
        return
    for key in sorted(begun.keys() | contents.keys()):
        before, now = (each.get(key, {"num_utterances": 0}) for each in (begun, contents))
        if before == now:
            continue
        was, is_now = before.get("num_utterances"), now["num_utterances"]
        how = f"{was} utterances, now {is_now}" if was != is_now else f"{was} others"
        raise InputError(
            f"{exp.root}: cannot resume with other data: {key} held {how} (ids, order, texts and "
            "times are compared); give the same data, or name another folder with --exp"
        )


def _begun_with(exp: RunFolder) -> dict[str, Any]:
    """Return the content of the data when the run began; empty where an older version recorded none."""
    found = read_json_object(exp.run).get("data") if exp.run.is_file() else None
    return found if isinstance(found, dict) else {}


def _changes(old: Config, new: Config) -> list[Change]:
    before = {key: value for key, value, _ in configuration.walk(old)}
    return [
        Change(key, before[key], value, item.metadata["on_resume"])
        for key, value, item in configuration.walk(new)
        if before[key] != value
    ]
