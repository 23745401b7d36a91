"""Joined utterances: the same words at every duration, decoded whole, and what changes is counted."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_models import decode_joined
from safetensors.torch import load_file, save_file

from asr.cli import main
from asr.compare.compare import compare
from asr.compare.comparison import Comparison
from asr.compare.report.brief import length_brief_files
from asr.compare.tables import format_terminal
from asr.config import load
from asr.data.joining import join_speakers
from asr.data.store.manifest import load_waveform, read_cuts, write_cuts
from asr.decode.decode import decode_set
from asr.decode.score import score_folder
from asr.errors import InputError
from asr.model.folder import load_model, save_model
from asr.model.recogniser import Recogniser
from asr.search.greedy import greedy
from asr.text.tokenizer import train_tokenizer
from asr.wer import count_errors


@pytest.fixture(scope="module")
def experiments(tmp_path_factory: pytest.TempPathFactory, three_speakers: Path) -> list[Path]:
    """Two small untrained models, decoded, also on joined utterances."""
    folder = tmp_path_factory.mktemp("lengths")
    found = []
    for seed, weighting in enumerate(("softmax", "sigmoid"), start=1):
        words = ["encoder.num_layers=1", "encoder.dim=16", "encoder.ff_dim=16"]
        words += ["encoder.conv_kernel=3", "encoder.subsampling_channels=4", "tokenizer.kind=char"]
        config = load([], [*words, "attention.num_heads=2", f"attention.weighting={weighting}"])
        tokenizer = train_tokenizer(["the quick brown fox jumps over a lazy dog"], config.tokenizer)
        torch.manual_seed(seed)
        net = Recogniser(config, tokenizer.vocab_size)
        with torch.no_grad():
            # so that it hears something, though nothing that was said
            net.heads["ctc"].linear.weight *= 30
        exp = folder / weighting
        save_model(exp / "model", net.state_dict(), config, tokenizer)
        (exp / "run.json").write_text(json.dumps({"name": weighting, "weighting": weighting}))
        decode_set(load_model(exp), three_speakers, exp / "decode" / "test")
        score_folder(exp / "decode" / "test")
        found.append(exp)
    decode_joined(found, three_speakers, [1.0, 60.0, 120.0])
    return found


@pytest.fixture
def copies(experiments: list[Path], tmp_path: Path) -> list[Path]:
    """The same, to be changed."""
    return [Path(shutil.copytree(exp, tmp_path / exp.name)) for exp in experiments]


def decoding(exp: Path, set_name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((exp / "decode" / set_name / "decode.json").read_text())
    return content


def test_wer_of_joined_audio_by_hand(experiments: list[Path], three_speakers: Path) -> None:
    comparison = compare(experiments)
    assert comparison.set_names == ["test"]
    results = comparison.lengths
    assert [(one.name, one.length_s) for one in results] == [
        ("softmax", 1.0),
        ("sigmoid", 1.0),
        ("softmax", 60.0),
        ("sigmoid", 60.0),
    ]
    # Below any utterance's length each stays alone, so the WER is that of the decoded set.
    for one, row in zip(results, comparison.rows, strict=False):
        assert one.wer == row.sets["test"].wer
        assert one.num_utterances == 6
    cuts = sorted(
        read_cuts(three_speakers),
        key=lambda cut: (cut.supervisions[0].speaker, cut.id),
    )
    model = load_model(experiments[1])
    errors = words = 0
    for speaker in {cut.supervisions[0].speaker for cut in cuts}:
        own = [cut for cut in cuts if cut.supervisions[0].speaker == speaker]
        wave = torch.from_numpy(np.concatenate([load_waveform(cut, 16000) for cut in own]))
        with torch.inference_mode():
            log_probs, lens = model.net(wave[None], torch.tensor([len(wave)]))
        heard = model.tokenizer.decode(greedy(log_probs, lens)[0].tokens).split()
        said = " ".join(cut.supervisions[0].text for cut in own).lower().split()
        errors += count_errors(said, heard).errors
        words += len(said)
    assert results[3].wer == pytest.approx(errors / words)
    assert results[3].difference == pytest.approx(results[3].wer - results[2].wer)
    assert results[2].difference is None


def test_holms_correction_is_over_all_durations(experiments: list[Path]) -> None:
    tested = [one for one in compare(experiments).lengths if one.p_value is not None]
    assert len(tested) >= 2
    by_hand = {}
    so_far = 0.0
    for rank, one in enumerate(sorted(tested, key=lambda one: one.p_value or 0.0)):
        so_far = max(so_far, min(1.0, (len(tested) - rank) * (one.p_value or 0.0)))
        by_hand[one.length_s] = so_far
    assert {one.length_s: one.p_holm for one in tested} == pytest.approx(by_hand)


def test_a_duration_that_adds_nothing_is_left_out_and_not_corrected_for(
    experiments: list[Path], copies: list[Path]
) -> None:
    """It would be the recordings of the duration before once more, under another name."""
    found = compare(experiments)
    assert [one.label for one in found.lengths] == ["2.54 s", "2.54 s", "5.09 s", "5.09 s"]
    assert found.notes[-1] == (
        "joined to 120 s: left out, speakers have utterances for 5.1 s on average, and 5.1 s are there "
        "already"
    )
    (header,) = [x for x in format_terminal(found).splitlines() if "2.54 s" in x]
    assert header.split()[1:] == ["2.54", "s", "5.09", "s"]
    for exp in copies:
        shutil.rmtree(exp / "decode/test-120s")
    without = compare(copies)
    assert (without.lengths, without.notes) == (found.lengths, found.notes[:-1])


def test_errors_of_each_speaker_stand_in_the_result(experiments: list[Path]) -> None:
    found = compare(experiments)
    for one in [*found.lengths, *(row.sets["test"] for row in found.rows)]:
        assert [unit.name for unit in one.units] == ["s0", "s1", "s2"]
        words = sum(unit.words for unit in one.units)
        assert sum(unit.errors for unit in one.units) / words == pytest.approx(one.wer)


def test_a_system_without_a_duration_is_left_out_by_name(copies: list[Path]) -> None:
    shutil.rmtree(copies[1] / "decode/test-1s")
    found = compare(copies)
    assert [one.name for one in found.lengths] == ["softmax", "softmax"]
    assert "joined: sigmoid left out, not decoded at 1 s" in found.notes
    found = compare(copies[::-1])
    assert [one.length_s for one in found.lengths] == [60.0, 60.0]
    assert "joined to 1 s: left out, sigmoid was not decoded on them" in found.notes
    for path in (copies[1] / "decode").glob("test-*s"):
        shutil.rmtree(path)
    found = compare(copies[::-1])
    assert [one.difference for one in found.lengths] == [None, None]
    assert any("sigmoid was not decoded on it" in note for note in found.notes)
    note = "joined: sigmoid left out, no such set of it is decoded"
    assert note in found.notes
    assert note in str(length_brief_files(found, Path("x.md"), "")[Path("x.md")])


def test_only_what_is_of_the_same_utterances_is_compared(
    copies: list[Path], three_speakers: Path, tmp_path: Path
) -> None:
    """The note says of which manifest; where a part of a joined one has it, there are fewer words."""
    of = {decoding(exp, f"test-{s}s")["joined"]["of"] for exp in copies for s in (1, 60)}
    assert of == {decoding(copies[0], "test")["fingerprint"]}
    cuts = list(read_cuts(three_speakers))
    other, part = tmp_path / "xother.cuts.jsonl.gz", tmp_path / "part.cuts.jsonl.gz"
    write_cuts(cuts[:4], other)
    decode_joined(copies, other, [30.0])
    write_cuts(join_speakers(cuts, 3.0)[:2], part)
    for exp in copies:
        # as records of an earlier version are, of parts too
        decode_otherwise(exp, part, "x", joined={"of": next(iter(of)), "to_s": 3.0})
    found = compare(copies)
    assert {one.length_s for one in found.lengths} == {1.0, 60.0}
    for note in (
        "xother-30s of softmax, sigmoid: left out, joined from other utterances than test-120s",
        "joined to 3 s: left out, these are not the words of those joined to 1 s",
    ):
        assert found.notes.count(note) == 1


def decode_otherwise(exp: Path, cuts: Path, name: str, **how: Any) -> None:
    """Another set, with another record of how it was decoded."""
    out = exp / "decode" / name
    summary = decode_set(load_model(exp), cuts, out)
    (out / "decode.json").write_text(json.dumps({**summary, **how}))
    score_folder(out)


def joined_cuts(three_speakers: Path, folder: Path, to_s: float) -> Path:
    path = folder / f"again-{to_s:g}s.cuts.jsonl.gz"
    write_cuts(join_speakers(list(read_cuts(three_speakers)), to_s), path)
    return path


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"search": "beam", "beam": 4}, "beam, beam 4"),
        ({"chunk": 8, "left_chunks": 2}, "greedy, chunk 8, left_chunks 2"),
    ],
)
def test_what_was_decoded_otherwise_is_never_compared(
    copies: list[Path], three_speakers: Path, tmp_path: Path, both: bool, how: Any, said: str
) -> None:
    """Whatever its folder is called: first in the alphabet, or as the other system's."""
    expected = compare(copies)
    whole = joined_cuts(three_speakers, tmp_path, 60.0)
    for exp in copies if both else copies[1:]:
        decode_otherwise(exp, whole, "a-60s", **how)
    found = compare(copies)
    assert found.lengths == expected.lengths
    first = "test-120s"
    systems = "softmax, sigmoid" if both else "sigmoid"
    note = f"a-60s of {systems}: left out, decoded with {said}, and {first} with greedy"
    assert [*expected.notes[:-1], note, expected.notes[-1]] == found.notes
    # the same name, and another way
    shutil.rmtree(copies[1] / "decode/test-60s")
    decode_otherwise(copies[1], whole, "test-60s", **how)
    found = compare(copies)
    assert {one.name for one in found.lengths} == {"softmax"}
    assert (
        f"test-60s of sigmoid: left out, decoded with {said}, and {first} with greedy"
        in found.notes
    )


def test_a_folders_name_is_the_same_for_all_systems(
    copies: list[Path], three_speakers: Path, tmp_path: Path
) -> None:
    decode_otherwise(copies[1], joined_cuts(three_speakers, tmp_path, 60.0), "a-60s")
    found = compare(copies)
    assert {one.set_name for one in found.lengths} == {"test-1s", "test-60s"}
    assert "a-60s of sigmoid: left out, joined to 60 s as test-60s is" in found.notes


def test_weights_that_were_tuned_are_each_systems_own(copies: list[Path]) -> None:
    def weighted(origin: str) -> Comparison:
        for number, exp in enumerate(copies):
            for path in exp.glob("decode/test-*s/decode.json"):
                lm = {"lm_sha256": "ab" * 32, "weights": origin, "lm_weight": 0.5 + number}
                path.write_text(json.dumps({**json.loads(path.read_text()), **lm}))
        return compare(copies)

    tuned = weighted("tuned").lengths
    assert {one.name for one in tuned} == {"softmax", "sigmoid"}
    assert {one.search for one in tuned} == {"greedy, lm_sha256 abababababab, weights tuned"}
    assert {one.name for one in weighted("given").lengths} == {"softmax"}


def test_a_note_of_a_wrong_kind_is_refused(copies: list[Path]) -> None:
    path = copies[0] / "decode/test-60s/decode.json"
    content = json.loads(path.read_text())
    for wrong in ({"to_s": 60.0}, {"of": "x", "to_s": -1.0}, {"of": 3, "to_s": 1.0}, "x"):
        path.write_text(json.dumps({**content, "joined": wrong}))
        with pytest.raises(InputError, match="'joined'"):
            compare(copies)


def test_what_decoded_by_itself_names_what_does(
    experiments: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["compare", *map(str, experiments), "--lengths", "15", "30"])
    assert stopped.value.code == 2
    assert "`asr join --to-s 15` and `asr decode`" in capsys.readouterr().err.splitlines()[-1]


def test_sets_decoded_before_the_model_changed_are_named(copies: list[Path]) -> None:
    def warned() -> list[str]:
        return [note for note in compare(copies).notes if "other weights" in note]

    assert not warned()
    # as a training that went on leaves it
    model = load_model(copies[0])
    changed = {name: value + 0.5 for name, value in model.net.state_dict().items()}
    save_model(copies[0] / "model", changed, model.config, model.tokenizer)
    expected = [
        f"WARNING: {name} of softmax was decoded with other weights than {copies[0] / 'model'} holds "
        "now; decode it again"
        for name in sorted(path.name for path in (copies[0] / "decode").iterdir())
    ]
    assert sorted(warned()) == expected
    assert len(expected) == 4
    for path in (copies[0] / "decode").glob("*/decode.json"):  # as older versions wrote it
        content = json.loads(path.read_text())
        del content["model_sha256"]
        path.write_text(json.dumps(content))
    assert not warned()


@pytest.mark.parametrize("content", [None, b"", b"\2\0\0\0\0\0\0\0[]", b"no weights at all"])
def test_a_model_that_is_gone_or_damaged_stops_no_comparison(
    copies: list[Path], content: bytes | None
) -> None:
    weights = copies[0] / "model" / "model.safetensors"
    weights.unlink()
    if content is not None:
        weights.write_bytes(content)
    assert not any("other weights" in note for note in compare(copies).notes)


def test_weights_without_sums_are_known_by_their_file(
    copies: list[Path], three_speakers: Path
) -> None:
    weights = copies[0] / "model" / "model.safetensors"
    save_file(load_file(weights), weights)
    decode_set(load_model(copies[0]), three_speakers, copies[0] / "decode" / "test")
    whole = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert decoding(copies[0], "test")["model_sha256"] == whole
    assert not any("other weights" in note for note in compare(copies).notes if "test of" in note)
