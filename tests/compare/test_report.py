"""The report: every number against compare.json, in a browser where one is installed."""

from __future__ import annotations

import base64
import html
import io
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from made_models import decode

from asr import config
from asr.compare.compare import compare
from asr.compare.report.gather import gather
from asr.compare.report.media import mp3_uri, png_uri, waveforms
from asr.compare.report.page import report_files
from asr.compare.results import with_results
from asr.data.store.manifest import read_cuts
from asr.errors import InputError
from asr.examine.attention_maps import attention_maps, draw_attention, picture
from asr.files import write_all
from asr.model.folder import load_model
from asr.model.recogniser import Recogniser
from asr.nn.attention import MultiHeadAttention


@pytest.fixture(scope="module")
def report(long_grid: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_all(report_files(gather(compare(long_grid), draw_attention), path))
    return path


def at(content: Any, path: str) -> Any:
    for key in path.split("."):
        if content is None:
            return None
        content = content[int(key)] if isinstance(content, list) else content[key]
    return content


def shown(value: Any, kind: str) -> str:
    """How the page must print a value of the JSON."""
    if value is None:
        return "-"
    if kind == "percent":
        return f"{100 * value:.2f}"
    if kind == "points":
        return f"{round(100 * value, 2) + 0.0:+.2f}"
    if kind == "p":
        return "<0.001" if value < 0.001 else f"{value:.3f}"
    return str(value) if kind in ("count", "text") else f"{value:.4g}"


def test_every_number_of_the_tables_is_the_jsons(report: Path) -> None:
    page = report.read_text()
    content = json.loads((report.parent / "compare.json").read_text())
    numbers = re.findall(r'<span data-json="([^"]+)" data-as="([^"]+)">([^<]*)</span>', page)
    for path, kind, text in numbers:
        assert html.unescape(text) == shown(at(content, path), kind), path
    # and no digit stands in a cell outside of these, but in names and counts of seeds
    for cell in re.findall(r"<td>(.*?)</td>", page):
        rest = re.sub(r"<span data-json.*?</span>", "", cell)
        assert not re.search(r"\d", rest) or rest == "2"
    paths = {path for path, _, _ in numbers}
    for k in range(len(content["rows"])):
        assert f"rows.{k}.sets.test.wer" in paths
    for k in range(len(content["differences"])):
        assert f"differences.{k}.p_holm" in paths
        assert f"differences.{k}.mapsswe.p_value" in paths
    assert {f"lengths.{k}.wer" for k in range(16)} <= paths
    assert {f"type_differences.{k}.difference" for k in range(4)} <= paths
    for k, part in enumerate(content["parts"]):
        if part["by"] == "speaker":
            assert {f"parts.{k}.wers.{row['name']}" for row in content["rows"]} <= paths


def numbers_in(content: Any) -> Iterator[float]:
    if isinstance(content, dict | list):
        for value in content.values() if isinstance(content, dict) else content:
            yield from numbers_in(value)
    elif isinstance(content, float):
        yield content


def test_every_number_of_the_answer_is_the_jsons(report: Path) -> None:
    content = json.loads((report.parent / "compare.json").read_text())
    known = {
        form.lstrip("+-")
        for value in numbers_in(content)
        for form in (f"{100 * value:.2f}", f"{100 * value:.1f}", shown(value, "p"))
    }
    for weighting in ("softmax", "sigmoid"):
        rows = [one for one in content["rows"] if one["run"]["weighting"] == weighting]
        speeds = [one["run"]["train_audio_s_per_s"] for one in rows]
        rates = [1 / one["sets"]["test"]["rtf"] for one in rows]
        known |= {f"{end(values):.4g}" for values in (speeds, rates) for end in (min, max)}
    section = re.search(r'<section class="verdict">(.*?)</section>', report.read_text(), re.DOTALL)
    assert section is not None
    found = re.findall(r"\d+\.\d+", html.unescape(section[1]))
    assert len(found) > 3
    assert set(found) <= known


def kind_of(one: dict[str, Any]) -> tuple[Any, Any]:
    return one.get("factor"), one.get("contrast")


def test_marks_of_the_pictures_lie_where_the_json_says(report: Path) -> None:
    """On a line with one scale: places are a linear function of the values."""
    content = json.loads((report.parent / "compare.json").read_text())
    drawn = 0
    for name, key in (("types", "wer"), ("type_differences", "difference")):
        for kind in dict.fromkeys(kind_of(one) for one in content[name]):
            rows = [one for one in content[name] if kind_of(one) == kind]
            values = [v for one in rows for v in (one[key], *one["interval"].values())]
            for svg in re.findall(r"<svg.*?</svg>", report.read_text(), re.DOTALL):
                if f"of {len(rows)} rows" not in svg:
                    continue
                ends = re.findall(r'x1="([\d.]+)" y1="\d+" x2="([\d.]+)"[^>]*linecap', svg)
                middles = re.findall(r'<circle cx="([\d.]+)"', svg)
                places = np.sort([float(x) for pair in [*ends, middles] for x in pair])
                slope, offset = np.polyfit(np.sort(values), places, 1)
                expected = slope * np.sort(values) + offset
                drawn += bool(slope > 0 and np.allclose(expected, places, atol=0.2))
    assert drawn >= 2


def test_the_page_needs_nothing_else(report: Path) -> None:
    page = report.read_text()
    assert "<script" not in page
    links = re.findall(r'(?:src|href|url)\s*[=(]\s*"?([^" )>]+)', page)
    assert links
    assert all(link.startswith("data:") for link in links)
    assert len(page) < 1_000_000
    assert "&lt;&amp;&gt;" in page  # names and commands are escaped
    assert page.count("<audio") == page.count('class="pair"') >= 3
    assert page.count('class="map"') == 4


def test_verdict_says_that_it_cannot_tell(report: Path) -> None:
    """Two untrained seeds of each type differ by chance."""
    page = report.read_text()
    assert "No significant difference between sigmoid and softmax: anything from " in page
    assert "below 5 this is an indication" in page


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")

# The report in frames as wide as a phone and a desktop; what is found is written into the page.
FRAMES = """<!doctype html><title>frames</title><body><script>
const found = [];
for (const width of [360, 1200]) {
  const frame = document.createElement("iframe");
  frame.width = width; frame.height = 800; frame.src = "report.html";
  frame.onload = () => {
    const page = frame.contentDocument, root = page.documentElement;
    const numbers = [...page.querySelectorAll("[data-json]")].map(
      (one) => [one.dataset.json, one.dataset.as, one.textContent]);
    const images = [...page.images].every((one) => one.complete && one.naturalWidth > 0);
    found.push({width, scroll: root.scrollWidth, client: root.clientWidth, numbers, images,
      audio: page.querySelectorAll("audio").length});
    if (found.length == 2) {
      const text = document.createElement("pre");
      text.textContent = JSON.stringify(found);
      document.body.replaceChildren(text);
    }
  };
  document.body.append(frame);
}
</script></body>"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def site(report: Path) -> Iterator[str]:
    (report.parent / "frames.html").write_text(FRAMES)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(report.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.skipif(BROWSER is None, reason="chromium is not installed")
def test_in_a_browser(site: str, report: Path, tmp_path: Path) -> None:
    """No message on the console, no sideways scrolling at 360 pixels, numbers as in the JSON."""
    assert BROWSER is not None
    options = [
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"),
        *("disable-background-networking", "disable-component-update", "enable-logging=stderr"),
        *("virtual-time-budget=20000", "dump-dom"),
    ]
    run = subprocess.run(
        [
            BROWSER,
            *(f"--{one}" for one in options),
            f"--user-data-dir={tmp_path}",
            f"{site}/frames.html",
        ],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    assert "CONSOLE" not in run.stderr
    found = json.loads(html.unescape(re.findall(r"<pre>(.*?)</pre>", run.stdout, re.DOTALL)[0]))
    content = json.loads((report.parent / "compare.json").read_text())
    assert sorted(one["width"] for one in found) == [360, 1200]
    for one in found:
        assert one["scroll"] <= one["client"]
        assert one["images"]
        assert one["audio"] >= 3
        assert len(one["numbers"]) > 100
        for path, kind, text in one["numbers"]:
            assert text == shown(at(content, path), kind), path


def first_argument(found: list[torch.Tensor], module: Any, args: Any, output: Any) -> None:
    found.append(args[0])


def test_maps_are_the_weights_that_the_model_used(grid: list[Path]) -> None:
    """Each layer's weights times its values are what its own attention put out."""
    wave = np.random.default_rng(0).normal(0, 0.1, size=16000).astype(np.float32)
    for exp in grid[:4]:
        model = load_model(exp)
        inputs: list[torch.Tensor] = []
        outputs: list[torch.Tensor] = []
        for module in model.net.modules():
            if isinstance(module, MultiHeadAttention):
                module.register_forward_hook(partial(first_argument, inputs))
                module.project_out.register_forward_hook(partial(first_argument, outputs))
        maps = attention_maps(model.net, wave)
        layers = [m for m in model.net.modules() if isinstance(m, MultiHeadAttention)]
        assert len(maps) == len(layers) == 2
        for p_hts, layer, x_btd, out_btd in zip(maps, layers, inputs, outputs, strict=True):
            x_btd, out_btd = x_btd.clone(), out_btd.clone()
            v_hsd = layer.project_qkv(x_btd)[0].chunk(3, dim=-1)[2].unflatten(-1, (2, -1))
            expected = torch.einsum("hts,shd->thd", p_hts, v_hsd).flatten(1)
            torch.testing.assert_close(expected, out_btd[0], atol=1e-5, rtol=1e-4)
        if "softmax" in exp.name:
            torch.testing.assert_close(maps[0].sum(-1), torch.ones_like(maps[0].sum(-1)))
        drawn = picture(maps)
        assert drawn.ndim == 2
        assert 0 <= drawn.min() < drawn.max() <= 1


def test_maps_of_mixed_keys_are_the_weights_that_the_model_used() -> None:
    """An utterance with fewer frames than there are mixtures: each of them is seen all the same."""
    small = ["encoder.num_layers=1", "encoder.dim=32", "encoder.ff_dim=32", "attention.num_heads=2"]
    cfg = config.load([], [*small, "attention.keys=linformer", "attention.position=none"])
    torch.manual_seed(0)
    net = Recogniser(cfg, 20).eval()
    attention = next(m for m in net.modules() if isinstance(m, MultiHeadAttention))
    assert attention.linformer is not None
    values: list[tuple[torch.Tensor, ...]] = []
    attention.linformer.register_forward_hook(lambda _, args, output: values.append(output))
    outputs: list[torch.Tensor] = []
    attention.project_out.register_forward_hook(partial(first_argument, outputs))
    (p_htl,) = attention_maps(net, np.random.default_rng(0).normal(0, 0.1, 16000).astype("f4"))
    assert p_htl.shape[1] < p_htl.shape[2] == cfg.attention.linformer_length
    expected = torch.einsum("htl,hld->thd", p_htl, values[0][1][0]).flatten(1)
    torch.testing.assert_close(expected, outputs[0][0], atol=1e-5, rtol=1e-4)


def test_audio_and_pictures_survive(tmp_path: Path) -> None:
    wave = np.sin(np.arange(32000) * 0.1).astype(np.float32) * 0.3
    head, _, body = mp3_uri(wave).partition(",")
    assert head == "data:audio/mpeg;base64"
    content = io.BytesIO(base64.b64decode(body))
    decoded, rate = soundfile.read(content)
    assert rate == 16000
    assert abs(len(decoded) - len(wave)) < 3000
    assert np.abs(np.fft.rfft(decoded[4096:20480])).argmax() == pytest.approx(
        0.1 * 16384 / (2 * np.pi), abs=2
    )
    matplotlib_image = pytest.importorskip("matplotlib.image")
    grey = np.linspace(0, 1, 12).reshape(3, 4)
    picture_bytes = io.BytesIO(base64.b64decode(png_uri(grey).partition(",")[2]))
    assert 1 - matplotlib_image.imread(picture_bytes, "png") == pytest.approx(grey, abs=1 / 255)


def test_without_audio_or_models_it_says_so(grid: list[Path], tmp_path: Path) -> None:
    folders = []
    for exp in grid[:2]:
        folder = tmp_path / exp.name
        shutil.copytree(exp, folder, ignore=shutil.ignore_patterns("model", "log.jsonl"))
        path = folder / "decode" / "test" / "decode.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "cuts": "/gone"}))
        folders.append(folder)
    contents = gather(compare(folders), draw_attention)
    assert contents.maps == []
    assert all(one.audio is None for one in contents.heard)
    why = "the manifest that decode.json names is not there: /gone"
    assert f"test: no audio: {why}" in contents.notes
    assert any("no training curves" in note for note in contents.notes)
    write_all(report_files(contents, tmp_path / "report.html"))
    assert f"no audio: {why}" in (tmp_path / "report.html").read_text()


def test_a_folder_that_was_moved_is_heard_from_anywhere(
    grid: list[Path], tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoded with a relative path, then moved, then compared from elsewhere."""
    monkeypatch.chdir(tiny_corpus)
    for exp in grid[:2]:
        shutil.copytree(exp, tmp_path / "old" / exp.name)
        decode(exp, Path("test.cuts.jsonl.gz"), tmp_path / "old" / exp.name / "decode" / "test")
    (tmp_path / "old").rename(tmp_path / "new")
    monkeypatch.chdir("/")
    contents = gather(compare([tmp_path / "new" / exp.name for exp in grid[:2]]), draw_attention)
    assert len(contents.heard) >= 3
    assert all(one.audio and one.why_silent is None for one in contents.heard)
    assert len(contents.maps) == 2


def test_why_there_is_no_audio(tiny_corpus: Path, tmp_path: Path) -> None:
    assert waveforms(None, ["u"]) == ({}, {"u": "decode.json names no manifest"})
    message = (
        "decode.json names its manifest relative to where it was decoded: data/a.cuts.jsonl.gz"
    )
    assert waveforms("data/a.cuts.jsonl.gz", ["u"]) == ({}, {"u": message})
    cuts = str(tiny_corpus / "test.cuts.jsonl.gz")
    ids = [cut.id for cut in read_cuts(cuts)]
    found, missing = waveforms(cuts, [ids[2], "nobody"])
    assert list(found) == [ids[2]]
    assert missing == {"nobody": f"not in {cuts}"}
    silent = tmp_path / "a.cuts.jsonl"
    lines = [cut.to_dict() for cut in read_cuts(cuts)]
    lines[0]["recording"]["sources"][0]["source"] = "/gone.flac"
    silent.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found, missing = waveforms(str(silent), ids[:2])
    assert list(found) == [ids[1]]
    assert "/gone.flac" in missing[ids[0]]
    silent.write_text("no manifest")
    assert "not a manifest" in waveforms(str(silent), ids[:1])[1][ids[0]]


def test_one_system_has_a_report_too(grid: list[Path], tmp_path: Path) -> None:
    write_all(report_files(gather(compare(grid[:1]), draw_attention), tmp_path / "report.html"))
    assert "Nothing to compare yet." in (tmp_path / "report.html").read_text()


def test_an_utterance_that_is_not_there(grid: list[Path]) -> None:
    with pytest.raises(InputError, match="--utterance nobody: not in"):
        gather(compare(grid[:2]), draw_attention, "nobody")


def test_rows_of_results_are_added_once(grid: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    once, changed = with_results(compare(grid[:2]), path)
    assert changed == 2
    path.write_text(once)
    assert with_results(compare(grid[:2]), path) == (once, 0)
    more, changed = with_results(compare(grid[:3]), path)
    assert changed == 1
    lines = more.splitlines()
    assert lines[:4] == once.splitlines()[:4]
    assert sum("0123456" in line and "`asr train --exp" in line for line in lines) == 3
