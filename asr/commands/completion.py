"""`asr completion`: a script with which bash or zsh completes commands, options and their values.

The script is made from the parser and knows all words: a TAB starts no Python.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from asr.box import NAMES
from asr.commands.options import Verbs, path

# Values of options that are checked past the parser.
_WORDS = {
    "search": ("greedy", "beam"),
    "precision": ("fp32", "int8", "bf16"),
    "device": ("auto", "cpu", "cuda"),
    "sample_format": ("s16le", "s32le", "f32le"),
}

_BASH = """
_asr_model_dirs() { compgen -W "MODELS" -- "$1"; compgen -d -- "$1"; }
_asr_settings() { compgen -W "NAMES" -- "$1"; }
WORDS
# bash splits words at = and would put a space behind it
_asr() {
  local word=${COMP_WORDS[COMP_CWORD]} before=$((COMP_CWORD - 1))
  [[ $word == = ]] && word= before=$COMP_CWORD
  if [[ ${COMP_WORDS[before]} == = && $(_asr_values "${COMP_WORDS[before - 1]}") ]]; then
    COMPREPLY=($(compgen -W "$(_asr_values "${COMP_WORDS[before - 1]}")" -- "$word"))
    return
  fi
  _shtab_asr
  [[ ${COMPREPLY[0]-} == *= ]] && compopt -o nospace
}
"""
_ZSH = """
_asr_model_dirs() { compadd -- MODELS; _files -/ }
_asr_settings() {
  if compset -P 1 '*='; then compadd -- $(_asr_values ${IPREFIX%=}); else compadd -S '' -- NAMES; fi
}
WORDS
"""


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "completion",
        help="a script that completes words in bash or zsh",
        description="Prints the script: bash reads it from the end of ~/.bashrc, or from "
        "~/.local/share/bash-completion/completions/asr; zsh by eval in ~/.zshrc.",
    )
    parser.add_argument("shell", choices=("bash", "zsh"), help="the shell that reads it")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import shtab

    for action in _actions(args.root):
        if action.dest == "overrides":
            complete: object = {"bash": "_asr_settings", "zsh": "_asr_settings"}
        elif action.dest == "model":
            complete = {"bash": "_asr_model_dirs", "zsh": "_asr_model_dirs"}
        elif action.dest in _WORDS and not action.choices:
            complete = {"bash": f"_asr_{action.dest}", "zsh": f"_asr_{action.dest}"}
        elif action.type is path or action.dest == "inputs":
            complete = shtab.FILE
        else:
            continue
        action.complete = complete  # type: ignore[attr-defined]  # where shtab looks
    bash = args.shell == "bash"
    preamble = (
        _preamble(_BASH, 'compgen -W "{}" -- "$1"') if bash else _preamble(_ZSH, "compadd -- {}")
    )
    print(shtab.complete(args.root, args.shell, preamble=preamble))
    if bash:
        print("\ncomplete -o bashdefault -F _asr asr")
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _actions(inner)


def _preamble(script: str, offer: str) -> str:
    """Functions of the shell that shtab's script calls, with the configuration's names and values.

    Args:
        offer: the shell's command that offers words, which stand at ``{}``.
    """
    from asr import config

    options = list(config.walk(config.Config()))
    cases = "".join(
        f"    {key}) echo {' '.join(map(str, item.metadata['choices'] or ('true', 'false')))};;\n"
        for key, value, item in options
        if item.metadata["choices"] or isinstance(value, bool)
    )
    words = [f"_asr_values() {{\n  case $1 in\n{cases}  esac\n}}"]
    for name, known in _WORDS.items():
        words.append(f"_asr_{name}() {{ {offer.format(' '.join(known))}; }}")
    names = " ".join(f"{key}=" for key, _, _ in options)
    return (
        script.replace("MODELS", " ".join(NAMES))
        .replace("NAMES", names)
        .replace("WORDS\n", "\n".join(words) + "\n")
    )
