"""Rules on which combinations of options exist: one table that drives refusals and tests alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from sigmoid_attention.weightings import MAPS, Map, listed, maps_with, served_by

from asr.config.kinds import CGMLP_WIDTH, ENCODERS, FRONT_ENDS, HEAD_NAMES, OWN_OPTIONS, unread
from asr.config.schema import (
    HEAD_SECTIONS,
    AttentionConfig,
    Config,
    CtcConfig,
    EncoderConfig,
    FeatureConfig,
    TokenizerConfig,
)


class Rule(NamedTuple):
    """A combination that is refused: ``broken`` says whether it is there, ``reason`` why not."""

    broken: Callable[[Config], bool]
    reason: str
    """Filled with the configuration's sections: "{attention.shift}"."""


def _map(config: Config) -> Map:
    return MAPS[config.attention.weighting]


# What a run of another version may name: whether options enter is decided as for relu.
_OF_ANOTHER_VERSION = MAPS["relu"]
_SHIFTED = listed(maps_with(lambda one: one.shift))
_WITH_POWER = listed(maps_with(lambda one: one.power))

MAX_WINDOW = 8192  # samples; the mel bank and a batch of spectra grow with it


def _unread(section: str, name: str) -> Rule:
    """An option of the features or of the encoder that some kinds read, given to another."""
    default = getattr(getattr(Config(), section), name)

    def broken(config: Config) -> bool:
        part = getattr(config, section)
        return name in unread(section, part.kind) and getattr(part, name) != default

    return Rule(
        broken,
        f"{section}.{name} = {{{section}.{name}}}: {section}.kind = {{{section}.kind}} does not read "
        f"it; leave it at {default}",
    )


def _only_rate(kind: str, rate: int) -> Rule:
    """A kind of features at another rate than the one that it is defined for."""
    return Rule(
        lambda c: c.features.kind == kind and c.features.sample_rate != rate,
        f"features.sample_rate = {{features.sample_rate}}: features.kind = {kind} needs {rate}",
    )


def _unread_of_head(section: str, name: str, default: object) -> Rule:
    """An option of a head that is not there."""
    head = HEAD_SECTIONS[section].head or section
    return Rule(
        lambda c: head not in c.model.heads and getattr(getattr(c, section), name) != default,
        f"{section}.{name} = {{{section}.{name}}}: model.heads = {{model.heads}} has no {head}, which "
        f"alone reads it; leave it at {default}",
    )


def _weight(config: Config, head: str) -> float:
    """Return the factor on a head's loss; 1 of a head that has none."""
    sections = {part.head or section: section for section, part in HEAD_SECTIONS.items()}
    if head not in sections:
        return 1.0
    weight: float = vars(getattr(config, sections[head])).get("weight", 1.0)
    return weight


def _positions(section: str) -> Rule:
    """A number of learned positions without any."""
    default = getattr(Config(), section).num_positions
    return Rule(
        lambda c: (
            getattr(c, section).position != "learned"
            and getattr(c, section).num_positions != default
        ),
        f"{section}.num_positions = {{{section}.num_positions}}: {section}.position = "
        f"{{{section}.position}} has no table of them; leave it at {default}",
    )


RULES = (
    Rule(
        lambda c: c.features.sample_rate * c.features.frame_ms > 1000 * MAX_WINDOW,
        "features.frame_ms = {features.frame_ms}: at features.sample_rate = {features.sample_rate} a "
        f"window may have {MAX_WINDOW} samples",
    ),
    Rule(
        lambda c: c.encoder.dim % c.attention.num_heads != 0,
        "encoder.dim = {encoder.dim} must be a multiple of attention.num_heads = {attention.num_heads}",
    ),
    Rule(
        lambda c: (
            bool(c.attention.num_kv_heads) and c.attention.num_heads % c.attention.num_kv_heads != 0
        ),
        "attention.num_heads = {attention.num_heads} must be a multiple of "
        "attention.num_kv_heads = {attention.num_kv_heads}",
    ),
    Rule(
        lambda c: (
            c.attention.position == "rope" and (c.encoder.dim // c.attention.num_heads) % 2 != 0
        ),
        "attention.position = rope needs an even width per head, "
        "not {encoder.dim} / {attention.num_heads}",
    ),
    Rule(
        lambda c: not _map(c).shift and c.attention.shift != "-log n",
        "attention.shift = {attention.shift}: "
        f"only {_SHIFTED} has a shift, not {{attention.weighting}}",
    ),
    Rule(
        lambda c: not _map(c).shift and c.attention.shift_per_head,
        f"attention.shift_per_head: only {_SHIFTED} has a shift, not {{attention.weighting}}",
    ),
    Rule(
        lambda c: (
            c.attention.shift_exponent and (not _map(c).shift or c.attention.shift != "-log n")
        ),
        f"attention.shift_exponent: only {_SHIFTED} with shift -log n has a count with an exponent, "
        "not {attention.weighting} with shift {attention.shift}",
    ),
    Rule(
        lambda c: not _map(c).scaled and c.attention.row_scale != "auto",
        "attention.row_scale = {attention.row_scale}: {attention.weighting}'s rows sum to one already",
    ),
    Rule(
        lambda c: c.attention.count == "sequence" and not _counts(c),
        "attention.count = {attention.count}: nothing is counted with weighting "
        "{attention.weighting}, shift {attention.shift} and row_scale {attention.row_scale}",
    ),
    Rule(
        lambda c: not _map(c).power and c.attention.power != 3,
        "attention.power = {attention.power}: "
        f"only {_WITH_POWER} has a power, not {{attention.weighting}}",
    ),
    Rule(
        lambda c: c.attention.power % 2 == 0,
        "attention.power = {attention.power}: must be odd, or opposite scores weigh the same",
    ),
    Rule(
        lambda c: c.attention.backend == "sdpa" and "sdpa" not in _map(c).engines,
        f"attention.backend = sdpa has {listed(served_by('sdpa'))} only, not {{attention.weighting}}",
    ),
    Rule(
        lambda c: c.attention.backend == "triton" and "triton" not in _map(c).engines,
        f"attention.backend = triton has {listed(served_by('triton'))} only, "
        "not {attention.weighting}",
    ),
    Rule(
        lambda c: (
            c.attention.keys == "linformer"
            and c.attention.position not in ("none", "sinusoidal", "learned", "cape")
        ),
        "attention.keys = linformer: its mixtures stand at no frame, so {attention.position} has "
        "nothing to measure; choose none, sinusoidal, learned or cape",
    ),
    Rule(
        lambda c: (
            c.attention.keys == "linformer" and (c.attention.window > 0 or c.attention.causal)
        ),
        "attention.window = {attention.window}, attention.causal = {attention.causal}: "
        "attention.keys = linformer mixes all frames of an utterance, so no row can be kept from some",
    ),
    Rule(
        lambda c: (
            c.attention.causal and any(c.encoder.chunk_sizes) and set(c.encoder.left_chunks) == {-1}
        ),
        "encoder.chunk_sizes = {encoder.chunk_sizes}: with attention.causal = true and "
        "encoder.left_chunks = {encoder.left_chunks} chunks hide nothing more; leave it empty, or "
        "limit encoder.left_chunks",
    ),
    Rule(
        lambda c: "attention" in c.model.heads and c.encoder.dim % c.decoder.num_heads != 0,
        "encoder.dim = {encoder.dim} must be a multiple of decoder.num_heads = {decoder.num_heads}",
    ),
    Rule(
        lambda c: (
            "attention" in c.model.heads
            and c.decoder.position == "rope"
            and (c.encoder.dim // c.decoder.num_heads) % 2 != 0
        ),
        "decoder.position = rope needs an even width per head, "
        "not {encoder.dim} / {decoder.num_heads}",
    ),
    _positions("attention"),
    _positions("decoder"),
    Rule(
        lambda c: (
            c.encoder.subsampling_kind != "conv2d"
            and c.encoder.subsampling_channels != EncoderConfig().subsampling_channels
        ),
        "encoder.subsampling_channels = {encoder.subsampling_channels}: encoder.subsampling_kind = "
        "{encoder.subsampling_kind} is as wide as the encoder; leave it at "
        f"{EncoderConfig().subsampling_channels}",
    ),
    *(_unread(section, name) for section, names in OWN_OPTIONS.items() for name in names),
    *(_only_rate(kind, one.sample_rate) for kind, one in FRONT_ENDS.items() if one.sample_rate),
    Rule(
        lambda c: c.encoder.conv_kernel % 2 == 0,
        "encoder.conv_kernel = {encoder.conv_kernel}: must be odd",
    ),
    Rule(
        lambda c: c.encoder.cgmlp_dim % 2 != 0,
        "encoder.cgmlp_dim = {encoder.cgmlp_dim}: must be even, half of it gates the other half",
    ),
    Rule(
        lambda c: (
            len(set(c.ctc.intermediate_layers)) < len(c.ctc.intermediate_layers)
            or any(layer >= c.encoder.num_layers for layer in c.ctc.intermediate_layers)
        ),
        "ctc.intermediate_layers = {ctc.intermediate_layers}: give different layers below the last, "
        "which is {encoder.num_layers}",
    ),
    Rule(
        lambda c: not c.model.heads or len(set(c.model.heads)) < len(c.model.heads),
        f"model.heads = {{model.heads}}: give one or more of {', '.join(HEAD_NAMES)}, none twice",
    ),
    Rule(
        lambda c: not any(_weight(c, head) for head in c.model.heads),
        "ctc.weight = {ctc.weight}, decoder.weight = {decoder.weight}: with model.heads = {model.heads} "
        "there is nothing to train; give one of them a weight above 0",
    ),
    *(
        _unread_of_head(section, name, default)
        for section, part in HEAD_SECTIONS.items()
        for name, default in vars(part).items()
    ),
    Rule(
        lambda c: not c.encoder.left_chunks,
        "encoder.left_chunks = []: give at least one number, -1 for all",
    ),
    Rule(
        lambda c: not c.augment.speed_factors,
        "augment.speed_factors = []: give at least one speed, 1.0 for none",
    ),
    Rule(
        lambda c: (
            len(c.augment.noise_snr_db) != 2
            or c.augment.noise_snr_db[0] > c.augment.noise_snr_db[1]
        ),
        "augment.noise_snr_db = {augment.noise_snr_db}: give the lowest and the highest ratio",
    ),
    Rule(
        lambda c: (
            bool(c.augment.hiss_db)
            and (len(c.augment.hiss_db) != 2 or c.augment.hiss_db[0] > c.augment.hiss_db[1])
        ),
        "augment.hiss_db = {augment.hiss_db}: give the lowest and the highest level, or neither",
    ),
    Rule(
        lambda c: len(c.optimizer.betas) != 2,
        "optimizer.betas = {optimizer.betas}: give two numbers",
    ),
    Rule(
        lambda c: c.train.average_what == "last" and c.train.best_by != "wer",
        "train.best_by = {train.best_by}: train.average_what = last chooses by no error rate",
    ),
    Rule(
        lambda c: c.train.diagnose_steps > 0 and c.train.parallel == "fsdp",
        "train.diagnose_steps = {train.diagnose_steps}: with train.parallel = fsdp no process holds "
        "the weights that it would look at",
    ),
    Rule(
        lambda c: c.data.min_duration_s > c.data.max_duration_s,
        "data.min_duration_s = {data.min_duration_s} is above "
        "data.max_duration_s = {data.max_duration_s}",
    ),
)


CHUNK_RULES = (
    Rule(
        lambda c: not FRONT_ENDS[c.features.kind].streams,
        "{what}: features.kind = {features.kind} needs whole utterances",
    ),
    Rule(
        lambda c: not ENCODERS[c.encoder.kind].streams,
        "{what}: encoder.kind = {encoder.kind} needs whole utterances",
    ),
    Rule(
        lambda c: "causal" in ENCODERS[c.encoder.kind].reads and not c.encoder.causal,
        "{what} needs encoder.causal = true: convolutions would look past the chunk",
    ),
    Rule(
        lambda c: c.attention.keys == "linformer",
        "{what}: attention.keys = linformer needs whole utterances, it mixes all of their frames",
    ),
    Rule(
        lambda c: c.attention.position == "cape",
        "{what}: attention.position = cape needs whole utterances, it centres them",
    ),
    Rule(
        lambda c: c.attention.position == "learned",
        "{what}: attention.position = learned needs whole utterances, it has no frame beyond "
        "attention.num_positions",
    ),
    Rule(
        lambda c: c.encoder.subsampling_kind == "conv1d",
        "{what}: encoder.subsampling_kind = conv1d needs whole utterances, it looks past the chunk",
    ),
    Rule(
        lambda c: c.attention.count == "sequence",
        "{what}: attention.count = sequence needs whole utterances, it counts their frames",
    ),
)
"""Refused where frames see chunks only, in training or in a stream."""


def chunk_refusal(config: Config, what: str) -> str | None:
    """Return why ``what`` cannot cut utterances into chunks as configured; None where it can."""
    for rule in CHUNK_RULES:
        if rule.broken(config):
            return rule.reason.format(what=what, **vars(config))
    return None


def sees_past_only(config: Config) -> bool:
    """Tell whether no frame depends on later ones, so that chunks of any size hide nothing of them."""
    convolves = "causal" in ENCODERS[config.encoder.kind].reads
    return config.attention.causal and (config.encoder.causal or not convolves)


def refusal(config: Config) -> str | None:
    """Return in one line why this configuration cannot be; None where it can."""
    for rule in RULES:
        if rule.broken(config):
            return rule.reason.format(**vars(config))
    if config.encoder.chunk_sizes:
        return chunk_refusal(config, f"encoder.chunk_sizes = {config.encoder.chunk_sizes}")
    return None


def attention_terms(attention: AttentionConfig) -> dict[str, object]:
    """Return the options that enter what attention computes; two that agree in them compute alike."""
    terms: dict[str, object] = dict(vars(attention))
    unused = {"backend"}
    one = MAPS.get(attention.weighting, _OF_ANOTHER_VERSION)
    if not one.shift:
        unused |= {"shift", "shift_constant", "shift_per_head", "shift_exponent"}
    elif attention.shift != "constant":
        unused.add("shift_constant")
    if not one.power:
        unused.add("power")
    if not one.scaled:
        unused.add("row_scale")
    elif attention.row_scale == "auto":
        terms["row_scale"] = one.row_scale or "none"
    biased = one.shift and attention.position in ("alibi", "table")
    # Without a bias the effective count is that of the visible keys.
    if not _attention_counts(attention) or (attention.count != "sequence" and not biased):
        unused.add("count")
    if attention.position != "learned":
        unused.add("num_positions")
    if attention.keys != "linformer":
        unused |= {"linformer_length", "linformer_frames"}
    terms["num_kv_heads"] = attention.num_kv_heads or attention.num_heads
    return {name: value for name, value in terms.items() if name not in unused}


def feature_terms(features: FeatureConfig) -> dict[str, object]:
    """Return the options that the features read."""
    unused = unread("features", features.kind)
    return {name: value for name, value in vars(features).items() if name not in unused}


def encoder_terms(encoder: EncoderConfig) -> dict[str, object]:
    """Return the options that the encoder reads; two that agree in them compute alike."""
    unused = {*unread("encoder", encoder.kind), *(() if encoder.chunk_sizes else ("left_chunks",))}
    if encoder.subsampling_kind == "conv1d":
        unused.add("subsampling_channels")
    terms = dict(vars(encoder))
    if encoder.cgmlp_dim == 0 and isinstance(encoder.dim, int):  # a file may say anything
        terms["cgmlp_dim"] = CGMLP_WIDTH * encoder.dim
    return {name: value for name, value in terms.items() if name not in unused}


def ctc_terms(ctc: CtcConfig) -> dict[str, object]:
    """Return the options that the CTC head reads."""
    unused = set() if ctc.intermediate_layers else {"intermediate_weight"}
    return {name: value for name, value in vars(ctc).items() if name not in unused}


def tokenizer_terms(tokenizer: TokenizerConfig) -> dict[str, object]:
    """Return the options that the tokenizer reads."""
    unused = {"vocab_size"} if tokenizer.kind == "char" else set()
    return {name: value for name, value in vars(tokenizer).items() if name not in unused}


def _counts(config: Config) -> bool:
    return _attention_counts(config.attention)


def _attention_counts(attention: AttentionConfig) -> bool:
    one = MAPS.get(attention.weighting, _OF_ANOTHER_VERSION)
    if not one.scaled:
        return False
    if one.shift and attention.shift == "-log n":
        return True
    row_scale = one.row_scale if attention.row_scale == "auto" else attention.row_scale
    return row_scale not in (None, "none")
