"""Where one FLAC stream ends and the next begins."""

from __future__ import annotations

import random

from asr.data.flac import _BEGINNING, _find


def test_the_search_finds_what_bytes_find_does() -> None:
    """At any place and parity, among noise and among the zeros of padding."""
    rng = random.Random(0)
    found = 0
    for _ in range(3000):
        content = bytearray(rng.randbytes(rng.randrange(400)))
        for _ in range(rng.randrange(3)):
            place = rng.randrange(len(content) + 1)
            content[place:place] = rng.choice(
                [_BEGINNING, _BEGINNING[:-1], bytes(rng.randrange(300))]
            )
        expected = bytes(content).find(_BEGINNING)
        assert _find(bytes(content)) == expected
        found += expected >= 0
    assert 500 < found < 2500
