"""Voice activity every 32 ms, by silero-vad's network (MIT licence).

Its weights are taken from the TorchScript file in the wheel ``silero-vad``, whose Python code is not
imported: it changes the number of threads of the whole process. The network is small: the magnitudes
of a spectrum, four convolutions, an LSTM. Frames are computed many at once, the LSTM's steps
excepted.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import soxr
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr.errors import InputError

RATE = 16000
FRAME_SAMPLES = 512
# Samples before a frame that the network reads too.
_CONTEXT_SAMPLES = 64
# TorchScript: two networks, of which the one for 16 kHz is taken.
_SCRIPT, _NETWORK = "silero_vad.jit", "_model."
_FFT_HOP, _FFT_PADDING = 128, 64
_STRIDES = (1, 2, 2, 1)
_LSTM_DIM = 128
_LSTM_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")

State = tuple[Tensor, Tensor]


class VoiceActivity:
    """The network: frames in order -> the probability that each holds speech."""

    def __init__(self, weights: dict[str, Tensor]):
        self._weights = weights
        self._lstm = nn.LSTM(_LSTM_DIM, _LSTM_DIM)
        self._lstm.load_state_dict(
            {f"{name}_l0": weights[f"decoder.rnn.{name}"] for name in _LSTM_WEIGHTS}
        )

    @torch.inference_mode()
    def __call__(self, frames_tn: Tensor, state: State | None) -> tuple[Tensor, State]:
        """(t, 64 + 512) samples at 16 kHz, each row with the end of the one before -> (t,), state."""
        weights = self._weights
        x_t1n = F.pad(frames_tn[:, None], (0, _FFT_PADDING), mode="reflect")
        spectrum_tcn = F.conv1d(x_t1n, weights["stft.forward_basis_buffer"], stride=_FFT_HOP)
        real_tkn, imaginary_tkn = spectrum_tcn.chunk(2, dim=1)
        x_tcn = torch.hypot(real_tkn, imaginary_tkn)
        for number, stride in enumerate(_STRIDES):
            layer = f"encoder.{number}.reparam_conv"
            weight, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
            x_tcn = F.conv1d(x_tcn, weight, bias, stride, padding=1).relu()
        x_tbc, state = self._lstm(x_tcn.permute(0, 2, 1), state)
        head_1c, bias_1 = weights["decoder.decoder.2.weight"], weights["decoder.decoder.2.bias"]
        return F.linear(x_tbc[:, 0].relu(), head_1c[:, :, 0], bias_1)[:, 0].sigmoid(), state


def load_voice_activity() -> VoiceActivity:
    """
    Raises:
        InputError: silero-vad is not installed, or its network is another one.
    """
    spec = importlib.util.find_spec("silero_vad")
    if spec is None or spec.origin is None:
        raise InputError("voice activity needs silero-vad: pip install 'sigmoid-asr[vad]'")
    path = Path(spec.origin).parent / "data" / _SCRIPT
    try:
        script = torch.jit.load(path, map_location="cpu")
        weights = {
            name.removeprefix(_NETWORK): weight
            for name, weight in script.state_dict().items()
            if name.startswith(_NETWORK)
        }
        activity = VoiceActivity(weights)
        activity(torch.zeros(1, _CONTEXT_SAMPLES + FRAME_SAMPLES), None)  # shapes fit too
    except (ValueError, RuntimeError, LookupError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not silero-vad's network as of release 6: {reason}") from None
    return activity


class ActivityStream:
    """Probabilities of speech while samples come."""

    def __init__(self, activity: VoiceActivity, sample_rate: int):
        self._activity = activity
        self._resampler = None if sample_rate == RATE else soxr.ResampleStream(sample_rate, RATE, 1)
        # joined where a frame is complete
        self._held, self._num_held = [np.zeros(_CONTEXT_SAMPLES, np.float32)], _CONTEXT_SAMPLES
        self._state: State | None = None

    def push(self, samples_n: np.ndarray) -> np.ndarray:
        """(n,) more samples -> (t,) of the frames that they complete."""
        if self._resampler is not None:
            samples_n = self._resampler.resample_chunk(samples_n)
        return self._compute(samples_n)

    def finish(self) -> np.ndarray:
        """(t,) of what is left, filled up with silence."""
        rest_n = np.zeros(0, np.float32)
        if self._resampler is not None:
            rest_n = self._resampler.resample_chunk(rest_n, last=True)
        num_missing = -(self._num_held + len(rest_n) - _CONTEXT_SAMPLES) % FRAME_SAMPLES
        return self._compute(np.concatenate([rest_n, np.zeros(num_missing, np.float32)]))

    def _compute(self, samples_n: np.ndarray) -> np.ndarray:
        # sound beyond 1 is no louder to this network
        self._held.append(samples_n.clip(-1, 1))
        self._num_held += len(samples_n)
        num_frames = (self._num_held - _CONTEXT_SAMPLES) // FRAME_SAMPLES
        if not num_frames:
            return np.zeros(0, np.float32)
        held_n = np.concatenate(self._held)
        frames_tn = torch.from_numpy(held_n).unfold(
            0, _CONTEXT_SAMPLES + FRAME_SAMPLES, FRAME_SAMPLES
        )
        speech_t, self._state = self._activity(frames_tn[:num_frames], self._state)
        self._held = [held_n[num_frames * FRAME_SAMPLES :]]
        self._num_held = len(self._held[0])
        return speech_t.numpy()
