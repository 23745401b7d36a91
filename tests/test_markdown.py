"""What others call their things is text in our pages: the oracle is a renderer of Markdown."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asr.markdown import block, cell, code, one_line, row, table, text_line

renderer = pytest.importorskip("markdown_it", reason="markdown-it-py not installed")

# letters that mean something to Markdown or HTML come often
TEXTS = st.text(
    st.one_of(st.sampled_from("`*_~[]()<>!|\\&#-+=:.'\" 1a\n\t{}$^"), st.characters()), max_size=12
)
HOSTILE = [
    "<script>alert(1)</script>",
    "a | b",
    "a\\",
    "\\|",
    "x\n\n# y",
    "```\n<img src=x>",
    "[a](javascript:alert(1))",
    "![a](http://127.0.0.1/x.png)",
    "[a]: http://127.0.0.1/ 'x'",
    "[1]",
    "&lt;b&gt;",
    "<!--",
    "-->",
    "*a*",
    "__a__",
    "_a_b_",
    "~~a~~",
    "---",
    "1. a",
    "12) a",
    "=",
    "# a",
    "\x00\x1b[2J",
    "\u202ecod.exe",
    "<http://127.0.0.1>",
    "a``b`",
]


def rendered(source: str) -> str:
    markdown = renderer.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return str(markdown.render(source)).strip()


def with_hostile(test):  # type: ignore[no-untyped-def]
    for text in HOSTILE:
        test = example(text)(test)
    return given(TEXTS)(test)


@with_hostile
def test_a_line_is_its_text(text: str) -> None:
    shown = html.escape(one_line(f"x{text}")[1:].strip() or "", quote=False)
    found = rendered(text_line(text))
    assert found == (f"<p>{_quoted(shown)}</p>" if one_line(text) else "")
    assert rendered(f"- {text_line(text)}: `x`").count("<code>x</code>") == 1
    assert rendered(f"# {text_line(text)}").startswith("<h1>")


@with_hostile
def test_a_cell_is_its_text(text: str) -> None:
    found = rendered(table(["a", "b", "c"], ["---", "---:", "---"], [["x", text, "y"]]))
    cells = re.findall(r"<td[^>]*>(.*?)</td>", found, re.DOTALL)
    assert cells == ["x", _quoted(html.escape(one_line(text), quote=False)), "y"]


@with_hostile
def test_code_is_its_text(text: str) -> None:
    shown = _quoted(html.escape(one_line(text), quote=False))
    found = rendered(code(text))
    assert found == (f"<p><code>{shown}</code></p>" if shown else "")
    in_table = "\n".join([row(["a", "b"]), row(["---"] * 2), row([code(text, True), "y"])])
    cells = re.findall(r"<td[^>]*>(.*?)</td>", rendered(in_table), re.DOTALL)
    assert cells == [f"<code>{shown}</code>" if shown else "", "y"]


@with_hostile
def test_a_block_is_its_lines(text: str) -> None:
    found = rendered(block([f"asr {text}", "x"]))
    shown = _quoted(html.escape(one_line(f"asr {text}"), quote=False))
    assert found == f"<pre><code>{shown}\nx\n</code></pre>"


def _quoted(text: str) -> str:
    return text.replace('"', "&quot;")


def test_ordinary_names_stay_as_they_are() -> None:
    for name in ("sigmoid-alibi-s1", "train_clean_100", "12.30 [11.20, 13.95]", "-", "a (b) c.d/e"):
        assert cell(name) == name
