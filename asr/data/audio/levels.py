"""Samples at a scale, or with channels, that a recogniser does not expect."""

from __future__ import annotations

import math

import numpy as np

from asr.errors import InputError

# Floats are within [-1, 1] but for clipping; those of integers' scale are mostly far beyond. Between the
# two bounds (16 bits below -48 dB, or floats 42 dB too loud) only whole numbers are of integers' scale.
_LOUDEST_FLOAT, _LOUDEST_FRACTION = 8.0, 128.0
_FLOAT_BITS = (16, 24, 32)
# What resampling adds to a peak.
_OVERSHOOT = 1.5
_ABSURD = _OVERSHOOT * 2**31
# Uncorrelated channels lose 3 dB in their mean, opposite ones all.
_CANCELLED = 1e-3
_SILENT = 1e-9
_MISSED = 1e-2  # 20 dB below
# LibriSpeech is at some -25 dB.
QUIET_DB = -45.0
CANCELLED = "the channels cancel one another: channel {} is taken by itself"
UNCANCELLED = "the channels cancel one another no longer: their mean is taken"
INTEGER_SCALE = "samples up to {:.0f}: taken as those of {} bits"


def to_floats(samples_cn: np.ndarray) -> np.ndarray:
    """Floats as they are, signed integers of any size to [-1, 1] by their type.

    Raises:
        InputError: neither; or not two axes.
    """
    if samples_cn.ndim != 2:
        raise InputError(f"samples of {samples_cn.ndim} axes: expected (n,) or (channels, n)")
    if np.issubdtype(samples_cn.dtype, np.signedinteger):
        return samples_cn / np.float32(-float(np.iinfo(samples_cn.dtype).min))
    if not np.issubdtype(samples_cn.dtype, np.floating):
        raise InputError(f"samples of type {samples_cn.dtype}: expected floats or signed integers")
    return samples_cn


def narrowed(samples: np.ndarray) -> tuple[np.ndarray, str | None]:
    """Integers of the type that their values fit, and a note where that is a narrower one.

    An array of int32 or int64 whose values are all within 16 or 24 bits holds samples of so many: as
    those of 32 bits, even its loudest would be below -90 or -48 dB. No recorder has samples of 64 bits.
    """
    if samples.dtype.kind != "i" or samples.dtype.itemsize < 4 or not samples.size:
        return samples, None
    samples = samples.astype(samples.dtype.newbyteorder("="), copy=False)
    least, most = int(samples.min()), int(samples.max())
    if least == most == 0:
        return samples, None
    for bits in (16, 24, 32):
        if -(2 ** (bits - 1)) <= least and most < 2 ** (bits - 1):
            if bits == 8 * samples.dtype.itemsize:
                return samples, None
            # those of 24 bits have no type of their own
            kind = np.int16 if bits == 16 else np.int32
            note = INTEGER_SCALE.format(max(-least, most), bits)
            return samples.astype(kind) << (8 if bits == 24 else 0), note
    return samples, None


def float_bits(block: np.ndarray) -> int | None:
    """Return the bits of the integers whose scale floats have; None where they are in [-1, 1]."""
    if not block.size or max(block.max(), -block.min()) <= _LOUDEST_FLOAT:
        return None
    sizes = np.abs(block)
    sizes = sizes[sizes < _ABSURD]  # false of NaN too
    # single clicks of any size are no scale
    if not sizes.size or np.quantile(sizes, 0.95) <= 1.0:
        return None
    peak = sizes.max()
    if peak <= _LOUDEST_FRACTION and not (sizes == np.rint(sizes)).all():
        return None
    return next((bits for bits in _FLOAT_BITS if peak <= _OVERSHOOT * 2 ** (bits - 1)), None)


def from_bits(samples: np.ndarray, bits: int) -> np.ndarray:
    """Return floats of the scale of integers of so many bits as those in [-1, 1]."""
    return samples * np.float32(2.0 ** (1 - bits))


def cancelling(block_nc: np.ndarray) -> int | None:
    """Return the loudest channel where the mean of all is all but silent and they are not."""
    if block_nc.shape[1] < 2 or not len(block_nc):
        return None
    powers_c = _powers(block_nc)
    with np.errstate(invalid="ignore", over="ignore"):
        power = float(np.mean(np.square(block_nc.mean(axis=1))))
    is_cancelled = powers_c.max() > _SILENT and power < _CANCELLED * powers_c.mean()
    return int(powers_c.argmax()) if is_cancelled else None


def misses_others(block_nc: np.ndarray, channel: int) -> bool:
    """Tell whether a channel is all but silent where another one is not."""
    if not len(block_nc):
        return False
    powers_c = _powers(block_nc)
    return bool(powers_c.max() > _SILENT and powers_c[channel] < _MISSED * powers_c.max())


def _powers(block_nc: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(np.einsum("nc,nc->c", block_nc, block_nc) / len(block_nc))


class Loudness:
    """The power of the loudest second or more that was pushed."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._energy, self._num_samples, self._power = 0.0, 0, 0.0

    def push(self, mono_n: np.ndarray) -> None:
        self._energy += float(np.dot(mono_n, mono_n))
        self._num_samples += len(mono_n)
        if self._num_samples >= self._rate:
            self._settle()

    def note(self) -> str | None:
        """Return a note on sound that is very quiet throughout; none on digital silence."""
        self._settle()
        if self._power <= 0.0:
            return None
        level_db = 10 * math.log10(self._power)
        if level_db >= QUIET_DB:
            return None
        return f"very quiet, {level_db:.0f} dB at its loudest: words may be missed; amplify it"

    def _settle(self) -> None:
        if self._num_samples:
            self._power = max(self._power, self._energy / self._num_samples)
        self._energy, self._num_samples = 0.0, 0
