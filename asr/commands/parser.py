"""argparse with defaults in the help, and the nearest right word beside a wrong one."""

from __future__ import annotations

import argparse
import difflib
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

# One to paste for each command, shown at the end of its help.
EXAMPLES = {
    "prepare": "asr prepare folder --corpus talks --out data",
    "subset": "asr subset --cuts data/train.cuts.jsonl.gz --out data/few.cuts.jsonl.gz --first 100",
    "join": "asr join --cuts data/train.cuts.jsonl.gz --out data/joined.cuts.jsonl.gz",
    "shard": "asr shard --cuts data/train.cuts.jsonl.gz --out shards",
    "train": "asr train --exp exp/mine data.train=[data/train.cuts.jsonl.gz] "
    "data.dev=[data/dev.cuts.jsonl.gz]",
    "average": "asr average --exp exp/mine --last 5 --out exp/mine-mean",
    "lm": "asr lm train --text data/train.cuts.jsonl.gz --order 3 --out lm.arpa",
    "decode": "asr decode --model exp/mine --cuts data/test.cuts.jsonl.gz",
    "score": "asr score exp/mine/decode/test",
    "transcribe": "asr transcribe talk.mp3 lectures/ --model exp/mine --format srt,json --out text",
    "stream": "arecord -f S16_LE -r 16000 -t raw | asr stream --model exp/mine",
    "align": "asr align --model exp/mine --audio talk.wav --text-file talk.txt --out times",
    "tune": "asr tune --model exp/mine --cuts data/dev.cuts.jsonl.gz --lm lm.arpa",
    "export": "asr export --model exp/mine --out mine.onnx",
    "models": "asr models real-en",
    "compare": "asr compare exp/softmax exp/sigmoid --out comparison",
    "diagnose": "asr diagnose exp/mine --cuts data/dev.cuts.jsonl.gz",
    "certify": "asr certify exp/mine --cuts data/dev.cuts.jsonl.gz",
    "push": "asr push exp/mine USER/NAME",
    "pull": "asr pull USER/NAME --out exp/theirs",
    "config": "asr config --show attention.weighting=softmax",
    "completion": "asr completion bash",
    "doctor": "asr doctor",
}


# A setting of a configuration, wherever it stands among the options.
_SETTING = re.compile(r"[A-Za-z_][\w.]*=", re.ASCII)


class Help(argparse.RawDescriptionHelpFormatter):
    """Shows the default of each option that has one to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        told = text is None or "default" in text or not action.option_strings
        if told or action.default in (None, False, "", argparse.SUPPRESS) or action.default == []:
            return text
        return f"{text} (default: %(default)s)"


class Parser(argparse.ArgumentParser):
    """A command's parser. The parsed arguments hold, as ``parser``, that of the innermost command."""

    def __init__(self, *words: Any, **options: Any) -> None:
        options.setdefault("formatter_class", Help)
        super().__init__(*words, **options)
        self.set_defaults(parser=self)
        self._words: list[str] = []

    def parse_all(self, words: Sequence[str], namespace: argparse.Namespace) -> argparse.Namespace:
        """Parse, or exit with status 2 and a line that names the nearest option."""
        args, unknown = self.parse_known_args(words, namespace)
        if unknown:
            args.parser.refuse(unknown)
        return args

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse as argparse does, but take ``section.key=value`` for ``overrides`` at any place.

        argparse takes positional words of one place only, and ``--config FILE...`` would take those
        that follow it.
        """
        self._words = [] if args is None else list(args)
        if args is None or not any(action.dest == "overrides" for action in self._actions):
            return super().parse_known_args(args, namespace)
        settings: list[str] = []
        others: list[str] = []
        for before, word in zip(["", *args], args, strict=False):
            action = self._option_string_actions.get(before)
            is_value = action is not None and action.nargs is None
            is_setting = not is_value and _SETTING.match(word) is not None
            (settings if is_setting else others).append(word)
        parsed, unknown = super().parse_known_args(others, namespace)
        parsed.overrides = [*settings, *parsed.overrides]
        return parsed, unknown

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """Exit because of arguments that this command does not have."""
        super().error(f"unrecognized arguments: {' '.join(unknown)}{self._hint_of(unknown)}")

    def error(self, message: str) -> NoReturn:
        """Exit with argparse's complaint and the first option that does not exist, if there is one: a
        required option that is said to be missing may be there, misspelt."""
        mine = self._words
        if self._subparsers is not None:  # the options after a command are not of this parser
            mine = list(itertools.takewhile(lambda word: word.startswith("-"), mine))
        names = [word.partition("=")[0] for word in mine if word.startswith("--") and word != "--"]
        known = self._option_string_actions
        for name in names:
            if not any(option.startswith(name) for option in known):
                message += f"; unrecognized: {name}{self._hint_of([name])}"
                break
        super().error(message)

    def _hint_of(self, words: Sequence[str]) -> str:
        options = [word.partition("=")[0] for word in words if word.startswith("-")]
        return next(
            (hint for word in options if (hint := _hint(word, self._option_string_actions))), ""
        )

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            hint = _hint(str(value), map(str, action.choices or ()))
            raise argparse.ArgumentError(action, f"{error.message}{hint}") from None


def _hint(word: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""
