"""A folder of audio files, each with its transcript beside it: ``talk.mp3`` and ``talk.txt``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from asr.data.audio.extensions import is_audio_name, is_unknown_name, walk_files
from asr.data.corpora.common import name_utterances
from asr.data.speakers import UNKNOWN_SPEAKER
from asr.data.store.manifest import LeftOut
from asr.data.store.preparation import Part, Utterance
from asr.errors import InputError
from asr.files import read_bytes

TRANSCRIPT_SUFFIX = ".txt"


def read_folder(corpus: Path, speaker_level: int = 0) -> Part:
    """Every audio file in the folder and the folders in it; the part has the folder's name.

    Lines of a transcript are joined.

    Args:
        speaker_level: which folder below ``corpus`` is named after the speaker, 1 is the first;
            0: speakers are unknown.

    Raises:
        InputError: no such folder, one without an audio file, or a file that lies less than
            ``speaker_level`` folders deep.
    """
    if not corpus.is_dir():
        raise InputError(f"{corpus}: no such folder")
    utterances: list[Utterance] = []
    left_out: list[LeftOut] = []
    transcripts: set[Path] = set()
    for path in walk_files(corpus):
        if path.suffix.lower() == TRANSCRIPT_SUFFIX:
            transcripts.add(path)
        elif is_audio_name(path):
            speaker = _speaker(path, corpus, speaker_level)
            utterances.append(Utterance("", path, "", speaker))
        elif is_unknown_name(path):
            left_out.append(LeftOut(path.name, "not audio by its name", str(path)))
    if not utterances:
        raise InputError(
            f"{corpus}: no audio file in it; expected NAME.wav (or .flac, .mp3, …) beside NAME.txt"
        )
    told = []
    for item in name_utterances(utterances):
        transcript = item.audio_path.with_suffix(TRANSCRIPT_SUFFIX)
        transcripts.discard(transcript)
        try:
            text = read_bytes(transcript).decode("utf-8-sig")
        except FileNotFoundError:
            left_out.append(LeftOut(item.id, "audio without transcript", str(item.audio_path)))
        except UnicodeDecodeError:
            left_out.append(LeftOut(item.id, "unreadable transcript", f"{transcript}: not UTF-8"))
        except OSError as error:
            detail = f"{transcript}: {error.strerror}"
            left_out.append(LeftOut(item.id, "unreadable transcript", detail))
        else:
            told.append(replace(item, text=" ".join(text.split())))
    left_out += [
        LeftOut(path.stem, "transcript without audio", str(path)) for path in sorted(transcripts)
    ]
    return Part(corpus.resolve().name, told, left_out)


def _speaker(path: Path, corpus: Path, level: int) -> str:
    folders = path.relative_to(corpus).parts[:-1]
    if level == 0:
        return UNKNOWN_SPEAKER
    if len(folders) < level:
        raise InputError(f"{path}: is not in {level} folders below {corpus}, so has no speaker")
    return folders[level - 1]
