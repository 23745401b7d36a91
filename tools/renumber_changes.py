"""Write the line numbers of the changes in docs/adding-a-variant.md anew.

usage: python tools/renumber_changes.py

For a change whose lines have only moved. One whose lines have changed, or stand there twice, is
named and left as it is.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "adding-a-variant.md"
HUNK = re.compile(r"^@@ -\d+,(\d+) \+\d+,(\d+) @@(.*\n)((?:[ +-].*\n)+)", flags=re.MULTILINE)


def renumbered(part: str) -> str:
    """The changes of one file with the line numbers that they have in it now.

    Raises:
        ValueError: a hunk's lines are not in the file, or in it more than once.
    """
    path = part.partition(" b/")[2].partition("\n")[0]
    added = 0  # lines that the hunks above add

    def numbered(hunk: re.Match[str]) -> str:
        nonlocal added
        before, after, function, lines = hunk.groups()
        old = re.sub(r"^\+.*\n|^[ -]", "", lines, flags=re.MULTILINE)
        if before == "0":
            return hunk[0]  # a new file
        above, *others = (ROOT / path).read_text(encoding="utf-8").split(old)
        if len(others) != 1:
            raise ValueError(f"{path}: the lines are there {len(others)} times:\n{old}")
        number = above.count("\n") + 1
        header = f"@@ -{number},{before} +{number + added},{after} @@{function}"
        added += int(after) - int(before)
        return header + lines

    return HUNK.sub(numbered, part)


def main() -> int:
    parts = re.split(r"^(?=diff --git )", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    try:
        page = parts[0] + "".join(map(renumbered, parts[1:]))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
