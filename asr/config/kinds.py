"""Names of heads, and kinds of front ends and encoder layers with the options each reads.

Known without PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class EncoderKind(NamedTuple):
    """A kind of layers as the rest of the package sees it.

    Attributes:
        reads: options of the encoder that it reads and other kinds may not. A kind that reads
            ``causal`` has convolutions, which must be causal where utterances are cut into chunks.
        streams: whether utterances may be cut into chunks at all.
    """

    reads: tuple[str, ...] = ()
    streams: bool = True


ENCODERS = {
    "conformer": EncoderKind(reads=("conv_kernel", "conv_norm", "causal")),
    "ebranchformer": EncoderKind(reads=("conv_kernel", "cgmlp_dim", "causal")),
    "transformer": EncoderKind(),
}

DEFAULT_KIND = "conformer"

HEAD_NAMES = ("ctc", "attention")

# The gated convolution of an E-Branchformer over its width, where nothing is said.
CGMLP_WIDTH = 6


class FrontEndKind(NamedTuple):
    """A kind of features as the rest of the package sees it.

    Attributes:
        reads: options of the features that it reads and other kinds may not.
        streams: whether utterances may be cut into chunks at all.
        exports: whether it goes along into an ONNX file.
        sample_rate: the only rate that it is defined for, None for any.
    """

    reads: tuple[str, ...] = ()
    streams: bool = True
    exports: bool = True
    sample_rate: int | None = None


FRONT_ENDS = {
    "kaldi": FrontEndKind(reads=("frame_ms", "hop_ms", "low_hz", "high_hz", "scale", "snip_edges")),
    "whisper": FrontEndKind(reads=("pad_s",), streams=False, exports=False, sample_rate=16000),
    "nemo": FrontEndKind(streams=False, exports=False, sample_rate=16000),
}

DEFAULT_FRONT_END = "kaldi"

KINDS: dict[str, Mapping[str, EncoderKind | FrontEndKind]] = {
    "encoder": ENCODERS,
    "features": FRONT_ENDS,
}
"""Sections of the configuration with an option ``kind``, which decides on the options that are read."""

DEFAULT_KINDS = {"encoder": DEFAULT_KIND, "features": DEFAULT_FRONT_END}

OWN_OPTIONS = {
    section: sorted({name for kind in kinds.values() for name in kind.reads})
    for section, kinds in KINDS.items()
}
"""By section, the options that not every kind reads."""


def unread(section: str, kind: object) -> list[str]:
    """Return the options of a section that another kind reads and this one does not.

    A kind that is not known, such as a later version's, is taken to read them all.
    """
    own = OWN_OPTIONS[section]
    known = next((one.reads for name, one in KINDS[section].items() if name == kind), own)
    return [name for name in own if name not in known]
