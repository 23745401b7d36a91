"""LibriSpeech's folder layout to Lhotse manifests, and the official parts by download.

``<corpus>/<part>/<speaker>/<chapter>/<speaker>-<chapter>-<utterance>.flac`` (or .wav, .opus, .ogg,
.mp3) beside one ``<speaker>-<chapter>.trans.txt`` per chapter with lines ``<utterance id> <TEXT>``.
"""

from __future__ import annotations

import difflib
import hashlib
import http
import http.client
import os
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from asr.data.corpora.common import read_lines
from asr.data.store.manifest import LeftOut
from asr.data.store.preparation import Part, PartReport, Utterance, prepare_parts
from asr.errors import InputError

AUDIO_EXTENSIONS = (".flac", ".wav", ".opus", ".ogg", ".mp3")
TRANSCRIPT_SUFFIX = ".trans.txt"


def prepare_librispeech(
    corpus: Path,
    out: Path,
    parts: Sequence[str] | None = None,
    num_jobs: int = 0,
    check_audio: bool = True,
) -> list[PartReport]:
    """Write ``<out>/<part>.cuts.jsonl.gz`` and ``<out>/<part>.report.json`` for every part.

    Args:
        corpus: the folder that holds the parts, or the parent of such a ``LibriSpeech`` folder.
        parts: all parts found if None.
        num_jobs: threads that decode; 0 is one per core.
        check_audio: decode every file, which is what notices truncated and NaN audio.

    Raises:
        InputError: no such corpus, an unknown part, a part without a usable utterance. Parts are
            checked before the first is written.
    """
    corpus = Path(corpus)
    for part in parts or ():
        if corpus.is_dir() and (corpus / part).is_dir() and not any(_used_chapters(corpus / part)):
            raise InputError(f"{corpus / part}: an empty part: neither audio nor transcripts in it")
    root = find_corpus(corpus)
    known = list_parts(root)
    chosen = list(dict.fromkeys(parts)) if parts is not None else known
    if not chosen:
        raise InputError("no part named: give at least one, or none at all for every part")
    for part in chosen:
        if part not in known:
            raise InputError(_unknown_part(root, part, known))
    scanned = [_scan_part(root / part) for part in chosen]
    return prepare_parts(scanned, Path(out), num_jobs=num_jobs, check=check_audio)


def find_corpus(corpus: Path) -> Path:
    """The folder whose children are parts.

    Raises:
        InputError: no such folder, or one without any part.
    """
    if not corpus.is_dir():
        raise InputError(f"{corpus}: no such corpus folder")
    for root in (corpus, corpus / "LibriSpeech"):
        if root.is_dir() and list_parts(root):
            return root
    raise InputError(
        f"{corpus}: not a corpus in LibriSpeech's layout: "
        f"expected <part>/<speaker>/<chapter>/*{TRANSCRIPT_SUFFIX} below it"
    )


def list_parts(root: Path) -> list[str]:
    """Folders whose ``<speaker>/<chapter>`` folders hold audio or transcripts, sorted."""
    return sorted(
        path.name for path in root.iterdir() if path.is_dir() and any(_used_chapters(path))
    )


def _used_chapters(part: Path) -> Iterator[Path]:
    endings = (*AUDIO_EXTENSIONS, TRANSCRIPT_SUFFIX)
    for _, chapter in _chapters(part):
        if any(path.name.lower().endswith(endings) for path in chapter.iterdir()):
            yield chapter


def _chapters(part: Path) -> Iterator[tuple[str, Path]]:
    """(speaker, chapter folder), sorted."""
    for speaker in _folders(part):
        for chapter in _folders(speaker):
            yield speaker.name, chapter


def _folders(path: Path) -> list[Path]:
    with os.scandir(path) as entries:
        return sorted(Path(e.path) for e in entries if e.is_dir() and not e.name.startswith("."))


def _scan_part(part: Path) -> Part:
    utterances: list[Utterance] = []
    left_out: list[LeftOut] = []
    for speaker, chapter in _chapters(part):
        audio: dict[str, list[Path]] = {}
        texts: dict[str, str] = {}
        for path in sorted(chapter.iterdir()):
            if path.suffix.lower() in AUDIO_EXTENSIONS and not path.name.startswith("."):
                audio.setdefault(path.stem, []).append(path)
            elif path.name.endswith(TRANSCRIPT_SUFFIX) and not path.name.startswith("."):
                _read_transcripts(path, texts, left_out)
        for key, paths in audio.items():
            for path in paths:
                if key in texts:
                    utterances.append(Utterance(key, path, texts[key], speaker))
                else:
                    left_out.append(LeftOut(key, "audio without transcript", str(path)))
        left_out += [
            LeftOut(key, "transcript without audio", str(chapter))
            for key in texts
            if key not in audio
        ]
    return Part(part.name, utterances, left_out)


def _read_transcripts(path: Path, texts: dict[str, str], left_out: list[LeftOut]) -> None:
    """Adds to ``texts``; a text stays as it is in the file, normalisation comes later."""
    try:
        lines = list(read_lines(path, left_out))
    except InputError as error:
        left_out.append(LeftOut(path.name, "unreadable transcript", str(error)))
        return
    for number, line in lines:
        key, *rest = line.split(maxsplit=1)
        text = rest[0] if rest else ""
        if key in texts:
            left_out.append(LeftOut(key, "duplicate id", f"{path}, line {number}"))
        else:
            texts[key] = text.strip()


def _unknown_part(root: Path, part: str, known: Sequence[str]) -> str:
    if (root / part).is_dir():
        return f"{root / part}: an empty part: neither audio nor transcripts in it"
    nearest = difflib.get_close_matches(part, known, n=1, cutoff=0.4)
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    return f"{root}: no part {part!r}; {hint}known: {', '.join(known)}"


# Parts and the MD5 sums that OpenSLR publishes beside them (resources 12 and 31).
OFFICIAL_PARTS = {
    "dev-clean": (12, "42e2234ba48799c1f50f24a7926300a1"),
    "dev-other": (12, "c8d0bcc9cca99d4f8b62fcc847357931"),
    "test-clean": (12, "32fa31d27d2e1cad72775fee3f4849a9"),
    "test-other": (12, "fb5a50374b501bb3bac4815ee91d3135"),
    "train-clean-100": (12, "2a93770f6d5c6c964bc36631d331a522"),
    "train-clean-360": (12, "c0e676e450a7ff2f54aeade5171606fa"),
    "train-other-500": (12, "d1a0fd59409feb2c614ce4d30c387708"),
    "dev-clean-2": (31, "6d7ab67ac6a1d2c993d050e16d61080d"),
    "train-clean-5": (31, "5df7d4e78065366204ca6845bb08f490"),
}
OPENSLR_URL = "https://www.openslr.org/resources"

_BLOCK_BYTES = 1 << 20
_TIMEOUT_S = 30


def download_librispeech(
    parts: Sequence[str], target: Path, base_url: str = OPENSLR_URL
) -> list[Path]:
    """Fetch official parts into ``<target>/LibriSpeech/<part>``; returns these folders.

    A part already there is left alone, a broken download is resumed, an archive is checked by its
    MD5 sum, and a part appears only when it is complete.

    Raises:
        InputError: an unknown part, no connection, a checksum that differs, no space.
    """
    for part in parts:
        if part not in OFFICIAL_PARTS:
            nearest = difflib.get_close_matches(part, OFFICIAL_PARTS, n=1, cutoff=0.4)
            hint = f"did you mean {nearest[0]}? " if nearest else ""
            raise InputError(f"no official part {part!r}; {hint}known: {', '.join(OFFICIAL_PARTS)}")
    folders = []
    for part in dict.fromkeys(parts):
        folder = Path(target) / "LibriSpeech" / part
        if not folder.is_dir():
            resource, md5 = OFFICIAL_PARTS[part]
            archive = Path(target) / f"{part}.tar.gz"
            try:
                _fetch(f"{base_url}/{resource}/{part}.tar.gz", archive, md5)
                _unpack(archive, part, folder)
            except OSError as error:
                raise InputError(f"{folder}: cannot be written: {error}") from None
            archive.unlink()
        folders.append(folder)
    return folders


def _fetch(url: str, archive: Path, md5: str) -> None:
    """Make ``archive``, which appears only when it is complete and checked."""
    if archive.is_file():
        return
    partial = archive.with_name(archive.name + ".partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        _resume(url, partial)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise InputError(f"{url}: {error.code} {error.reason}") from None
        # Nothing is left to resume: the file may be complete, its sum will tell.
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as error:
        reason = getattr(error, "reason", error)
        raise InputError(
            f"{url}: cannot be fetched ({reason}); "
            "is there an internet connection? a second run resumes"
        ) from None
    digest = hashlib.md5(usedforsecurity=False)
    with open(partial, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    if digest.hexdigest() != md5:
        partial.unlink()
        raise InputError(f"{url}: MD5 sum {digest.hexdigest()} instead of {md5}; fetch it again")
    partial.rename(archive)


def _resume(url: str, partial: Path) -> None:
    """Fetch what ``partial`` lacks; everything, if the server cannot start in the middle."""
    present = partial.stat().st_size if partial.is_file() else 0
    request = urllib.request.Request(url)
    if present:
        request.add_header("Range", f"bytes={present}-")
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
        done = present if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        length = int(response.headers.get("Content-Length") or 0)
        with (
            open(partial, "ab" if done else "wb") as file,
            tqdm(
                total=done + length or None,
                initial=done,
                desc=partial.stem,
                unit="B",
                unit_scale=True,
                disable=None,
            ) as bar,
        ):
            while block := response.read(_BLOCK_BYTES):
                file.write(block)
                bar.update(len(block))


def _unpack(archive: Path, part: str, folder: Path) -> None:
    """Only plain files below ``LibriSpeech/<part>/``; the folder appears when all are written."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{part}."))
    prefix = PurePosixPath("LibriSpeech", part)
    try:
        with tarfile.open(archive) as tar:
            for member in tqdm(tar, desc=f"unpack {part}", unit="file", disable=None):
                path = PurePosixPath(member.name)
                if not member.isfile() or prefix not in path.parents or ".." in path.parts:
                    continue
                content = tar.extractfile(member)
                assert content is not None
                written = partial / path.relative_to(prefix)
                written.parent.mkdir(parents=True, exist_ok=True)
                with content, open(written, "wb") as file:
                    shutil.copyfileobj(content, file, _BLOCK_BYTES)
    except (tarfile.TarError, EOFError) as error:
        shutil.rmtree(partial)
        raise InputError(f"{archive}: not a complete archive ({error})") from None
    except BaseException:
        shutil.rmtree(partial)
        raise
    partial.chmod(0o755)
    partial.rename(folder)
