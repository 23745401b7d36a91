"""Model folders to and from the Hugging Face hub, or a folder that people share.

A model is published with a card, and taken only if it holds nothing but a configuration, safetensors
weights, a tokenizer and a card, all of which load: no pickle, no code, no surprise.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from asr.config import Config
from asr.errors import InputError
from asr.files import file_hash, open_regular, read_text
from asr.formats import upgrade_name
from asr.model.folder import copy_carried, fill_folder, find_model, load_model, new_folder
from asr.run_folder import CARD, CARRIED_LM, CONFIG, SEARCH_WEIGHTS, WEIGHTS
from asr.share.card import CardOptions, model_card
from asr.text.tokenizer import CHAR_FILE, MAX_TOKENIZER_BYTES, SPM_FILE
from asr.weights_file import WeightsFile

# The most that each file of a model may have; weights are bounded by what loading needs.
MAX_BYTES = {
    CONFIG: 1 << 20,
    CARD: 1 << 20,
    CHAR_FILE: MAX_TOKENIZER_BYTES,
    SPM_FILE: MAX_TOKENIZER_BYTES,
    WEIGHTS: 64 << 30,
    CARRIED_LM: 1 << 30,
    SEARCH_WEIGHTS: 1 << 20,
}
# Texts without a list of choices that are none of a machine's: a model has heads of these names alone.
_NAMES = frozenset({("model", "heads")})
# The hub makes it by itself.
_IGNORED = frozenset({".gitattributes"})
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def as_folder(target: str) -> Path | None:
    """The folder that a target names (``./x``, ``/x``, ``~/x``); None for a repository of the hub.

    Raises:
        InputError: neither a folder nor a repository.
    """
    if target.startswith(("/", "./", "../", "~")) or target in (".", ".."):
        return Path(target).expanduser()
    if not _REPO.fullmatch(target):
        raise InputError(
            f"{target!r}: give OWNER/NAME for a repository of the hub, "
            "or a folder that starts with / or ./"
        )
    return None


def push(model: Path, target: str, options: CardOptions, private: bool = False) -> str:
    """Publishes the model folder that ``model`` is or holds; returns where it is now.

    The configuration goes without its free texts, which are paths on the author's machine, and the
    card names a shared folder without where it lies.

    Raises:
        InputError: it does not load, no such target, no permission, no connection; or the folder
            exists already.
    """
    folder = as_folder(target)
    source = find_model(model)
    loaded = load_model(source)
    repo = target if folder is None else f"./{folder.resolve().name}"
    card = model_card(loaded, model, repo, options)
    if (source / CARD).is_file() and options == CardOptions():
        card = read_text(source / CARD)  # licences and attributions stand there
    public = without_free_texts(loaded.config)

    def fill(stage: Path) -> None:
        weights = WeightsFile(source / WEIGHTS, upgrade_name).load_stored()
        fill_folder(stage, weights, public, loaded.tokenizer)
        (stage / CARD).write_text(card, encoding="utf-8")
        copy_carried(source, stage)

    if folder is not None:
        with new_folder(folder) as stage:
            fill(stage)
        return str(folder)
    with _hub_errors(target), tempfile.TemporaryDirectory(prefix="sigmoid-asr-push-") as name:
        from huggingface_hub import HfApi

        fill(Path(name))
        api = HfApi()
        url = api.create_repo(target, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=target, folder_path=name, commit_message="Model made with sigmoid-asr"
        )
        return str(url)


def without_free_texts(config: Config) -> Config:
    """The configuration with every text that is no choice among words at its default.

    Those are paths and devices of the machine that trained. Nothing of them is needed to decode.
    """
    sections = {}
    for section in dataclasses.fields(config):
        part = getattr(config, section.name)
        defaults = type(part)()
        reset = {
            item.name: getattr(defaults, item.name)
            for item in dataclasses.fields(part)
            if item.type in ("str", "list[str]")
            and item.metadata["choices"] is None
            and (section.name, item.name) not in _NAMES
        }
        sections[section.name] = dataclasses.replace(part, **reset)
    return Config(**sections)


def pull(target: str, out: Path, revision: str | None = None) -> Path:
    """Fetches a model into the new folder ``out``, which is there whole and checked, or not at all.

    Args:
        revision: branch, tag or commit of a repository; the newest by default.

    Raises:
        InputError: no such target, no connection, a file that a model has not, one that is too large
            or not what was announced, a model that does not load; or ``out`` exists.
    """
    folder = as_folder(target)
    with new_folder(out) as stage:
        if folder is None:
            _download(target, stage, revision)
        else:
            _copy(folder, stage)
        load_model(stage)
    return out


def check_files(sizes: dict[str, int], where: str) -> list[str]:
    """The files of a model to fetch, of all there are with their sizes in bytes.

    Raises:
        InputError: one that does not belong to a model, is too large, or is missing.
    """
    wanted = [name for name in sorted(sizes) if name not in _IGNORED]
    for name in wanted:
        if name not in MAX_BYTES:
            raise InputError(
                f"{where}: holds {name!r}, which is no part of a model; "
                f"a model is {', '.join(MAX_BYTES)}, and nothing was fetched"
            )
        if sizes[name] > MAX_BYTES[name]:
            raise InputError(
                f"{where}: {name} has {sizes[name]} bytes, more than the {MAX_BYTES[name]} allowed"
            )
    for name in (CONFIG, WEIGHTS):
        if name not in sizes:
            raise InputError(f"{where}: not a model: {name} is missing")
    return wanted


def _copy(folder: Path, stage: Path) -> None:
    source = find_model(folder)
    sizes = {path.name: path.stat().st_size for path in source.iterdir()}
    for name in check_files(sizes, str(source)):
        try:
            content = open_regular(source / name)
        except OSError as error:
            raise InputError(f"{source / name}: cannot read: {error.strerror}") from None
        with content, (stage / name).open("wb") as copy:
            shutil.copyfileobj(content, copy)


def _download(repo: str, stage: Path, revision: str | None) -> None:
    with _hub_errors(repo):
        from huggingface_hub import HfApi

        api = HfApi()
        info = api.model_info(repo, revision=revision, files_metadata=True)
        announced = {item.rfilename: item for item in info.siblings or []}
        sizes = {name: item.size or 0 for name, item in announced.items()}
        for name in check_files(sizes, repo):
            assert PurePosixPath(name).name == name  # check_files knows every name
            # not into `stage` itself: the hub's client leaves its notes beside what it fetches
            path = Path(
                api.hf_hub_download(repo, name, revision=info.sha, local_dir=stage / ".download")
            )
            lfs = announced[name].lfs
            _check_download(path, sizes[name], lfs.sha256 if lfs else None, f"{repo}: {name}")
            shutil.move(path, stage / name)
        shutil.rmtree(stage / ".download", ignore_errors=True)


def _check_download(path: Path, num_bytes: int, sha256: str | None, where: str) -> None:
    found = path.stat().st_size
    if found != num_bytes:
        raise InputError(f"{where}: {found} bytes came, {num_bytes} were announced")
    if sha256 is not None and file_hash(path) != sha256:
        raise InputError(f"{where}: its SHA-256 sum is not the one announced; fetch it again")


@contextmanager
def _hub_errors(repo: str) -> Iterator[None]:
    """One line for everything that can go wrong between here and the hub."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise InputError("the hub needs huggingface_hub: pip install sigmoid-asr[hub]")
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # its warnings of every retry; what comes of it is said below
    try:
        yield
    except InputError:
        raise
    except HfHubHTTPError as error:
        status = error.response.status_code
        hint = "; log in with `hf auth login` or set HF_TOKEN" if status in (401, 403) else ""
        reason = error.server_message or str(error).splitlines()[0]
        raise InputError(f"{repo}: the hub answers {status}: {_line(reason)}{hint}") from None
    except httpx2.HTTPError as error:
        raise InputError(
            f"{repo}: the hub cannot be reached ({type(error).__name__}: {_line(error)}); "
            "is there an internet connection?"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{repo}: {type(error).__name__}: {_line(error)}") from None


def _line(text: object) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= 200 else line[:197] + "..."
