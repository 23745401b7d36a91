"""The options of an optimiser and of a training run."""

from __future__ import annotations

from dataclasses import dataclass

from asr.config.option import FREE, REPORTED, option


@dataclass(frozen=True)
class OptimizerConfig:
    lr: float = option(1e-3, "peak learning rate", low=1e-9, high=10.0, on_resume=REPORTED)
    betas: list[float] = option([0.9, 0.98], "AdamW's two decay rates", low=0.0, high=0.99999)
    eps: float = option(1e-8, "AdamW's epsilon", low=1e-20, high=1.0)
    weight_decay: float = option(
        0.01, "on matrices only, not on norms and biases", low=0.0, high=10.0
    )
    warmup_fraction: float = option(
        0.1,
        "share of the steps that warm up linearly",
        low=0.0,
        high=1.0,
        on_resume=REPORTED,
    )
    schedule: str = option(
        "cosine",
        "decay after the warm-up",
        choices=("cosine", "linear", "constant"),
        on_resume=REPORTED,
    )
    final_lr_fraction: float = option(
        0.01, "last learning rate over the peak's", low=0.0, high=1.0, on_resume=REPORTED
    )
    clip_norm: float = option(
        5.0, "largest gradient norm; larger ones are scaled down", low=1e-6, high=1e9
    )


@dataclass(frozen=True)
class TrainConfig:
    seed: int = option(
        1, "random seed for initialisation, shuffling and augmentation", low=0, high=2**63 - 1
    )
    device: str = option("auto", "where to train: auto, cpu, cuda or cuda:N", on_resume=FREE)
    precision: str = option(
        "auto",
        "auto is bf16 on CUDA, fp32 elsewhere",
        choices=("auto", "fp32", "bf16", "fp64"),
    )
    parallel: str = option(
        "ddp",
        "how processes under torchrun share the work: each holds all weights, or a part of them",
        choices=("ddp", "fsdp"),
        on_resume=FREE,
    )
    timeout_minutes: float = option(
        10.0,
        "how long a process waits for another before it gives up",
        low=0.1,
        high=10080.0,
        on_resume=FREE,
    )
    checkpoint_activations: bool = option(
        False,
        "recompute each layer in the backward pass: less memory, a third more work",
        on_resume=FREE,
    )
    compile: bool = option(False, "compile the encoder's layers with torch.compile", on_resume=FREE)
    num_threads: int = option(
        0, "CPU threads; 0 is PyTorch's own choice", low=0, high=4096, on_resume=FREE
    )
    epochs: int = option(30, "passes over the data", low=1, high=10**6, on_resume=REPORTED)
    global_batch_s: float = option(
        600.0, "seconds of audio per optimiser step, the same on any machine", low=0.1, high=1e8
    )
    max_batch_s: float = option(
        300.0, "padded seconds computed at once; more is accumulated", low=0.1, high=1e7
    )
    attention_balance_s: float = option(
        0.0,
        "length at which attention costs as much as all else: d seconds count d (1 + d / this) "
        "towards max_batch_s; 0 counts seconds",
        low=0.0,
        high=1e9,
    )
    validate_epochs: int = option(1, "epochs between validations", low=1, high=10**6)
    validate_steps: int = option(
        0, "optimiser steps between validations; 0: validate_epochs counts", low=0, high=10**12
    )
    max_validate_utterances: int = option(
        0, "validate on the first N utterances; 0 is all", low=0, high=10**12
    )
    average_checkpoints: int = option(
        5, "weights of the final model: mean of N checkpoints", low=1, high=10**4
    )
    average_what: str = option(
        "best",
        "which checkpoints: best by dev error rate (best_by), or last",
        choices=("best", "last"),
    )
    best_by: str = option(
        "wer",
        "error rate on the dev data that says which checkpoints are best: of words, or of characters, "
        "for languages without spaces",
        choices=("wer", "cer"),
    )
    ema_decay: float = option(
        0.0,
        "of a moving average of the weights, validated and kept in their place; 0 is none",
        low=0.0,
        high=0.999999,
    )
    max_skipped: int = option(
        10, "steps in a row that may turn out not finite", low=1, high=10**9, on_resume=FREE
    )
    checkpoint_minutes: float = option(
        10.0,
        "minutes between checkpoints, beside those of validations; 0 is none",
        low=0.0,
        high=1e6,
        on_resume=FREE,
    )
    checkpoint_steps: int = option(
        0,
        "optimiser steps between checkpoints, beside the others; 0 is none",
        low=0,
        high=10**12,
        on_resume=FREE,
    )
    log_steps: int = option(
        10, "optimiser steps between log lines", low=1, high=10**12, on_resume=FREE
    )
    diagnose_steps: int = option(
        0,
        "optimiser steps between looks at what attention does; 0 is none",
        low=0,
        high=10**12,
        on_resume=FREE,
    )
    tensorboard: bool = option(True, "write TensorBoard series beside log.jsonl", on_resume=FREE)
