"""What keeps a run from ending: steps that are not finite, memory that runs out, the worst batch."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from made_batches import batch_of
from torch import nn

from asr import config
from asr.data.examples import Batch
from asr.errors import InputError
from asr.model.recogniser import Recogniser
from asr.processes import alone
from asr.run_folder import RunFolder
from asr.search.greedy import greedy
from asr.text.tokenizer import train_tokenizer
from asr.train.engines import build_engine
from asr.train.guards import find_fault, largest_that_fits, probe
from asr.train.optimizer import build_optimizer
from asr.train.run import find_batch, train
from asr.train.setup import prepare
from asr.train.step import Launched, Step, cut, silence
from asr.train.stopping import StopRequest
from asr.train.trainer import Trainer
from asr.train.validate import validate

SETTINGS = [
    "encoder.num_layers=2",
    "encoder.dim=16",
    "encoder.ff_dim=24",
    "encoder.conv_kernel=5",
    "encoder.subsampling_channels=4",
    "encoder.dropout=0",
]


def make_step(*overrides: str) -> tuple[Step, Recogniser, torch.optim.AdamW]:
    cfg = config.load([], [*SETTINGS, *overrides])
    torch.manual_seed(0)
    net = Recogniser(cfg, 12).train()
    optimizer = build_optimizer(net, cfg.optimizer)
    return Step(cfg, build_engine(net, cfg.train, alone("cpu")), optimizer), net, optimizer


def state(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return copy.deepcopy({"net": net.state_dict(), "optimizer": optimizer.state_dict()})


def flat(tree: Any) -> Iterator[Any]:
    for value in tree.values() if isinstance(tree, dict) else tree:
        if isinstance(value, dict | list | tuple):
            yield from flat(value)
        else:
            yield value


def same(left: Any, right: Any) -> bool:
    pairs = list(zip(flat(left), flat(right), strict=True))
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def test_a_step_that_is_not_finite_changes_nothing_and_the_next_goes_on() -> None:
    step, net, optimizer = make_step()
    batch = batch_of(16000, 12000)
    step.launch(1, 0, 1e-3, [batch], [])
    before = state(net, optimizer)
    broken = batch_of(16000, 12000)
    broken.wave_bn[1, 50] = torch.nan
    assert not step.launch(2, 0, 1e-3, [broken], []).read().finite
    assert same(before, state(net, optimizer))
    assert step.launch(3, 0, 1e-3, [batch], []).read().finite
    assert not same(before, state(net, optimizer))


def launch_broken(step: Step, batch: Batch) -> Launched:
    launched = step.launch(1, 0, 1e-3, [batch], [])
    assert not launched.read().finite
    return launched


def test_the_layer_and_the_utterance_at_fault_are_found() -> None:
    step, _, _ = make_step()
    engine = step._engine
    broken = batch_of(16000, 12000, 9000)
    broken.wave_bn[1, 50] = torch.inf
    fault = find_fault(step, engine, launch_broken(step, broken))
    assert fault == {"layer": "what features receives", "utterances": ["utterance-1"]}

    step, net, _ = make_step()
    linear = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    name = next(name for name in linear if name.startswith("encoder.layers.1.ff_after"))
    with torch.no_grad():
        net.get_submodule(name).weight[3, 2] = torch.nan
    fault = find_fault(step, step._engine, launch_broken(step, batch_of(16000)))
    assert fault["layer"] == name

    step, net, _ = make_step()
    net.get_parameter(f"{name}.bias").register_hook(lambda grad: grad * torch.inf)
    fault = find_fault(step, step._engine, launch_broken(step, batch_of(16000)))
    assert fault == {"layer": f"gradient of {name}.bias", "utterances": []}


def test_a_step_that_was_split_is_replayed_in_its_pieces() -> None:
    step, net, _ = make_step()
    broken = batch_of(16000, 16000, 16000, 16000)
    broken.wave_bn[2, 50] = torch.inf
    with memory_for(net, 40000):
        fault = find_fault(step, step._engine, launch_broken(step, broken))
    assert fault == {"layer": "what features receives", "utterances": ["utterance-2"]}


@contextmanager
def memory_for(net: Recogniser, num_samples: int) -> Iterator[None]:
    """A device that can hold the activations of so many samples at once."""

    def allocate(module: nn.Module, inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
        if inputs[0].numel() > num_samples:
            raise torch.OutOfMemoryError("out of memory")

    handle = net.features.register_forward_pre_hook(allocate)
    yield
    handle.remove()


def test_where_memory_runs_out_the_batch_is_split_and_the_update_is_the_same() -> None:
    batches = [batch_of(16000, 15000, 15000, 14000, 9000), batch_of(8000, 7000)]
    step, net, _ = make_step()
    whole = step.launch(1, 0, 1e-3, batches, []).read()
    split_step, split_net, _ = make_step()
    with memory_for(split_net, 40000):
        split = split_step.launch(1, 0, 1e-3, batches, []).read()
    assert split_step.most_samples == 40000
    assert split.loss == pytest.approx(whole.loss, rel=1e-6)
    for (name, left), right in zip(net.named_parameters(), split_net.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6, msg=name)
    with memory_for(split_net, 10000), pytest.raises(InputError, match=r"one utterance of 1\.0 s"):
        split_step.launch(2, 0, 1e-3, [batch_of(16000, 15000)], [])


def test_pieces_hold_every_utterance_once_and_fit() -> None:
    batch = batch_of(16000, 9000, 15000, 14000, 3000)
    for most in (1, 16000, 40000, 10**9):
        pieces = cut(batch, most)
        assert [name for piece in pieces for name in piece.ids] == list(batch.ids)
        assert sum(piece.audio_s for piece in pieces) == pytest.approx(batch.audio_s)
        for piece in pieces:
            assert len(piece) == 1 or piece.wave_bn.numel() <= most
            assert piece.wave_bn.shape[1] == piece.wave_lens_b.max()


def test_the_probe_leaves_no_trace_and_splits_ahead() -> None:
    step, net, optimizer = make_step()
    before = {name: value.clone() for name, value in net.named_parameters()}
    with memory_for(net, 20000):
        flops = probe(step, step._engine, optimizer, batch_of(16000, 16000, 16000, 16000))
    assert step.most_samples <= 20000 * 2
    assert all(torch.equal(before[name], value) for name, value in net.named_parameters())
    assert all(int(each["step"]) == 0 for each in optimizer.state.values())
    assert all(value.grad is None for value in net.parameters())
    # each weight of a linear layer in the encoder is used once per frame, of which there are 24 or 25
    frames = net.num_output_frames(16000)
    layers = [m for m in net.encoder.layers.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    lowest = 2 * frames * sum(layer.weight.numel() for layer in layers) / 16000
    assert lowest < flops.per_sample < 5 * lowest
    attention = 2 * 2 * frames**2 * 16 * 2  # two layers, two products, width 16
    assert flops.per_squared_sample * 16000**2 == pytest.approx(attention)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [0, 10])
def test_attention_counts_what_its_window_lets_it_see(window: int, causal: bool) -> None:
    options = [f"attention.window={window}", f"attention.causal={causal}"]
    step, net, optimizer = make_step(*options)
    batch = batch_of(160_000)
    flops = probe(step, step._engine, optimizer, batch)
    frames = net.num_output_frames(160_000)
    before, after = window or frames, 0 if causal else window or frames
    pairs = sum(min(i, before) + 1 + min(frames - 1 - i, after) for i in range(frames))
    expected = flops.per_sample * 160_000 + 2 * 2 * pairs * 16 * 2
    # frames are counted as if they had no width, so that a row's own is missing or half of it
    most = 2 * 2 * 16 * 2 * frames
    assert flops.training(batch.wave_lens_b) / 3 == pytest.approx(expected, abs=most)


def test_the_largest_batch_that_fits_is_found() -> None:
    for limit_s in (35.0, 36.0, 555.0, 5000.0):
        found_s = largest_that_fits(lambda asked_s, most_s=limit_s: asked_s <= most_s, 35.0, 1000.0)
        assert min(limit_s, 1000.0) / 1.06 <= found_s <= min(limit_s, 1000.0)
    assert largest_that_fits(lambda asked_s: False, 35.0, 1000.0) == 0.0


def test_the_batch_that_is_found_is_what_training_can_hold(
    tiny_corpus: Path, tmp_path: Path
) -> None:
    cfg = config.load([], [*SETTINGS, *data(tiny_corpus), "tokenizer.kind=char"])
    with pytest.raises(InputError, match="--find-batch needs a GPU"):
        find_batch(cfg)
    processes = alone("cpu")
    exp = RunFolder(tmp_path)
    setup = prepare(cfg, exp, processes.device, start=None, new_tokenizer=False)
    trainer = Trainer(cfg, setup, exp, processes, StopRequest())
    longest_s = float(setup.train.durations_s.max())
    for most_s in (5.5 * longest_s, 2.5 * longest_s, 0.5 * longest_s):
        with memory_for(setup.net, int(16000 * most_s)):
            found_s = trainer.find_batch()
        # whole utterances of the longest kind, to 5 %
        fitting_s = most_s // longest_s * longest_s
        assert fitting_s / 1.06 <= found_s <= 1.001 * (fitting_s + longest_s)
    assert list(tmp_path.iterdir()) == []


def test_a_process_with_nothing_to_do_adds_nothing() -> None:
    step, _, _ = make_step()
    none = torch.zeros(0, dtype=torch.int64)
    nothing = Batch((), torch.zeros(0, 0), none, none.reshape(0, 0), none, 0.0, (), ())
    assert len(silence(nothing)) == 1
    alone_totals = step.launch(1, 0, 0.0, [batch_of(16000)], []).read()
    with_nothing = step.launch(1, 0, 0.0, [batch_of(16000), nothing], []).read()
    assert with_nothing == alone_totals


def data(corpus: Path) -> list[str]:
    return [f"data.{part}=[{corpus}/{part}.cuts.jsonl.gz]" for part in ("train", "dev")]


def test_a_run_that_breaks_stops_with_advice_and_names(tiny_corpus: Path, tmp_path: Path) -> None:
    settings = [
        *SETTINGS,
        "tokenizer.kind=char",
        "features.scale=1e30",
        "train.global_batch_s=6",
        "train.max_batch_s=9",
        "train.max_skipped=3",
        "train.tensorboard=false",
        *data(tiny_corpus),
    ]
    with pytest.raises(
        InputError, match=r"3 steps in a row were not finite, .* lower optimizer\.lr"
    ):
        train(config.load([], settings), tmp_path / "exp")
    lines = map(json.loads, (tmp_path / "exp" / "log.jsonl").read_text().splitlines())
    skipped = [line for line in lines if line["kind"] == "skipped"]
    assert [line["step"] for line in skipped] == [1, 2, 3]
    assert all(line["utterances"] and line["faults"][0]["layer"] for line in skipped)


def test_a_run_of_which_no_step_is_finite_ends_and_has_no_loss(
    tiny_corpus: Path, tmp_path: Path
) -> None:
    settings = [
        *SETTINGS,
        "tokenizer.kind=char",
        "features.scale=1e30",
        "train.epochs=1",
        "train.global_batch_s=20",
        "train.max_batch_s=20",
        "train.log_steps=1",
        "train.max_skipped=1000000",
        *data(tiny_corpus),
    ]
    train(config.load([], settings), tmp_path / "exp")
    lines = list(map(json.loads, (tmp_path / "exp" / "log.jsonl").read_text().splitlines()))
    trained = [line for line in lines if line["kind"] == "train"]
    assert trained
    assert all(line["loss"] is None for line in trained)
    valid = [line for line in lines if line["kind"] == "valid"]
    assert valid
    assert all((line["loss"], line["wer"]) == (None, 1.0) for line in valid)


def test_an_utterance_is_given_up_for_what_lies_within_it_alone() -> None:
    """Beyond its length anything may stand; within it NaN costs its words, and nobody else's."""
    cfg = config.load([], [*SETTINGS, "tokenizer.kind=char"])
    tokenizer = train_tokenizer(["a lazy dog jumps"], cfg.tokenizer)
    torch.manual_seed(0)
    net = Recogniser(cfg, tokenizer.vocab_size).eval()
    with torch.no_grad():
        net.heads["ctc"].linear.weight.mul_(100)
        net.heads["ctc"].linear.bias[0] -= 3  # few blanks, so that each is heard to say something
    batch = batch_of(32000, 16000, 24000)
    with torch.no_grad():
        found = greedy(*net(batch.wave_bn, batch.wave_lens_b))
    texts = tuple(tokenizer.decode(best.tokens) for best in found)
    assert all(text.split() for text in texts)
    batch = replace(batch, texts=texts)
    frames: list[tuple[int, slice]] = []

    def spoil(module: nn.Module, inputs: Any, output: tuple[torch.Tensor, torch.Tensor]) -> Any:
        log_probs_btv, lens_b = output[0].clone(), output[1]
        for row, where in frames:
            log_probs_btv[row, where] = torch.nan
        return log_probs_btv, lens_b

    with torch.no_grad():
        _, lens_b = net(batch.wave_bn, batch.wave_lens_b)
    handle = net.register_forward_hook(spoil)
    frames.append((1, slice(int(lens_b[1]), None)))
    assert validate(net, [batch], tokenizer, alone("cpu"))[1] == 0.0
    frames.append((2, slice(0, 1)))
    lost, all_words = len(texts[2].split()), sum(len(text.split()) for text in texts)
    assert validate(net, [batch], tokenizer, alone("cpu"))[1] == pytest.approx(lost / all_words)
    handle.remove()
