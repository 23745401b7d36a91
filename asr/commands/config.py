"""`asr config`: every option."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from asr.commands.options import Verbs, path

if TYPE_CHECKING:
    from asr.config import Config


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("config", help="every option: value, meaning, allowed values")
    parser.add_argument("--config", type=path, nargs="+", default=[], help="yaml files, later wins")
    parser.add_argument(
        "--show", action="store_true", help="a table: default, allowed values and meaning of each"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="over those of --config"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from asr import config

    effective = config.load(args.config, args.overrides)
    if args.show:
        print(_table(effective))
        return 0
    for key, value, item in config.walk(effective):
        print(f"{key} = {value!r}  # {config.explain(item)}")
    return 0


def _table(effective: Config) -> str:
    """A section after the other in aligned columns; a value other than the default stands behind it."""
    from asr import config
    from asr.columns import in_columns

    defaults = {key: value for key, value, _ in config.walk(config.Config())}
    rows: list[tuple[str, ...]] = [("key", "default", "allowed", "meaning")]
    section = None
    for key, value, item in config.walk(effective):
        if key.partition(".")[0] != section:
            section = key.partition(".")[0]
            rows.append(())
        default = _spell(defaults[key])
        shown = default if value == defaults[key] else f"{default} -> {_spell(value)}"
        rows.append((key, shown, config.allowed(item), str(item.metadata["help"])))
    return in_columns(rows, left=range(4), rule=False)


def _spell(value: Any) -> str:
    """Return a value as the command line and yaml spell it."""
    return value if isinstance(value, str) and value else json.dumps(value)
