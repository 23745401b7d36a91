"""The README's example runs as it stands there, and its words are the package's."""

import re
from pathlib import Path

from sigmoid_attention import dispatch

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_example_runs():
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(example.splitlines()) <= 11
    exec(compile(example, "README.md", "exec"), {})


def test_every_backend_has_its_row():
    rows = re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)
    assert ["auto", *rows] == list(dispatch.BACKENDS)
