"""`asr completion`: a script with which bash or zsh completes commands, options and their values.

The script is made from the parser and knows all words: a TAB starts no Python.
"""

from __future__ import annotations

import argparse
import re
import shlex
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

_FLAG = ("true", "false")

_BASH = """
# words begin with the quote that was typed; compgen removes backslashes
_asr_model_dirs() { compgen -W "MODELS" -- "$1"; compgen -d -- "${1#[\\"\\']}"; }
_asr_settings() {
  local key=${1%%=*}
  if [[ $1 != *=* ]]; then compgen -W "NAMES" -- "$1"; return; fi
  local IFS=$'\\n'
  compgen -P "$key=" -W "$(_asr_values "$key")" -- "${1#*=}" | sed 's/ /\\\\ /g'
}
# settings come behind the files of --config, too
_asr_config_files() {
  [[ $previous_word == --config || $completing_word == -* ]] || _asr_settings "$1"
  _shtab_compgen_files "$1"
}
WORDS
# bash splits words at = and : and completes what is behind them
_asr() {
  local words=() last=-1 glue= typed=${COMP_WORDS[COMP_CWORD]} word before
  for word in "${COMP_WORDS[@]:0:COMP_CWORD + 1}"; do
    if [[ $word == = && ${words[last]} == --* ]]; then words[++last]= glue=yes
    elif [[ $word == [=:]* ]]; then words[last]+=$word glue=yes
    elif [[ $glue ]]; then words[last]+=$word glue=
    else words[++last]=$word
    fi
  done
  [[ $typed == [=:]* ]] && typed=
  before=${words[last]%"$typed"}
  local COMP_WORDS=("${words[@]}") COMP_CWORD=$last
  _shtab_asr
  # a setting is no file name to quote, and its value follows without a space
  [[ ${COMPREPLY[0]-} == [a-z]*.[a-z]*=* ]] && compopt +o filenames
  [[ ${COMPREPLY[0]-} == *= ]] && compopt -o nospace
  COMPREPLY=("${COMPREPLY[@]#"$before"}")
}
"""
_BASH_END = """
# behind an option of several values its next one may stand, or another option
_shtab_compgen_files() {
  if [[ $completing_word == -* ]]; then
    compgen -W "${current_option_strings[*]}" -- "$completing_word"
  else compgen -f -- "${1#[\\"\\']}"; fi
}
complete -o bashdefault -F _asr asr"""
_ZSH = """
_asr_model_dirs() { compadd -- MODELS; _files -/ }
_asr_settings() {
  if compset -P 1 '*='; then compadd -- ${(f)"$(_asr_values ${IPREFIX%=})"}
  else compadd -S '' -- NAMES || _files; fi
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
        elif action.dest == "config":
            complete = {"bash": "_asr_config_files", "zsh": "_files"}
        elif action.dest == "model":
            complete = {"bash": "_asr_model_dirs", "zsh": "_asr_model_dirs"}
        elif action.dest in _WORDS and not action.choices:
            complete = {"bash": f"_asr_{action.dest}", "zsh": f"_asr_{action.dest}"}
        elif action.type is path or action.dest == "inputs":
            several = " several" if action.option_strings and action.nargs == "+" else ""
            complete = shtab.FILE | {"zsh": f"_files{several}"}
        elif isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                inner.description = None  # shtab would show it in place of the help
            continue
        else:
            continue
        action.complete = complete  # type: ignore[attr-defined]  # where shtab looks
    if args.shell == "bash":
        preamble = _preamble(_BASH, 'compgen -W "{}" -- "$1"')
        print(shtab.complete(args.root, "bash", preamble=preamble) + _BASH_END)
    else:
        script = shtab.complete(args.root, "zsh", preamble=_preamble(_ZSH, "compadd -- {}"))
        print(_repaired(script))
    return 0


def _repaired(script: str) -> str:
    """Let shtab's zsh script complete every value of an argument, and ``--option=value``."""
    script = re.sub(r'^  "\(\*\)::?', '  "*:', script, flags=re.MULTILINE)
    # further values of an option are arguments to zsh; options with several stand with no others
    script = re.sub(r':(\w+):_files several"', r':\1:_files"\n  "*:\1:_files"', script)
    return re.sub(r'^(  "\*?--[\w-]+)(?=\[.*\]:)', r"\1=", script, flags=re.MULTILINE)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _actions(inner)


def _preamble(script: str, offer: str) -> str:
    """Return the shell functions that shtab's script calls, with the settings and their values.

    Args:
        offer: the shell's command that offers words, which stand at ``{}``.
    """
    from asr import config

    options = list(config.walk(config.Config()))
    cases = "".join(
        f"    {key}) printf '%s\\n' {shlex.join(map(str, item.metadata['choices'] or _FLAG))};;\n"
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
