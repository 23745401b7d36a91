"""Configuration: precedence, and one clear line for everything that can be wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from asr import config
from asr.cli import main
from asr.config.kinds import ENCODERS, EncoderKind
from asr.config.layers import base_files
from asr.errors import InputError


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_defaults_then_base_then_yaml_then_command_line(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "train: {epochs: 5, seed: 5}\nencoder: {dim: 64}\n")
    top = write(tmp_path / "top.yaml", "base: base.yaml\ntrain: {seed: 7}\n")
    loaded = config.load([top], ["encoder.dim=128", "data.train=[a, b]"])
    assert loaded.train.epochs == 5
    assert loaded.train.seed == 7
    assert loaded.encoder.dim == 128
    assert loaded.data.train == ["a", "b"]
    assert loaded.optimizer == config.Config().optimizer


def test_a_kind_of_encoder_takes_back_what_was_said_before_to_another(tmp_path: Path) -> None:
    """A yaml for Conformers serves other kinds: below a kind, what it does not read is a mistake."""
    yaml, over = tmp_path / "conformer.yaml", tmp_path / "other.yaml"
    yaml.write_text("encoder: {conv_kernel: 15, conv_norm: rmsnorm, causal: true, dim: 64}\n")
    for kind, kernel, causal in (("transformer", 31, False), ("ebranchformer", 15, True)):
        over.write_text(f"encoder: {{kind: {kind}}}\n")
        by_word = config.load([yaml], [f"encoder.kind={kind}"])
        assert by_word == config.load([yaml, over])
        encoder = by_word.encoder
        assert (encoder.conv_kernel, encoder.conv_norm) == (kernel, "layernorm")
        assert (encoder.causal, encoder.dim) == (causal, 64)
    reason = "encoder.conv_kernel = 15: encoder.kind = transformer does not read it; leave it at 31"
    over.write_text("encoder: {conv_kernel: 15, kind: transformer}\n")
    for files, overrides, where in (
        ([over], [], f"{over}: "),
        ([yaml], ["encoder.conv_kernel=15", "encoder.kind=transformer"], ""),
        ([], ["encoder.kind=transformer", "encoder.conv_kernel=15"], ""),
    ):
        with pytest.raises(InputError) as caught:
            config.load(files, overrides)
        assert str(caught.value) == where + reason


def test_a_kind_of_features_takes_back_what_was_said_before_to_another(tmp_path: Path) -> None:
    yaml, over = tmp_path / "kaldi.yaml", tmp_path / "other.yaml"
    yaml.write_text("features: {snip_edges: false, high_hz: -400.0, num_mels: 128}\n")
    over.write_text("features: {kind: whisper, pad_s: 30.0}\n")
    features = config.load([yaml, over]).features
    assert features == config.FeatureConfig(kind="whisper", num_mels=128, pad_s=30.0)
    again = config.load([yaml, over], ["features.kind=kaldi"]).features
    assert again == config.FeatureConfig(num_mels=128)
    folder = tmp_path / "config.yaml"
    folder.write_text("format: 2\nfeatures: {snip_edges: false, scale: 1.0}\n")
    read = config.load([folder], follow_base=False).features
    assert read == config.FeatureConfig(snip_edges=False, scale=1.0)


def test_a_folder_of_an_older_version_may_hold_what_its_kind_does_not_read(tmp_path: Path) -> None:
    yaml = tmp_path / "config.yaml"
    yaml.write_text("format: 2\nencoder: {kind: transformer, conv_kernel: 15, causal: true}\n")
    encoder = config.load([yaml], follow_base=False).encoder
    assert config.load([yaml]).encoder == encoder  # given to --config again
    assert (encoder.kind, encoder.conv_kernel, encoder.causal) == ("transformer", 31, False)


def test_a_kind_that_needs_whole_utterances_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(ENCODERS, "transformer", EncoderKind(streams=False))
    with pytest.raises(InputError) as caught:
        config.load([], ["encoder.kind=transformer", "encoder.chunk_sizes=[4]"])
    reason = "encoder.chunk_sizes = [4]: encoder.kind = transformer needs whole utterances"
    assert str(caught.value) == reason


def test_heads_take_back_what_was_said_before_to_others(tmp_path: Path) -> None:
    base, over = tmp_path / "ctc.yaml", tmp_path / "other.yaml"
    base.write_text("ctc: {consistency: 0.2, intermediate_layers: [3]}\nencoder: {dim: 64}\n")
    over.write_text("model: {heads: [attention]}\n")
    by_word = config.load([base], ["model.heads=[attention]"])
    assert by_word == config.load([base, over])
    assert by_word.ctc == config.CtcConfig()
    assert by_word.encoder.dim == 64
    assert config.load([base], ["model.heads=[attention, ctc]"]).ctc.consistency == 0.2


@pytest.mark.parametrize(
    ("override", "default"),
    [
        ("ctc.consistency=0.2", "0.0"),
        ("ctc.intermediate_layers=[3]", "[]"),
        ("ctc.intermediate_weight=0.5", "0.3"),
    ],
)
def test_an_option_of_a_head_that_is_not_there_is_refused(override: str, default: str) -> None:
    key, _, value = override.partition("=")
    for overrides in ([override, "model.heads=[attention]"], ["model.heads=[attention]", override]):
        with pytest.raises(InputError) as caught:
            config.load([], overrides)
        assert str(caught.value) == (
            f"{key} = {value}: model.heads = ['attention'] has no ctc, which alone reads it; "
            f"leave it at {default}"
        )


def test_a_folder_may_hold_options_of_a_head_that_is_not_there(tmp_path: Path) -> None:
    """An earlier version did not refuse them."""
    folder = tmp_path / "config.yaml"
    folder.write_text("format: 2\nmodel: {heads: [attention]}\nctc: {consistency: 0.2}\n")
    for follow_base in (True, False):
        loaded = config.load([folder], follow_base=follow_base)
        assert (loaded.model.heads, loaded.ctc.consistency) == (["attention"], 0.0)


def test_dump_reads_back_as_the_same_configuration(tmp_path: Path) -> None:
    original = config.load([], ["train.epochs=3", "attention.position=rope"])
    path = write(tmp_path / "config.yaml", config.dump(original))
    assert config.load([path]) == original
    assert set(yaml.safe_load(path.read_text())) == {"format", *vars(original)}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "attention.wieghting=softmax",
            r"unknown key attention\.wieghting; did you mean attention\.weighting\?",
        ),
        ("atention.weighting=softmax", r"unknown section 'atention'; did you mean attention\?"),
        (
            "attention.weighting=sotfmax",
            r"attention\.weighting = 'sotfmax': choose one of softmax, sigmoid",
        ),
        ("train.epochs=0", r"train\.epochs = 0: must be at least 1"),
        ("encoder.dropout=2", r"encoder\.dropout = 2\.0: must be at most 0\.9"),
        ("attention.window=1048577", r"window = 1048577: must be at most 1048576$"),
        ("data.max_duration_s=1e9", r"max_duration_s = 1000000000\.0: must be at most 86400$"),
        ("features.scale=0", r"features\.scale = 0\.0: must be at least 1e-06$"),
        ("optimizer.lr=fast", r"optimizer\.lr = 'fast': expected a number from 1e-09 to 10$"),
        ("optimizer.lr=.nan", r"optimizer\.lr = nan: must be a number"),
        ("train.epochs=1.5", r"epochs = 1\.5: expected a whole number from 1 to 1000000$"),
        ("train.epochs=", r"train\.epochs = None: expected a whole number from 1 to 1000000$"),
        ("attention.window=[4]", r"window = \[4\]: expected a whole number from 0 to 1048576$"),
        (
            "ctc.weight=0",
            r"ctc\.weight = 0\.0, .* nothing to train; give one of them a weight above 0",
        ),
        ("attention.causal=5", r"attention\.causal = 5: expected true or false$"),
        ("attention.causal=-1", r"attention\.causal = -1: expected true or false$"),
        ("attention.causal=maybe", r"attention\.causal = 'maybe': expected true or false$"),
        ("attention.keys=[full]", r"attention\.keys = \['full'\]: choose one of full, linformer$"),
        ("encoder.subsampling=4.5", r"encoder\.subsampling = 4\.5: choose one of 2, 4, 8$"),
        (
            "encoder.chunk_sizes=4",
            r"= 4: expected a list of whole numbers from 0 to 1048576, in brackets$",
        ),
        (
            "encoder.chunk_sizes=[1.5]",
            r"= \[1\.5\]: expected a list of whole numbers from 0 to 1048576$",
        ),
        (
            "augment.speed_factors=1.1",
            r"= 1\.1: expected a list of numbers from 0\.5 to 2, in brackets$",
        ),
        (
            "model.heads=ctc",
            r"model\.heads = 'ctc': expected a list of ctc, attention, in brackets$",
        ),
        ("model.heads=[foo]", r"model\.heads = 'foo': choose one of ctc, attention$"),
        ("model.heads=[ctcc]", r"choose one of ctc, attention; did you mean ctc\?$"),
        (
            "model.heads=[ctc, ctc]",
            r"\['ctc', 'ctc'\]: give one or more of ctc, attention, none twice",
        ),
        ("model.heads=[]", r"model\.heads = \[\]: give one or more of ctc, attention, none twice"),
        ("train.epochs=" + "1" * 5000, "is not a yaml value"),
        ("train.epochs=2000-13-45", "is not a yaml value"),
        ("epochs=3", r"write it as section\.key=value"),
        ("train.epochs", r"write it as section\.key=value"),
        ("train.device=${oc.env:HOME}", r"interpolation is not allowed"),
        ("encoder.dim=30", r"encoder\.dim = 30 must be a multiple of attention\.num_heads = 4"),
        ("encoder.conv_kernel=4", r"encoder\.conv_kernel = 4: must be odd"),
        ("augment.speed_factors=[]", r"augment\.speed_factors = \[\]"),
        ("augment.speed_factors=[0.1]", r"augment\.speed_factors = 0\.1: must be at least 0\.5"),
        ("optimizer.betas=[0.9]", r"optimizer\.betas"),
        (
            "attention.num_positions=9",
            r"attention\.num_positions = 9: attention\.position = alibi has no table of them",
        ),
        ("augment.speed_factors=[[1]]", r"= \[\[1\]\]: expected a list of numbers from 0\.5 to 2$"),
        ("data.train={a: 1}", r"data\.train = \{'a': 1\}: expected a list of texts, in brackets$"),
        ("data.train=[{a: 1}]", r"data\.train = \[\{'a': 1\}\]: expected a list of texts$"),
        ("data.train=[[a]]", r"data\.train = \[\['a'\]\]: expected a list of texts$"),
        ("data.min_duration_s=50", r"data\.min_duration_s = 50\.0 is above"),
    ],
)
def test_a_wrong_override_is_refused_in_one_line(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        config.load([], [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [1, 2]", "train: expected keys and values"),
        ("- 1", "a configuration is"),
        ("train: {epochs: 3", "not valid yaml"),
        ("train: {epochs: 2024-99-99}", "not valid yaml: month must be"),
        ("[" * 100_000, "not valid yaml: maximum recursion depth"),
        ("base: nowhere", "base: 'nowhere' is neither a file beside it nor one of conformer"),
        ("train: {device: '${oc.env:HOME}'}", "interpolation is not allowed"),
        ("base: me.yaml", "names itself in a circle"),
        ("train: {epochs: 0}", r"me\.yaml: train\.epochs = 0: must be at least 1$"),
        ("encoder: {kind: conformr}", r"me\.yaml: encoder\.kind = 'conformr': choose one of"),
        ("augment: {speed_factors: [.nan]}", r"me\.yaml: augment\.speed_factors = nan: must be a"),
        ("encoder: {dim: 30}", r"me\.yaml: encoder\.dim = 30 must be a multiple of attention"),
        ("optimizer: {lr: 1000}", r"me\.yaml: optimizer\.lr = 1000\.0: must be at most 10$"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "me.yaml", text)
    with pytest.raises(InputError, match=message) as caught:
        config.load([path])
    assert "\n" not in str(caught.value)


def test_who_has_the_last_word_is_named(tmp_path: Path) -> None:
    """Of two files the later one; an override stands in the message already."""
    low = write(tmp_path / "low.yaml", "train: {epochs: 0}\nencoder: {dim: 30}")
    fine, high = write(tmp_path / "fine.yaml", "train: {seed: 2}"), tmp_path / "high.yaml"
    write(high, "base: low.yaml\ntrain: {epochs: -1}")

    def refused(files: list[Path], *overrides: str) -> str:
        with pytest.raises(InputError) as caught:
            config.load(files, overrides)
        return str(caught.value)

    assert refused([low, fine]).startswith(f"{low}: train.epochs = 0")
    assert refused([high]).startswith(f"{high}: train.epochs = -1")
    assert refused([high], "train.epochs=0").startswith("train.epochs = 0")
    # of several options in one message: the file that gives all that are given
    assert refused([high], "train.epochs=1").startswith(f"{low}: encoder.dim = 30 must")
    assert refused([high], "train.epochs=1", "attention.num_heads=4").startswith("encoder.dim = 30")
    with pytest.raises(InputError, match="cannot read configuration"):
        config.load([tmp_path / "missing.yaml"])


def test_every_option_is_explained_and_within_its_own_bounds() -> None:
    for key, value, item in config.walk(config.Config()):
        assert len(config.explain(item)) > 10, key
        low = item.metadata["low"]
        assert low is None or all(
            v >= low for v in (value if isinstance(value, list) else [value])
        ), key


@pytest.mark.parametrize("name", sorted(base_files()))
def test_the_packages_own_yamls_load(name: str) -> None:
    assert isinstance(config.load([base_files()[name]]), config.Config)


RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*/conf/*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_the_recipes_yamls_load(path: Path) -> None:
    assert isinstance(config.load([path]), config.Config)


def test_show_tells_every_key_with_default_allowed_values_and_meaning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["config", "--show"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    starts = [header.index(word) for word in ("default", "allowed", "meaning")]
    told = {}
    for line in filter(None, lines):
        key, default, allowed, meaning = (
            line[start:end].strip()
            for start, end in zip([0, *starts], [*starts, None], strict=True)
        )
        told[key] = (default, allowed, meaning)
    for key, value, item in config.walk(config.Config()):
        default, allowed, meaning = told.pop(key)
        text = isinstance(value, str) and value != ""
        assert (default if text else json.loads(default)) == value, key
        assert meaning == item.metadata["help"], key
        for choice in item.metadata["choices"] or ():
            assert str(choice) in allowed, key
        bounds = [item.metadata[bound] for bound in ("low", "high")]
        if bounds != [None, None]:
            spelled = allowed.partition(" from ")[2].split(" to ")
            assert [int(x) if x.lstrip("-").isdigit() else float(x) for x in spelled] == bounds, key
            assert all("e" not in x or not 1 <= abs(float(x)) < 1e15 for x in spelled), key
    assert not told


def test_show_and_the_plain_list_tell_the_effective_values(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["attention.weighting=softmax", "train.epochs=7"]
    assert main(["config", "--show", *words]) == 0
    table = capsys.readouterr().out
    assert "sigmoid -> softmax" in table
    assert "30 -> 7" in table
    assert table.count(" -> ") == 2
    assert main(["config", *words]) == 0
    plain = capsys.readouterr().out
    assert "attention.weighting = 'softmax'  # how scores become weights; one of softmax" in plain
    assert "train.epochs = 7  # passes over the data; from 1 to 1000000\n" in plain
