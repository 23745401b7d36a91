"""Joined utterances: the same words at every duration, decoded whole, and what changes is counted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lhotse import MonoCut, SupervisionSegment

from asr.compare.compare import compare
from asr.compare.lengths import compare_lengths, join
from asr.compare.tables import format_terminal
from asr.config import load
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
    """Two small untrained models, decoded."""
    folder = tmp_path_factory.mktemp("lengths")
    cuts = three_speakers
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
        decode_set(load_model(exp), cuts, exp / "decode" / "test")
        score_folder(exp / "decode" / "test")
        found.append(exp)
    return found


def test_groups_are_of_one_speaker_and_hold_everything_once(tiny_corpus: Path) -> None:
    cuts = list(read_cuts(tiny_corpus / "train.cuts.jsonl.gz"))
    for cut in cuts:  # the tiny corpus has a voice per utterance
        cut.supervisions[0].speaker = cut.id[:1]
    for length_s in (1.0, 7.5, 20.0, 1000.0):
        groups = join(cuts, length_s)
        assert sorted(cut.id for group in groups for cut in group) == sorted(cut.id for cut in cuts)
        for group in groups:
            assert len({cut.supervisions[0].speaker for cut in group}) == 1
            assert [cut.id for cut in group] == sorted(cut.id for cut in group)
    assert len(join(cuts, 1.0)) == len(cuts)
    assert len(join(cuts, 1000.0)) == len({cut.id[:1] for cut in cuts})


def test_groups_share_a_speakers_time_evenly() -> None:
    """133 s: once whole, in halves, in quarters and in ninths, each within half an utterance."""
    rng = np.random.default_rng(0)
    durations_s = rng.uniform(1.5, 4.0, 48)
    durations_s *= 133 / durations_s.sum()
    cuts = [
        MonoCut(
            id=f"u{k:02}",
            start=0.0,
            duration=float(duration_s),
            channel=0,
            supervisions=[SupervisionSegment(f"u{k:02}", "r", 0.0, float(duration_s), speaker="s")],
        )
        for k, duration_s in enumerate(durations_s)
    ]
    for length_s, number in ((120.0, 1), (60.0, 2), (30.0, 4), (15.0, 9)):
        lengths_s = [sum(cut.duration for cut in group) for group in join(cuts, length_s)]
        assert len(lengths_s) == number
        assert max(abs(one - 133 / number) for one in lengths_s) < durations_s.max()
    assert [len(group) for group in join(cuts, 1e-300)] == [1] * 48


def test_wer_of_joined_audio_by_hand(experiments: list[Path], three_speakers: Path) -> None:
    comparison = compare(experiments)
    joined = compare_lengths(comparison, [600.0, 1.0])
    assert joined.notes == comparison.notes
    results = joined.lengths
    assert [(one.name, one.length_s) for one in results] == [
        ("softmax", 1.0),
        ("sigmoid", 1.0),
        ("softmax", 600.0),
        ("sigmoid", 600.0),
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


def test_what_was_decoded_is_used_again(experiments: list[Path]) -> None:
    compare_lengths(compare(experiments), [600.0])
    path = experiments[0] / "lengths" / "test-joined-600s" / "hypotheses.jsonl"
    before = path.stat().st_mtime_ns
    compare_lengths(compare(experiments), [600.0])
    assert path.stat().st_mtime_ns == before
    (experiments[0] / "model" / "model.safetensors").touch()
    compare_lengths(compare(experiments), [600.0])
    assert path.stat().st_mtime_ns > before


def test_another_manifest_of_the_same_name_is_decoded_anew(
    experiments: list[Path], three_speakers: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    """With one system it gave the old utterances' WER, with two a KeyError."""
    one = experiments[:1]
    compare_lengths(compare(one), [600.0])
    other = tmp_path / "test.cuts.jsonl.gz"
    cuts = list(read_cuts(tiny_corpus / "dev.cuts.jsonl.gz"))
    write_cuts(cuts, other)
    for exp in experiments:
        decode_set(load_model(exp), other, exp / "decode" / "test")
        score_folder(exp / "decode" / "test")
    for exps in (one, experiments):
        joined = compare_lengths(compare(exps), [600.0])
        assert joined.lengths[0].mean_duration_s * joined.lengths[
            0
        ].num_utterances == pytest.approx(sum(cut.duration for cut in cuts), abs=0.1)
    for exp in experiments:
        decode_set(load_model(exp), three_speakers, exp / "decode" / "test")
        score_folder(exp / "decode" / "test")


def test_holms_correction_is_over_all_durations(experiments: list[Path]) -> None:
    joined = compare_lengths(compare(experiments), [1.0, 600.0])
    tested = [one for one in joined.lengths if one.p_value is not None]
    assert len(tested) >= 2
    by_hand = {}
    so_far = 0.0
    for rank, one in enumerate(sorted(tested, key=lambda one: one.p_value)):
        so_far = max(so_far, min(1.0, (len(tested) - rank) * one.p_value))
        by_hand[one.length_s] = so_far
    assert {one.length_s: one.p_holm for one in tested} == pytest.approx(by_hand)


def test_a_duration_given_twice_is_one_column(experiments: list[Path]) -> None:
    comparison = compare(experiments)
    joined = compare_lengths(comparison, [1.0, 600.0, 1.0])
    assert joined == compare_lengths(comparison, [1.0, 600.0])
    assert [one.label for one in joined.lengths] == ["2.54 s", "2.54 s", "5.09 s", "5.09 s"]
    (header,) = [x for x in format_terminal(joined).splitlines() if "2.54 s" in x]
    assert header.split()[1:] == ["2.54", "s", "5.09", "s"]


def test_a_duration_that_adds_nothing_is_left_out_and_not_corrected_for(
    experiments: list[Path],
) -> None:
    """It was the recordings of the duration before once more, under another name."""
    comparison = compare(experiments)
    joined = compare_lengths(comparison, [1.0, 60.0, 120.0, 600.0])
    assert joined.lengths == compare_lengths(comparison, [1.0, 60.0]).lengths
    assert joined.notes[len(comparison.notes) :] == [
        f"joined to {length_s} s: left out, speakers have utterances for 5.1 s on average, and 5.1 s "
        f"are there already"
        for length_s in (120, 600)
    ]


def test_errors_of_each_speaker_stand_in_the_result(experiments: list[Path]) -> None:
    joined = compare_lengths(compare(experiments), [600.0])
    for one in [*joined.lengths, *(row.sets["test"] for row in joined.rows)]:
        assert [unit.name for unit in one.units] == ["s0", "s1", "s2"]
        words = sum(unit.words for unit in one.units)
        assert sum(unit.errors for unit in one.units) / words == pytest.approx(one.wer)


def test_utterances_of_no_known_speaker_are_not_joined(
    experiments: list[Path], three_speakers: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    decoding = experiments[0] / "decode" / "test" / "decode.json"
    content = decoding.read_text()
    for speaker in (None, "unknown"):
        cuts = list(read_cuts(tiny_corpus / "test.cuts.jsonl.gz"))
        cuts[-1].supervisions[0].speaker = speaker
        write_cuts(cuts, tmp_path / "test.cuts.jsonl.gz")
        manifest = str(tmp_path / "test.cuts.jsonl.gz")
        decode_set(load_model(experiments[0]), Path(manifest), tmp_path / "out")
        assert list(score_folder(tmp_path / "out").speakers)[-1] == "unknown"
        decoding.write_text(json.dumps({**json.loads(content), "cuts": manifest}))
        with pytest.raises(InputError, match=r"are of no known speaker"):
            compare_lengths(compare(experiments), [30.0])
    decoding.write_text(content)


def test_refusals(experiments: list[Path]) -> None:
    with pytest.raises(InputError, match="--lengths 0: must be above 0 seconds, and finite"):
        compare_lengths(compare(experiments), [0.0])
    decoding = experiments[0] / "decode" / "test" / "decode.json"
    content = json.loads(decoding.read_text())
    decoding.write_text(json.dumps({**content, "cuts": "/gone"}))
    with pytest.raises(InputError, match=r"/gone, the manifest that .* is not there"):
        compare_lengths(compare(experiments), [30.0])
    decoding.write_text(json.dumps(content))
