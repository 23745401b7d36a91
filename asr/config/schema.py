"""Every option of the package, its default, its meaning and its bounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sigmoid_attention.weightings import MAPS

from asr.config.kinds import DEFAULT_FRONT_END, DEFAULT_KIND, ENCODERS, FRONT_ENDS, HEAD_NAMES
from asr.config.option import CONTENT, FREE, option
from asr.config.training import OptimizerConfig, TrainConfig

DAY_S = 86400.0


@dataclass(frozen=True)
class DataConfig:
    train: list[str] = option([], "manifests (Lhotse cuts) to train on", on_resume=CONTENT)
    train_weights: list[float] = option(
        [],
        "shares of the audio of each manifest of data.train; empty: all that each holds",
        low=0.0,
        high=1e9,
    )
    dev: list[str] = option([], "manifests that validation reads", on_resume=CONTENT)
    min_duration_s: float = option(
        0.1, "shorter utterances are left out of training", low=0.0, high=DAY_S
    )
    max_duration_s: float = option(
        30.0, "longer utterances are left out of training", low=0.1, high=DAY_S
    )
    max_utterances: int = option(
        0, "train on the first N utterances only; 0 is all", low=0, high=10**12
    )
    num_workers: int = option(
        0,
        "processes that read audio; 0 is a thread of the training process",
        low=0,
        high=1024,
        on_resume=FREE,
    )
    cache_mb: int = option(
        0, "keep up to this much decoded audio in memory", low=0, high=10**8, on_resume=FREE
    )
    index_folder: str = option(
        "", "where indices of large manifests are kept; empty: beside each manifest", on_resume=FREE
    )
    max_unreadable: float = option(
        0.01,
        "share of the training utterances, and of the dev utterances, that may turn out unreadable",
        low=0.0,
        high=1.0,
        on_resume=FREE,
    )
    shuffle_labels: bool = option(
        False, "give every training utterance another one's text: the control that must fail"
    )


@dataclass(frozen=True)
class FeatureConfig:
    """The front end, which makes log-mel features of audio."""

    kind: str = option(
        DEFAULT_FRONT_END,
        "whose definitions the features follow: Kaldi's filterbank (no dither, normalised by the mean "
        "and variance of the training data), Whisper's, or NeMo's (normalised by the utterance)",
        choices=tuple(FRONT_ENDS),
    )
    sample_rate: int = option(
        16000, "samples per second that everything is resampled to", low=1000, high=192000
    )
    num_mels: int = option(80, "mel bins", low=8, high=512)
    frame_ms: float = option(25.0, "window length: kaldi", low=1.0, high=1000.0)
    hop_ms: float = option(10.0, "frame shift: kaldi", low=1.0, high=1000.0)
    low_hz: float = option(20.0, "lower edge of the mel bank: kaldi", low=0.0, high=96000.0)
    high_hz: float = option(
        0.0,
        "upper edge; 0 or negative counts from the Nyquist frequency: kaldi",
        low=-96000.0,
        high=96000.0,
    )
    snip_edges: bool = option(
        True, "only whole windows; false centres frames and reflects edges: kaldi"
    )
    scale: float = option(
        32768.0, "factor on samples in [-1, 1] (16-bit integers): kaldi", low=1e-6, high=1e38
    )
    pad_s: float = option(
        0.0,
        "length to which zeros fill up shorter utterances; their frames count (Whisper was trained with "
        "30): whisper",
        low=0.0,
        high=30.0,
    )


@dataclass(frozen=True)
class AugmentConfig:
    speed_factors: list[float] = option(
        [1.0], "speeds, one drawn per utterance and epoch", low=0.5, high=2.0
    )
    num_freq_masks: int = option(2, "SpecAugment: frequency masks per utterance", low=0, high=1000)
    max_freq_mask: int = option(27, "SpecAugment: widest frequency mask, mel bins", low=0, high=512)
    num_time_masks: int = option(10, "SpecAugment: most time masks per utterance", low=0, high=1000)
    time_mask_fraction: float = option(
        0.05, "SpecAugment: widest time mask as a share of the utterance", low=0.0, high=1.0
    )
    time_masks_per_s: float = option(
        1.0,
        "SpecAugment: time masks per second of speech, up to num_time_masks",
        low=0.0,
        high=1000.0,
    )
    noises: list[str] = option(
        [], "manifests of noises mixed into training utterances", on_resume=CONTENT
    )
    noise_probability: float = option(
        0.5, "share of the utterances that get a noise, if there are any", low=0.0, high=1.0
    )
    noise_snr_db: list[float] = option(
        [5.0, 25.0], "lowest and highest signal-to-noise ratio", low=-50.0, high=100.0
    )
    edge_silence_s: float = option(
        0.0,
        "most silence put before and after a training utterance: none at half of the edges, else as "
        "much as is drawn; rooms, noises and hiss lie over it",
        low=0.0,
        high=10.0,
    )
    hiss_db: list[float] = option(
        [],
        "lowest and highest level of white noise under training utterances, dB of full scale",
        low=-120.0,
        high=0.0,
    )
    hiss_probability: float = option(
        1.0, "share of the utterances that get hiss, if it has levels", low=0.0, high=1.0
    )
    rooms: list[str] = option(
        [], "manifests of room impulse responses to play utterances in", on_resume=CONTENT
    )
    room_probability: float = option(
        0.5, "share of the utterances played in a room, if there are any", low=0.0, high=1.0
    )


@dataclass(frozen=True)
class TokenizerConfig:
    kind: str = option("bpe", "text units", choices=("char", "bpe", "unigram"))
    vocab_size: int = option(
        500,
        "units of bpe and unigram, blank and unknown included (char: ignored)",
        low=8,
        high=65536,
    )
    normaliser: str = option(
        "lowercase-apostrophe",
        "what happens to a text before it is tokenized and scored",
        choices=("none", "lowercase-apostrophe"),
    )


@dataclass(frozen=True)
class AttentionConfig:
    weighting: str = option("sigmoid", "how scores become weights", choices=tuple(MAPS))
    position: str = option(
        "alibi",
        "how position enters the scores, or the frames before the first layer (sinusoidal, learned, "
        "cape)",
        choices=("none", "sinusoidal", "learned", "cape", "rope", "alibi", "relative", "table"),
    )
    num_positions: int = option(
        1500,
        "frames that position: learned has a vector for: the longest utterance",
        low=1,
        high=1 << 20,
    )
    num_heads: int = option(4, "attention heads", low=1, high=1024)
    num_kv_heads: int = option(
        0, "heads of keys and values, shared by groups of heads; 0 is num_heads", low=0, high=1024
    )
    shift: str = option(
        "-log n", "what is added to sigmoid's scores", choices=("none", "constant", "-log n")
    )
    shift_constant: float = option(
        -5.0, "the constant of shift: constant", low=-1000.0, high=1000.0
    )
    shift_per_head: bool = option(False, "add a trained number per head to sigmoid's shift")
    shift_exponent: bool = option(
        False, "train an exponent a per head of sigmoid's count: shift -a log n, a = 1 at first"
    )
    count: str = option(
        "effective",
        "the n of shift and row_scale: the keys a row may see, the utterance's frames, or "
        "(effective) how many of those keys each head can see: the sum of exp(position bias) over "
        "them, which is their number with all positions but alibi and table; weightings without a "
        "shift count the keys a row may see",
        choices=("visible", "sequence", "effective"),
    )
    row_scale: str = option(
        "auto",
        "factor on the weights; auto: "
        + "".join(f"{one.row_scale} for {name}, " for name, one in MAPS.items() if one.row_scale)
        + "none for the others",
        choices=("auto", "none", "1/n", "1/sqrt n"),
    )
    power: int = option(3, "exponent of polynomial (odd)", low=1, high=15)
    qk_norm: bool = option(
        False, "QK-norm: each head's queries and keys to a root mean square of 1"
    )
    output_norm: bool = option(False, "hybrid norm: a norm on what attention adds to the residual")
    window: int = option(
        0,
        "frames of the encoder that a row sees to each side of itself; 0: all of them",
        low=0,
        high=1 << 20,
    )
    causal: bool = option(False, "a row sees no later frames: attention looks at the past only")
    keys: str = option(
        "full",
        "what queries are compared with: the frames, or a fixed number of mixtures of them",
        choices=("full", "linformer"),
    )
    linformer_length: int = option(64, "how many mixtures of keys: linformer", low=1, high=4096)
    linformer_frames: int = option(
        1024,
        "the longest utterance of keys: linformer, in frames of the encoder",
        low=1,
        high=1 << 20,
    )
    backend: str = option(
        "auto",
        "attention backend",
        choices=("auto", "reference", "sdpa", "blockwise", "triton"),
        on_resume=FREE,
    )


@dataclass(frozen=True)
class EncoderConfig:
    kind: str = option(DEFAULT_KIND, "encoder layers", choices=tuple(ENCODERS))
    num_layers: int = option(12, "layers", low=1, high=512)
    dim: int = option(256, "width", low=8, high=16384)
    ff_dim: int = option(1024, "width inside the feed-forward modules", low=8, high=65536)
    conv_kernel: int = option(
        31,
        "frames of the depthwise convolutions (odd): conformer, ebranchformer",
        low=1,
        high=1001,
    )
    conv_norm: str = option(
        "layernorm",
        "norm inside the convolution module: conformer",
        choices=("layernorm", "rmsnorm"),
    )
    cgmlp_dim: int = option(
        0,
        "width inside the gated convolution (even), 0 is six times dim: ebranchformer",
        low=0,
        high=65536,
    )
    subsampling: int = option(4, "feature frames per frame of the encoder", choices=(2, 4, 8))
    subsampling_kind: str = option(
        "conv2d",
        "convolutions before the layers: over time and mel bins, then a projection; or over time alone, "
        "as wide as the encoder",
        choices=("conv2d", "conv1d"),
    )
    subsampling_channels: int = option(
        64, "channels of the subsampling convolutions: conv2d", low=1, high=4096
    )
    activation: str = option(
        "silu", "activation of the feed-forward modules", choices=("silu", "gelu")
    )
    norm: str = option(
        "pre", "norm before each module or after its residual sum", choices=("pre", "post")
    )
    layer_scale: float = option(
        0.0,
        "LayerScale: first value of a trained gain on each module; 0 is none",
        low=0.0,
        high=1.0,
    )
    stochastic_depth: float = option(
        0.0,
        "stochastic depth: drop probability of the last layer, linear over depth",
        low=0.0,
        high=0.9,
    )
    causal: bool = option(
        False,
        "convolutions see the past only, as streaming needs: conformer, ebranchformer",
    )
    chunk_sizes: list[int] = option(
        [],
        "frames that see each other in training, one size drawn per batch; 0 is all of them",
        low=0,
        high=1 << 20,
    )
    left_chunks: list[int] = option(
        [-1],
        "chunks before that frames see too, one number drawn per batch; -1 is all",
        low=-1,
        high=1 << 20,
    )
    dropout: float = option(0.1, "dropout everywhere", low=0.0, high=0.9)


@dataclass(frozen=True)
class HeadConfig:
    """Options of a head: nothing reads them where ``model.heads`` lacks it.

    Attributes:
        head: its name; empty: that of the section.
    """

    head: ClassVar[str] = ""


@dataclass(frozen=True)
class CtcConfig(HeadConfig):
    """The CTC head."""

    intermediate_layers: list[int] = option(
        [], "layers (from 1) whose output gets a CTC loss of its own", low=1, high=512
    )
    intermediate_weight: float = option(
        0.3, "share of those losses in the whole", low=0.0, high=1.0
    )
    consistency: float = option(
        0.0,
        "weight of the consistency between two SpecAugmented views (CR-CTC; its paper takes 0.2); 0 is "
        "one view",
        low=0.0,
        high=1000.0,
    )
    weight: float = option(1.0, "factor on its loss in the sum over heads", low=0.0, high=1000.0)


@dataclass(frozen=True)
class DecoderConfig(HeadConfig):
    """The attention head, a Transformer decoder as wide as the encoder."""

    head: ClassVar[str] = "attention"

    num_layers: int = option(6, "layers", low=1, high=512)
    num_heads: int = option(4, "heads of both attentions of a layer", low=1, high=1024)
    ff_dim: int = option(1024, "width inside the feed-forward modules", low=8, high=65536)
    weighting: str = option(
        "softmax", "how scores among tokens become weights", choices=tuple(MAPS)
    )
    cross_weighting: str = option(
        "softmax", "how scores of tokens and encoder frames become weights", choices=tuple(MAPS)
    )
    position: str = option(
        "sinusoidal",
        "how position enters: among tokens only",
        choices=("none", "sinusoidal", "learned", "rope", "alibi", "relative", "table"),
    )
    num_positions: int = option(
        448,
        "tokens that position: learned has a vector for, the one that begins each transcript among "
        "them",
        low=2,
        high=1 << 20,
    )
    tie_embeddings: bool = option(
        False, "the embedding of the tokens is their output projection too, which has no bias then"
    )
    activation: str = option(
        "silu", "activation of the feed-forward modules", choices=("silu", "gelu")
    )
    dropout: float = option(
        0.1, "dropout rate of the embedding and of all modules", low=0.0, high=0.9
    )
    label_smoothing: float = option(
        0.1, "share of each target that is spread over all tokens", low=0.0, high=0.9
    )
    weight: float = option(1.0, "factor on its loss in the sum over heads", low=0.0, high=1000.0)


@dataclass(frozen=True)
class ModelConfig:
    heads: list[str] = option(
        ["ctc"],
        "what stands on the encoder, each with a section of its own; training minimises the weighted "
        "sum of their losses, the first one is read where no other is asked for",
        choices=HEAD_NAMES,
    )


@dataclass(frozen=True)
class Config:
    data: DataConfig = field(default_factory=DataConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    ctc: CtcConfig = field(default_factory=CtcConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


HEAD_SECTIONS = {
    name: part for name, part in vars(Config()).items() if isinstance(part, HeadConfig)
}
"""Defaults of the sections of heads."""


def unread_heads(heads: object) -> list[str]:
    """Return the sections of heads that are not among these; none where that is no list."""
    if not isinstance(heads, list):
        return []
    return [name for name, part in HEAD_SECTIONS.items() if (part.head or name) not in heads]


def walk(config: Config) -> Iterator[tuple[str, Any, dataclasses.Field[Any]]]:
    """(dotted key, value, field) of every option."""
    for section in dataclasses.fields(config):
        part = getattr(config, section.name)
        for item in dataclasses.fields(part):
            yield f"{section.name}.{item.name}", getattr(part, item.name), item
