"""Names of heads, and kinds of encoder layers with the options each reads, known without PyTorch."""

from __future__ import annotations

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

OWN_OPTIONS = sorted({name for kind in ENCODERS.values() for name in kind.reads})
"""Options of the encoder that not every kind reads."""


def unread(kind: object) -> list[str]:
    """Return the options of the encoder that another kind reads and this one does not.

    A kind that is not known, such as a later version's, is taken to read them all.
    """
    known = next((one.reads for name, one in ENCODERS.items() if name == kind), OWN_OPTIONS)
    return [name for name in OWN_OPTIONS if name not in known]
