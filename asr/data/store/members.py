"""Audio inside shards: tar files whose members are read by their place, in any order.

A manifest of shards has sources of Lhotse's type ``url`` that end in ``#offset=N&size=M&crc32=X``: those
bytes of that file are a FLAC, Opus or whatever file of its own, with that CRC-32 in hexadecimal digits
(older manifests have none, and then nothing is compared). The shard is a path, or a URL of anything
that fsspec opens (s3:// with s3fs, gs:// with gcsfs, https:// with aiohttp).
"""

from __future__ import annotations

import os
import re
import stat
import time
import zlib
from dataclasses import dataclass

import fsspec
from lhotse import AudioSource
from lhotse.cut import Cut, MixedCut
from lhotse.cut.data import DataCut
from lhotse.utils import fastcopy

from asr.data.audio.samples import AudioError

_PATTERN = re.compile(r"(.+)#offset=(\d{1,18})&size=(\d{1,18})(?:&crc32=([0-9a-f]{8}))?", re.ASCII)
# Schemes of stores that shards are read from. fsspec knows others that run programs, read through
# further files ("::") or open devices.
STORES = frozenset(
    {"http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf", "oci", "oss", "memory"}
)
# Seconds before each further try of a read that failed in a store.
_WAITS_S = (0.5, 1.0, 2.0)
# Of one try. A server that accepts and is silent is worse than one that refuses.
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Member:
    """``size`` bytes at ``offset`` of the file or URL ``shard``, and their CRC-32."""

    shard: str
    offset: int
    size: int
    crc32: int | None = None

    def __str__(self) -> str:
        place = f"{self.shard}#offset={self.offset}&size={self.size}"
        return place if self.crc32 is None else f"{place}&crc32={self.crc32:08x}"

    @staticmethod
    def parse(source: AudioSource) -> Member | None:
        """The member that a source of a manifest means, or None for any other source."""
        return Member.parse_text(source.source) if source.type == "url" else None

    @staticmethod
    def parse_text(text: str) -> Member | None:
        """The inverse of ``str``, or None."""
        found = _PATTERN.fullmatch(text)
        if found is None:
            return None
        crc32 = None if found[4] is None else int(found[4], 16)
        return Member(found[1], int(found[2]), int(found[3]), crc32)

    def is_of_a_store(self) -> bool:
        """Whether the shard is a file of this machine or of one of ``STORES``."""
        scheme, separator, _ = self.shard.partition("://")
        return "::" not in self.shard and (not separator or scheme in STORES)

    def read(self) -> bytes:
        """
        Raises:
            AudioError: names the shard: missing, unreadable, too short or damaged.
        """
        try:
            content = self._fetch() if "://" in self.shard else self._read_file()
        except FileNotFoundError:
            raise AudioError(f"shard {self.shard}: no such file", "missing shard") from None
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise AudioError(f"shard {self.shard}: {reason}", "unreadable shard") from None
        if len(content) < self.size:
            raise AudioError(
                f"shard {self.shard}: truncated: {self.size} bytes wanted at {self.offset}, "
                f"{len(content)} there",
                "truncated shard",
            )
        if self.crc32 is not None and zlib.crc32(content) != self.crc32:
            raise AudioError(
                f"shard {self.shard}: damaged: the {self.size} bytes at {self.offset} have another "
                f"CRC-32 than when they were written",
                "damaged shard",
            )
        return content

    def _read_file(self) -> bytes:
        # a pipe is opened without waiting for who writes to it
        handle = os.open(self.shard, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise AudioError(f"shard {self.shard}: not a file", "unreadable shard")
            there = max(status.st_size - self.offset, 0)
            return os.pread(handle, min(self.size, there), self.offset)
        finally:
            os.close(handle)

    def _fetch(self) -> bytes:
        """Read from a store, and again after a pause where that fails.

        Raises:
            FileNotFoundError: no such shard.
            AudioError: the last of the failures, a package is missing for such a store, or it knows
                no ranges.
        """
        for wait_s in (*_WAITS_S, None):
            try:
                content = self._fetch_once()
                break
            except FileNotFoundError:
                raise
            except ImportError as error:
                reason = " ".join(str(error).split())
                raise AudioError(f"shard {self.shard}: {reason}", "unreadable shard") from None
            except Exception as error:  # each store raises what its own library raises
                if wait_s is None:
                    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                    raise AudioError(
                        f"shard {self.shard}: {reason} ({len(_WAITS_S) + 1} tries)",
                        "unreadable shard",
                    ) from None
                time.sleep(wait_s)
        if len(content) > self.size:
            raise AudioError(
                f"shard {self.shard}: {self.size} bytes wanted, {len(content)} came: the server does "
                "not know ranges of bytes",
                "unreadable shard",
            )
        return content

    def _fetch_once(self) -> bytes:
        files, path = fsspec.core.url_to_fs(self.shard)
        limit = {"timeout": _TIMEOUT_S} if files.async_impl else {}
        content: bytes = files.cat_file(
            path, start=self.offset, end=self.offset + self.size, **limit
        )
        return content


def fetch_members(cut: Cut) -> Cut:
    """The cut with what it has in shards read into memory; any other cut as it is.

    Raises:
        AudioError: names the cut and the shard.
    """
    if isinstance(cut, MixedCut):
        tracks = [fastcopy(track, cut=fetch_members(track.cut)) for track in cut.tracks]
        return fastcopy(cut, tracks=tracks)
    if not isinstance(cut, DataCut) or cut.recording is None:
        return cut
    members = [Member.parse(source) for source in cut.recording.sources]
    if not any(members):
        return cut
    try:
        sources = [
            source if member is None else AudioSource("memory", source.channels, member.read())
            for source, member in zip(cut.recording.sources, members, strict=True)
        ]
    except AudioError as error:
        raise AudioError(f"cut {cut.id}: {error}", error.reason) from None
    return fastcopy(cut, recording=fastcopy(cut.recording, sources=sources))
