"""espeak-ng through ctypes: text to samples and word times, a pure function of its arguments.

The library is one global synthesiser whose flutter, filters, gain control and random numbers run
on from one utterance to the next, even across its own terminate and initialise. So it is unloaded
and loaded afresh before every utterance (about a millisecond): what was spoken before never changes
what is spoken now.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asr.errors import InputError

# Constants of espeak-ng's speak_lib.h.
_OUTPUT_SYNCHRONOUS = 2
_DONT_EXIT = 0x8000
_CHARS_UTF8 = 1
_ALL_OK = 0
_EVENT_END_OF_LIST, _EVENT_WORD = 0, 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_POSITION_CHARACTER = 1
_BUFFER_MS = 1000

_FAMILY = "gmw"  # the folder of espeak's data that English is in (West Germanic)


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    ]


_SYNTH_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Event)
)


@dataclass(frozen=True)
class Speech:
    """What espeak said.

    ``word_starts_s`` has one entry per word of the text; None where espeak merged a word with the
    one before it (it speaks "of the" as one).
    """

    samples: np.ndarray  # int16 (n,)
    sample_rate: int
    word_starts_s: tuple[float | None, ...]


class Espeak:
    """The synthesiser; not for two threads at once.

    Raises:
        InputError: espeakng-loader is not installed, or its library cannot be loaded.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("espeakng_loader") is None:
            raise InputError(
                "synthetic speech needs espeakng-loader: pip install sigmoid-asr[synthetic]"
            )
        import espeakng_loader

        try:
            self._library_path = espeakng_loader.get_library_path()
            self._data_path = Path(espeakng_loader.get_data_path())
        except RuntimeError as error:
            raise InputError(f"espeak-ng cannot be loaded: {error}") from None
        self._variants = frozenset(
            path.name for path in (self._data_path / "voices" / "!v").iterdir()
        )
        self._accents = {path.name.lower(): path for path in _english(self._data_path)}
        self._view = _lower_case_view(self._data_path, self._accents)
        # Breath noise comes from the C library's rand(), which outlives the synthesiser.
        self._libc = ctypes.cdll.msvcrt if sys.platform == "win32" else ctypes.CDLL(None)
        self._sample_rate = 0
        self._blocks: list[bytes] = []
        self._words: list[tuple[int, int]] = []
        self._callback = _SYNTH_CALLBACK(self._receive)  # a reference, or it is collected

    def variants(self) -> list[str]:
        """Names of the voice variants (timbres) that the wheel ships."""
        return sorted(self._variants)

    def speak(
        self,
        text: str,
        accent: str,
        variant: str,
        *,
        rate_wpm: int = 175,
        pitch: int = 50,
        pitch_range: int = 50,
        volume: int = 80,
        seed: int = 1,
    ) -> Speech:
        """Speak ``text`` with ``<accent>+<variant>``; pitch and pitch range are espeak's 0 to 99.

        Raises:
            InputError: no such accent or variant.
        """
        # espeak takes an unknown variant for none at all, without a word.
        if variant not in self._variants:
            raise InputError(f"espeak-ng has no voice variant {variant!r}")
        parameters = ((_RATE, rate_wpm), (_VOLUME, volume), (_PITCH, pitch), (_RANGE, pitch_range))
        self._blocks, self._words = [], []
        content = text.encode()
        with self._fresh_library(accent, f"+{variant}", seed) as library:
            for parameter, value in parameters:
                library.espeak_SetParameter(parameter, value, 0)
            status = library.espeak_Synth(
                content, len(content) + 1, 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None
            )
            assert status == _ALL_OK, f"espeak_Synth returned {status}"
        samples = np.frombuffer(b"".join(self._blocks), dtype=np.int16)
        return Speech(samples, self._sample_rate, _align(text, self._words, self._sample_rate))

    def phonemes(self, words: Iterable[str], accent: str) -> list[str]:
        """What espeak makes of each word, in its own ASCII notation: equal strings sound alike."""
        with self._fresh_library(accent, "", seed=1) as library:
            found = []
            for word in words:
                content = ctypes.c_char_p(word.encode())
                spoken = library.espeak_TextToPhonemes(ctypes.byref(content), _CHARS_UTF8, 0)
                found.append(spoken.decode().strip())
            return found

    @contextmanager
    def _fresh_library(self, accent: str, variant: str, seed: int) -> Iterator[ctypes.CDLL]:
        """The library as if no one had used it yet, with a voice, and gone again afterwards."""
        if accent not in self._accents:
            raise InputError(f"espeak-ng has no English accent {accent!r}")
        try:
            library = _declare(ctypes.CDLL(self._library_path))
        except OSError as error:
            raise InputError(f"espeak-ng cannot be loaded: {error}") from None
        try:
            self._sample_rate = library.espeak_Initialize(
                _OUTPUT_SYNCHRONOUS, _BUFFER_MS, os.fsencode(self._view.name), _DONT_EXIT
            )
            if self._sample_rate <= 0:
                raise InputError(f"espeak-ng cannot read its data in {self._data_path}")
            library.espeak_SetSynthCallback(self._callback)
            library.espeak_ng_SetRandSeed(seed)
            self._libc.srand(seed)
            voice = f"{_FAMILY}/{accent}{variant}"
            if library.espeak_SetVoiceByName(voice.encode()) != _ALL_OK:
                raise InputError(f"espeak-ng cannot load its voice {voice!r}")
            yield library
        finally:
            library.espeak_Terminate()
            _unload(library)

    def _receive(self, samples: int | None, num_samples: int, events: ctypes._Pointer) -> int:
        if samples and num_samples > 0:
            self._blocks.append(ctypes.string_at(samples, 2 * num_samples))
        index = 0
        while events[index].type != _EVENT_END_OF_LIST:
            event = events[index]
            if event.type == _EVENT_WORD:
                self._words.append((event.text_position - 1, event.sample))
            index += 1
        return 0


def _english(data_path: Path) -> list[Path]:
    return [path for path in (data_path / "lang" / _FAMILY).iterdir() if path.name[:2] == "en"]


def _lower_case_view(data_path: Path, accents: dict[str, Path]) -> tempfile.TemporaryDirectory[str]:
    """A folder of links to espeak's data in which the accents' files have lower-case names.

    espeak opens a voice by the lower-case form of the name it is given. The files' names have
    capitals, so it then reads all voice files to find the one meant, which takes longer than
    speaking.
    """
    view = tempfile.TemporaryDirectory(prefix="sigmoid-asr-espeak-")
    family = Path(view.name, "lang", _FAMILY)
    family.mkdir(parents=True)
    for path in data_path.iterdir():
        if path.name != "lang":
            Path(view.name, path.name).symlink_to(path, target_is_directory=path.is_dir())
    for name, path in accents.items():
        (family / name).symlink_to(path)
    return view


def _unload(library: ctypes.CDLL) -> None:
    import _ctypes  # ctypes itself offers no way to close a library

    if sys.platform == "win32":
        _ctypes.FreeLibrary(library._handle)
    else:
        _ctypes.dlclose(library._handle)


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    number, text, pointer = ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p
    library.espeak_Initialize.argtypes = [number, number, text, number]
    library.espeak_SetVoiceByName.argtypes = [text]
    library.espeak_SetParameter.argtypes = [number, number, number]
    library.espeak_SetSynthCallback.argtypes = [_SYNTH_CALLBACK]
    library.espeak_SetSynthCallback.restype = None
    library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
    library.espeak_TextToPhonemes.argtypes = [ctypes.POINTER(text), number, number]
    library.espeak_TextToPhonemes.restype = text
    library.espeak_Synth.argtypes = [
        text, ctypes.c_size_t, ctypes.c_uint, number, ctypes.c_uint, ctypes.c_uint, pointer, pointer
    ]  # fmt: skip
    return library


def _align(text: str, events: list[tuple[int, int]], sample_rate: int) -> tuple[float | None, ...]:
    """Word events (character position, sample) to one start per word of ``text``."""
    starts_s: dict[int, float] = {}
    for position, sample in events:
        starts_s.setdefault(position, sample / sample_rate)
    return tuple(starts_s.get(match.start()) for match in re.finditer(r"\S+", text))
