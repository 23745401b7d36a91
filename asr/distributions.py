"""The installed distributions that brought the packages imported here.

Two of ours carry ``sigmoid_attention``: the whole, and ``kernels/`` alone. Both install it in the same
place, so the later one writes over the files of the earlier, and uninstalling one takes them from both.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path
from urllib.parse import unquote, urlparse

import asr

# How each distribution of ours is installed again, from the root of a checkout.
REPAIR = {
    "sigmoid-asr": "pip install --force-reinstall --no-deps .",
    "sigmoid-attention": "pip install --force-reinstall --no-deps ./kernels",
}
# Import names, and the distributions of ours that bring them.
PACKAGES = {"asr": ("sigmoid-asr",), "sigmoid_attention": tuple(REPAIR)}
# What a distribution has to do with the files that are imported.
WHOLE, CHANGED, ELSEWHERE = "installed them", "installed others there", "installed others elsewhere"
LOST = (
    "the package sigmoid_attention, a part of sigmoid-asr, is not installed any more (uninstalling "
    f"sigmoid-attention removes it): {REPAIR['sigmoid-asr']}, in a checkout of sigmoid-asr"
)


def mixed() -> list[str]:
    """Return a warning where the whole and the attention library are of different versions."""
    import sigmoid_attention  # not on import of this module, which also tells that it is missing

    if sigmoid_attention.__version__ == asr.__version__:
        return []
    return [
        f"WARNING     asr is version {asr.__version__} and sigmoid_attention "
        f"{sigmoid_attention.__version__}: only equal versions are tested together"
    ]


def describe(package: str) -> list[str]:
    """Say where a package of ours is imported from, who installed it, and what is wrong with that."""
    spec = util.find_spec(package)
    folder = Path(spec.origin).resolve().parent if spec is not None and spec.origin else None
    relations: dict[str, str] = {}  # by name and version
    shared = []  # by those that copied their files here
    warnings, notes = [], []
    for distribution in _owners(package):
        name, version = distribution.metadata["Name"], distribution.version
        if name not in PACKAGES[package]:
            warnings.append(
                f"{name} {version} installs a package {package} too: one overwrites the other; "
                f"pip uninstall {name}, then install sigmoid-asr again"
            )
        elif relations.get(f"{name} {version}", ELSEWHERE) == ELSEWHERE:
            relations[f"{name} {version}"] = relation = _relation(distribution, package, folder)
            if relation != ELSEWHERE and _editable(distribution) is None:
                shared.append(f"{name} {version}")
    for name, relation in relations.items():
        if relation == ELSEWHERE:
            notes.append(f"{name} is installed elsewhere and not imported")
        if relation == CHANGED:
            warnings.append(
                f"these are not the files of {package} that {name} installed: another distribution "
                f"wrote over them, or they were changed; {REPAIR[name.split()[0]]}"
            )
    if len(shared) > 1:
        notes.append(
            f"{' and '.join(shared)} share these files: pip uninstall of one takes them from both, "
            "until the other is installed again"
        )
    whole = [name for name, relation in relations.items() if relation == WHOLE]
    parts = " and ".join(whole) or "no installed distribution"
    return [
        f"{package:11s} imported from {folder or 'nowhere'}, part of {parts}",
        *(f"note        {text}" for text in notes),
        *(f"WARNING     {text}" for text in warnings),
    ]


def _owners(package: str) -> Iterator[metadata.Distribution]:
    """Yield the distributions that declare an import name, one for each place of installation."""
    names = set(metadata.packages_distributions().get(package, []))
    for distribution in metadata.distributions():
        if distribution.metadata["Name"] in names:
            yield distribution


def _relation(distribution: metadata.Distribution, package: str, folder: Path | None) -> str:
    """Compare what a distribution installed with the package that is imported from ``folder``."""
    source = _editable(distribution)
    if source is not None:
        return WHOLE if folder is not None and source in folder.parents else ELSEWHERE
    if Path(str(distribution.locate_file(package))).resolve() != folder:
        return ELSEWHERE
    recorded = [path for path in distribution.files or () if path.parts[0] == package]
    return WHOLE if all(_as_recorded(path) for path in recorded) else CHANGED


def _editable(distribution: metadata.Distribution) -> Path | None:
    """Return the source folder of an editable installation."""
    text = distribution.read_text("direct_url.json")
    told = json.loads(text) if text else {}
    if not told.get("dir_info", {}).get("editable"):
        return None
    return Path(unquote(urlparse(told["url"]).path)).resolve()


def _as_recorded(path: metadata.PackagePath) -> bool:
    if path.hash is None or not re.fullmatch("sha256|sha384|sha512", path.hash.mode):
        return True  # compiled files, which each machine makes by itself
    try:
        content = Path(str(path.locate())).read_bytes()
    except OSError:
        return False
    digest = hashlib.new(path.hash.mode, content).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == path.hash.value
