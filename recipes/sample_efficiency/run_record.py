"""Where a simulation's numbers came from: command, commit, machine, versions, digest of its source."""

from __future__ import annotations

import ast
import hashlib
from datetime import date
from pathlib import Path
from typing import Any

from asr.provenance import commit, environment, versions

HERE = Path(__file__).resolve().parent
STATED = ("python", "torch", "numpy")  # versions that can change these numbers


def record(command: str, sources: list[str]) -> dict[str, Any]:
    """Describe a run that starts now.

    Args:
        sources: modules of this folder that the numbers depend on; their text goes into the digest.
    """
    made_at, changed = commit()
    found = versions()
    return {
        "command": command,
        "commit": made_at,
        "changed": changed,
        "date": date.today().isoformat(),
        "platform": environment()["platform"],
        "processor": processor(),
        "versions": {name: found[name] for name in STATED},
        "sources": sources,
        "digest": digest(sources),
    }


def digest(sources: list[str]) -> str:
    """SHA-256 of the modules' syntax trees: comments and layout do not count."""
    text = "\n".join(ast.dump(ast.parse((HERE / name).read_text())) for name in sources)
    return hashlib.sha256(text.encode()).hexdigest()


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown processor"
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else "unknown processor"


def stated(run: dict[str, Any]) -> str:
    """The line of a page that says where its numbers came from.

    A page that is rendered later names the commit of its rendering where that has, word for word, the
    simulation that made the numbers, and otherwise the commit of the run.
    """
    now, changed = commit()
    if digest(run["sources"]) == run["digest"] and not changed:
        where = now
    else:
        where = run["commit"] + (" with uncommitted changes" if run["changed"] else "")
    numbers = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    return (
        f"Commit {where}; computed on {run['date']} in {run['minutes']:.0f} minutes on one thread; "
        f"{run['processor']}, {run['platform']}; {numbers}. Simulation: {', '.join(run['sources'])}, "
        f"SHA-256 of the syntax tree {run['digest'][:12]}."
    )
