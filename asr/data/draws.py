"""Random numbers that are a function of what they are for: a seed, an epoch, an utterance, a purpose."""

from __future__ import annotations

import hashlib

import numpy as np


def stable_hash(*parts: int | str) -> int:
    """128 bits from the parts, the same in every process, on every machine, in every version.

    Parts are tagged with type and length, so ("ab", "c") and ("a", "bc"), 1 and "1", differ.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, str):
            raw = part.encode("utf-8")
            digest.update(b"s%d:" % len(raw) + raw)
        else:
            digest.update(b"i%d:" % part)
    return int.from_bytes(digest.digest(), "little")


def utterance_rng(seed: int, epoch: int, utterance_id: str, purpose: str) -> np.random.Generator:
    """A generator of its own for one purpose on one utterance in one epoch.

    Philox is counter based: the hash is its key, no seeding pass is needed (some 10 us each).
    """
    key = stable_hash(seed, epoch, utterance_id, purpose)
    return np.random.Generator(np.random.Philox(key=key))


def draw_many(keys: np.ndarray, *parts: int | str) -> np.ndarray:
    """float64 uniform in [0, 1) for each uint64 key: a function of the key and the parts alone.

    For draws over all utterances at once, where a generator each would take minutes. The mixing is
    SplitMix64's (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
    """
    mixed = np.asarray(keys, dtype=np.uint64) + np.uint64(stable_hash(*parts) & (1 << 64) - 1)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)) * 2.0**-53
