"""What the README says, done: its commands run as they stand there, on data made on the spot."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asr import config
from asr.cli import _parser, main
from asr.data.store.manifest import load_waveform, read_cuts
from asr.formats import OPTIONS
from asr.model.folder import save_model
from asr.model.recogniser import Recogniser
from asr.text.tokenizer import train_tokenizer

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# Appended to the README's `asr train`: a model of seconds instead of days.
TINY = [
    "encoder.num_layers=1",
    "encoder.dim=32",
    "encoder.ff_dim=48",
    "encoder.conv_kernel=5",
    "encoder.subsampling_channels=4",
    "tokenizer.kind=char",
    "train.epochs=1",
    "train.num_threads=1",
    "train.tensorboard=false",
]


def blocks(section: str) -> list[str]:
    """The code blocks under the heading that starts with ``section``."""
    found = re.search(rf"^(#+) {re.escape(section)}.*?$(.*?)(?=^#+ |\Z)", README, re.M | re.S)
    assert found, f"README.md has no section {section!r}"
    return re.findall(r"^```\w*\n(.*?)^```", found.group(2), re.M | re.S)


def commands(block: str) -> list[list[str]]:
    """The words of each line, comments left out and continued lines joined."""
    lines = block.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def run(block: str) -> None:
    for program, *words in commands(block):
        assert program == "asr"
        assert main([*words, *(TINY if words[0] == "train" else [])]) == 0, words


def speak(corpus: Path, part: str, folder: Path) -> list[tuple[Path, str, str]]:
    """MP3 files of synthetic speech: (file, text, speaker)."""
    folder.mkdir(parents=True, exist_ok=True)
    told = []
    for cut in read_cuts(corpus / f"{part}.cuts.jsonl.gz"):
        (supervision,) = cut.supervisions
        path = folder / f"{cut.id}.mp3"
        soundfile.write(path, load_waveform(cut, 16000), 16000)
        told.append((path, supervision.text, supervision.speaker))
    return told


def decoded(folder: Path) -> int:
    """Utterances that were decoded and scored."""
    score = json.loads((folder / "score.json").read_text())
    assert score["reference_words"] > 0
    lines = (folder / "hypotheses.jsonl").read_text().splitlines()
    assert len(lines) == score["num_utterances"]
    return len(lines)


def test_common_voice_from_prepare_to_a_decoded_test_set(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    corpus = tmp_path / "cv-corpus" / "en"
    for part in ("train", "dev", "test"):
        rows = ["client_id\tpath\tsentence\tup_votes"]
        for path, text, speaker in speak(tiny_corpus, part, corpus / "clips"):
            rows.append(f"{speaker}\t{path.name}\t{text.capitalize()}.\t2")
        (corpus / f"{part}.tsv").write_text("\n".join(rows) + "\n")
    run(blocks("Your own data")[0])
    assert decoded(tmp_path / "exp" / "cv" / "decode" / "test") == 6


def test_a_folder_of_mp3_files_from_prepare_to_a_decoded_test_set(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for part in ("train", "dev", "test"):
        for path, text, speaker in speak(tiny_corpus, part, tmp_path / "mp3"):
            home = tmp_path / "talks" / speaker / path.name
            home.parent.mkdir(parents=True, exist_ok=True)
            path.rename(home).with_suffix(".txt").write_text(text)
    run(blocks("Your own data")[1])
    parts = {
        part: {cut.supervisions[0].speaker for cut in read_cuts(f"data/talks/{part}.cuts.jsonl.gz")}
        for part in ("train", "dev", "test")
    }
    assert not parts["test"] & (parts["train"] | parts["dev"])
    assert decoded(tmp_path / "exp" / "talks" / "decode" / "test") == len(
        read_cuts("data/talks/test.cuts.jsonl.gz")
    )


KERNELS = ROOT / "kernels" / "README.md"
PAGES = [ROOT / "README.md", KERNELS, *sorted((ROOT / "docs").glob("*.md"))]
page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def code_lines(path: Path) -> list[str]:
    """Lines of the code blocks, comments left out and continued lines joined."""
    found = re.findall(r"^```\w*\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)
    return [line for block in found for line in block.replace("\\\n", " ").splitlines()]


@page
def test_every_command_and_every_option_exists(path: Path) -> None:
    for line in code_lines(path):
        if not re.match(r"asr [a-z]", line):
            continue
        words = shlex.split(line, comments=True)[1:]
        if "…" in words:  # the options of a run, left out
            words[words.index("…") : words.index("…") + 1] = ["--exp", "x"]
        _parser().parse_args(words)  # leaves with SystemExit at what it does not know
        known = {key for key, _, _ in config.walk(config.Config())}
        assert {
            word.partition("=")[0] for word in words if re.match(r"[a-z]+\.\w+=", word)
        } <= known


@page
def test_every_option_of_the_configuration_exists(path: Path) -> None:
    known = {key for key, _, _ in config.walk(config.Config())}
    sections = {key.partition(".")[0] for key in known}
    if path.name == "formats.md":  # which tells older names
        known |= OPTIONS.keys()
    prose = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S)
    for section, key in re.findall(r"`(\w+)\.(\w+)(?:=[^`]*)?`", prose):
        if section in sections and key not in ("py", "cpp", "json", "jsonl", "yaml", "safetensors"):
            assert f"{section}.{key}" in known, f"{path.name}: `{section}.{key}`"


@page
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_speeds_of_the_kernels_are_those_measured() -> None:
    measured = json.loads((ROOT / "docs" / "results" / "attention-gpu.json").read_text())["rows"]
    table = KERNELS.read_text(encoding="utf-8").split("## Speed")[1].split("## Tests")[0]
    lines = re.findall(r"^\| (\d+(?: \| \d+)+) \|$", table, re.M)
    assert len(lines) == 6
    for line in lines:
        frames, channels, *figures = map(int, line.split(" | "))
        found = [
            round(row[key])
            for key in ("forward_tflops", "backward_tflops")
            for contender in ("ours", "sdpa flash", "sdpa cudnn")
            for row in measured
            if (row["part"], row["contender"]) == ("plain", contender)
            and row["shape"][2:] == [frames, channels]
        ]
        assert figures == found, line


def test_targets_extras_and_the_python_version_are_those_of_the_project() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make ([a-z][a-z-]*)", README, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), f"make {target}"
    project = (ROOT / "pyproject.toml").read_text()
    for extra in re.findall(r"sigmoid-asr\[(\w+)\]", README):
        assert re.search(rf"^{extra} = \[", project, re.M), extra
    (version,) = re.findall(r"Python (3\.\d+) or newer", README)
    assert f'requires-python = ">={version}"' in project


def test_the_words_of_attention_are_those_of_the_configuration() -> None:
    head = README.split("```")[0]
    named = set(re.findall(r"`(\w+)`", head))
    fields = {key: item for key, _, item in config.walk(config.Config())}
    assert named == {
        *fields["attention.weighting"].metadata["choices"],
        *fields["attention.position"].metadata["choices"],
    }


def test_the_recipes_lines_are_understood(tmp_path: Path) -> None:
    lines = [line for line in code_lines(ROOT / "README.md") if line.startswith("recipes/")]
    assert len(lines) >= 2
    bin_folder = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
    }
    for line in lines:
        words = [*shlex.split(line, comments=True), "--work", str(tmp_path / "work"), "--dry-run"]
        words[1:] = [os.path.expanduser(word) for word in words[1:]]
        run = subprocess.run(
            words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, f"{line}: {run.stderr}"
        assert "asr " in run.stdout


@pytest.fixture
def home(tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an untrained model, a talk and more, as the README's examples name them."""
    monkeypatch.chdir(tmp_path)
    cfg = config.load([], TINY)
    tokenizer = train_tokenizer(["the quick brown fox jumps over a lazy dog"], cfg.tokenizer)
    torch.manual_seed(0)
    net = Recogniser(cfg, tokenizer.vocab_size)
    save_model(Path("exp/mine/model"), net.state_dict(), cfg, tokenizer)
    spoken = [path for path, _, _ in speak(tiny_corpus, "test", tmp_path / "mp3")]
    spoken[0].rename("talk.mp3")
    Path("lectures").mkdir()
    spoken[1].rename("lectures/one.mp3")
    Path("calls").mkdir()
    soundfile.write("calls/a.wav", soundfile.read(spoken[2])[0], 16000)
    return tmp_path


def test_the_first_steps_transcribe_with_the_model_in_the_box(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clone, install, (program, *words) = commands(blocks("sigmoid-asr")[0])
    assert clone[:2] == ["git", "clone"]
    assert install == ["pip", "install", "."]
    assert program == "asr"
    assert main([*words, "--threads", "1"]) == 0
    assert "using real-en, a model that comes with the package" in capsys.readouterr().err


def test_transcribing_as_the_readme_does(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for program, *words in commands(blocks("Transcribe audio")[0]):
        assert program == "asr"
        assert main([*words, "--threads", "1"]) == 0, capsys.readouterr().err
    assert {path.suffix for path in (home / "transcripts").rglob("[!.]*.*")} == {".srt", ".json"}
    assert capsys.readouterr().out.splitlines()[0]


def test_the_python_example_runs(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = blocks("Transcribe audio")[1]
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


@pytest.fixture
def live(home: Path) -> np.ndarray:
    """A model that was trained as the README says, and what the microphone hears, at 16 kHz."""
    (options,) = re.findall(r"trained for it: `([^`]+)`", " ".join(README.split()))
    cfg = config.load([], [*TINY, *shlex.split(options)])
    tokenizer = train_tokenizer(["the quick brown fox jumps over a lazy dog"], cfg.tokenizer)
    torch.manual_seed(0)
    net = Recogniser(cfg, tokenizer.vocab_size)
    save_model(Path("exp/live/model"), net.state_dict(), cfg, tokenizer)
    speech_n, _ = soundfile.read("calls/a.wav", dtype="float32")
    return speech_n


def test_streaming_as_the_readme_does(
    live: np.ndarray, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands_, code = blocks("Transcribe while people speak")
    samples = (32767 * live).astype("<i2").tobytes()
    for line in commands_.splitlines():
        assert re.search(r"S16_LE -r 16000 -c 1|s16le -ar 16000 -ac 1", line)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(samples)))
        program, *words = shlex.split(line.partition("|")[2])
        assert program == "asr"
        assert main([*words, "--threads", "1"]) == 0
        lines = [json.loads(one) for one in capsys.readouterr().out.splitlines()]
        # the largest chunk, and 15 ms behind it
        assert lines[0] == {"type": "ready", "chunk_ms": 1280, "latency_ms": 1295}
        assert lines[-1] == {"type": "end", "duration_s": round(len(live) / 16000, 3)}
    exec(compile(code, "README.md", "exec"), {"microphone": np.array_split(np.repeat(live, 3), 7)})
    assert capsys.readouterr().out.strip()


def test_a_model_is_one_folder_of_what_the_readme_lists(home: Path) -> None:
    assert "`exp/mine/model`: safetensors weights, configuration, tokenizer" in README
    names = {path.name for path in Path("exp/mine/model").iterdir()}
    assert names == {"model.safetensors", "config.yaml", "tokenizer.json"}
    os.rename("exp/mine/model", "elsewhere")
    assert main(["transcribe", "talk.mp3", "--model", "elsewhere", "--threads", "1"]) == 0


# What the README claims and no test above shows: where it is shown.
CLAIMS = {
    "a stage that is done is skipped until something it depends on changes": "tests/recipes",
    "a misspelt one is refused with the nearest right one": "tests/config/test_config.py",
    "goes on with `--resume`, to the same weights bit for bit": "tests/train",
    "WAV, FLAC, Ogg, Opus, MP3": "tests/data/test_audio.py::test_every_format_gives_the_samples_back",
    "M4A and the sound of videos": "tests/data/test_audio.py::test_media_files_go_through_pyav",
    "nothing is copied, segments of long recordings": "tests/data/test_kaldi_and_lhotse.py::test_kaldi_with_segments_equals_lhotse",  # noqa: E501
    "what cannot be used": "tests/data/test_folders.py::test_what_is_wrong_in_a_folder_is_named",
    "NeMo's manifests": "tests/data/test_tables.py::test_nemo_manifests",
    "Kaldi's data directories": "tests/data/test_kaldi_and_lhotse.py::test_kaldi_with_segments_equals_lhotse",  # noqa: E501
    "any Lhotse manifest": "tests/data/test_kaldi_and_lhotse.py::test_lhotse_cuts_of_any_kind",
    "To the Hugging Face hub and back": "tests/share/test_hub.py::test_push_then_pull_gives_the_same_model",  # noqa: E501
    "or nothing is there": "tests/share/test_hub.py::test_what_is_no_model_is_refused",
    "this works at once and without a network": "tests/share/test_box.py",
    "about a quarter of the size": "tests/model/test_int8.py::test_the_command_writes_a_folder_that_can_be_shared",  # noqa: E501
    "every second is either transcribed or in a gap": "tests/transcribe/test_speech.py::test_every_sample_is_in_a_stretch_or_in_a_gap",  # noqa: E501
    "however the samples come": "tests/transcribe/test_live.py::test_any_cutting_gives_the_tokens_of_the_whole",  # noqa: E501
    "at most a chunk and 15 ms behind the sound": "tests/transcribe/test_live.py::test_results_come_as_soon_as_promised",  # noqa: E501
    "Ctrl-C and SIGTERM give what is left": "tests/transcribe/test_stream_command.py::test_a_live_process_and_ctrl_c",  # noqa: E501
    "`asr doctor` prints versions": "tests/test_cli.py::test_doctor_runs_every_backend_and_says_why_not",
    "one line that says what was wrong": "tests/hardening/test_commands.py::test_a_full_disk",
    "usable without the rest": "tests/test_layers_of_imports.py::test_attention_library_works_where_asr_cannot_be_imported",  # noqa: E501
    "gives the same numbers alone and in any batch": "tests/model/test_model.py",
    "tells what attention does, layer by layer and head by head": "tests/probe/test_diagnostics.py::test_a_model_whose_attention_is_uniform",  # noqa: E501
    "ends with status 1 where padding": "tests/examine/test_certify.py::test_the_command_fails_with_the_model",  # noqa: E501
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_every_claim_has_its_test(claim: str) -> None:
    assert claim in " ".join(README.split()), "the README does not say that any more"
    path, _, name = CLAIMS[claim].partition("::")
    assert (ROOT / path).exists()
    if name:
        tree = ast.parse((ROOT / path).read_text())
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
