"""The README.md that travels with a published model: what it is, where it came from, how good it is."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import yaml

from asr import markdown
from asr.compare.experiment import Experiment, read_experiment
from asr.files import read_json_object
from asr.model.folder import Model
from asr.model.recogniser import count_parameters
from asr.run_folder import RunFolder


@dataclass(frozen=True)
class CardOptions:
    """Facts that only the author knows, in the hub's words: ``cc-by-4.0``, ``en``."""

    license: str | None = None
    language: str | None = None


def model_card(model: Model, path: Path, repo: str, options: CardOptions) -> str:
    """Markdown with the hub's metadata on top.

    Args:
        path: the model or experiment folder that the user named; an experiment knows its data and
            its word error rates.
        repo: what readers will find the model under.

    Raises:
        InputError: the experiment's files are damaged.
    """
    experiment = read_experiment(path) if RunFolder(path).run.is_file() else None
    metadata = {
        "license": options.license or "unknown",
        "language": options.language,
        "library_name": "sigmoid-asr",
        "pipeline_tag": "automatic-speech-recognition",
        "tags": ["automatic-speech-recognition", *model.net.heads, model.config.encoder.kind],
    }
    metadata = {key: value for key, value in metadata.items() if value is not None}
    head = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    parts = [
        f"# {markdown.text_line(Path(repo).name)}",
        "A speech recogniser made with sigmoid-asr.",
        markdown.table(("", ""), ("---", "---"), _facts(model, experiment)),
        "## Word error rates",
        _rates(experiment),
        "## Use",
        markdown.block(
            [
                f"asr pull {shlex.quote(repo)} --out model",
                "asr transcribe talk.mp3 --model model",
            ]
        ),
    ]
    return f"---\n{head}---\n\n" + "\n\n".join(parts) + "\n"


def _facts(model: Model, experiment: Experiment | None) -> list[tuple[str, str]]:
    config = model.config
    units = f"{model.tokenizer.vocab_size} units ({model.tokenizer.kind})"
    facts = [
        (
            "attention",
            f"{config.attention.weighting} weighting, {config.attention.position} position",
        ),
        ("encoder", f"{config.encoder.kind}, {config.encoder.num_layers} layers"),
        ("parameters", f"{count_parameters(model.net):,}"),
        ("text", f"{units}, normaliser {config.tokenizer.normaliser}"),
        ("audio", f"{config.features.sample_rate} samples per second"),
        ("trained on", ", ".join(map(_part, config.data.train)) or "not recorded"),
    ]
    if "attention" in model.net.heads:
        decoder = config.decoder
        words = f"{decoder.weighting} weighting, {decoder.position} position"
        layers = f"{decoder.num_layers} layers"
        facts.insert(2, ("decoder", f"{layers}, {words}, {decoder.cross_weighting} across"))
    if experiment is not None:
        hours = read_json_object(RunFolder(experiment.folder).run).get("train_hours")
        if isinstance(hours, (int, float)):
            facts[-1] = ("trained on", f"{facts[-1][1]} ({hours:g} hours)")
        run = experiment.run
        facts.append(("made with", f"sigmoid-asr, commit {run.revision}, seed {run.seed}"))
    return facts


def _rates(experiment: Experiment | None) -> str:
    if experiment is None or not experiment.sets:
        return "None were measured: `asr decode` does."
    rows = []
    for name, scored in sorted(experiment.sets.items()):
        total = sum((count.errors for count in scored.counts), 0)
        words = sum((count.reference_words for count in scored.counts), 0)
        wer = f"{100 * total / words:.2f}" if words else "-"
        decoding = scored.decoding
        rows.append((name, str(words), wer, decoding.search or "-", decoding.normaliser))
    header = ("set", "words", "WER %", "search", "normaliser")
    return markdown.table(header, ["---"] * len(header), rows)


def _part(manifest: str) -> str:
    """A manifest's name; where it lay on the author's machine is nobody's business."""
    return Path(manifest).name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".cuts")
