"""Cuts as a stranger may write them: each form makes something run, open, download or grow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Json = dict[str, Any]
Form = Callable[[Json, str], Json]


def command_source(canary: str) -> Json:
    return {"type": "command", "channels": [0], "source": f"touch {canary}; false"}


def pipe_source(canary: str) -> Json:
    return {"type": "url", "channels": [0], "source": f"pipe:touch {canary}"}


def _recording(cut: Json, source: Json) -> Json:
    return {**cut["recording"], "sources": [source]}


def with_source(make: Callable[[str], Json]) -> Form:
    return lambda cut, canary: {**cut, "recording": _recording(cut, make(canary))}


def url(text: str) -> Form:
    return with_source(lambda canary: {"type": "url", "channels": [0], "source": text % canary})


def in_a_track(cut: Json, canary: str) -> Json:
    bad = {**cut, "id": "bad", "recording": _recording(cut, command_source(canary))}
    tracks = [{"cut": one, "type": "MonoCut", "offset": 0.0} for one in (cut, bad)]
    for track in tracks:
        track["cut"] = {key: value for key, value in track["cut"].items() if key != "type"}
    return {"type": "MixedCut", "id": cut["id"], "tracks": tracks}


def in_a_transform(cut: Json, canary: str) -> Json:
    impulse = {**_recording(cut, command_source(canary)), "id": "rir"}
    transform = {
        "name": "ReverbWithImpulseResponse",
        "kwargs": {"rir": impulse, "normalize_output": True, "early_only": False},
    }
    return {**cut, "recording": {**cut["recording"], "transforms": [transform]}}


def in_features(kind: str) -> Form:
    def form(cut: Json, canary: str) -> Json:
        features = {
            "type": "fbank",
            "num_frames": 100,
            "num_features": 80,
            "frame_shift": 0.01,
            "sampling_rate": 16000,
            "start": 0.0,
            "duration": cut["duration"],
            "storage_type": kind,
            "storage_path": f"pipe:touch {canary};",
            "storage_key": "x",
            "recording_id": "x",
            "channels": 0,
        }
        return {**cut, "features": features}

    return form


def in_a_custom_array(cut: Json, canary: str) -> Json:
    array = {
        "storage_type": "numpy_files",
        "storage_path": "",
        "storage_key": f"pipe:touch {canary}",
        "shape": [3],
    }
    return {**cut, "custom": {"ivector": {"array": array}, "plain": array}}


def beside_a_storage(form: Form) -> Form:
    """A key of another kind of item must not end the look at this one."""
    return lambda cut, canary: {"storage_type": "numpy_files", **form(cut, canary)}


def in_a_custom_recording(cut: Json, canary: str) -> Json:
    return {**cut, "custom": {"target": _recording(cut, command_source(canary))}}


def in_the_supervision(cut: Json, canary: str) -> Json:
    custom = {"enrolment": _recording(cut, pipe_source(canary))}
    return {**cut, "supervisions": [{**cut["supervisions"][0], "custom": custom}]}


FORMS: dict[str, Form] = {
    "command": with_source(command_source),
    "pipe": with_source(pipe_source),
    "file called pipe:": with_source(
        lambda canary: {"type": "file", "channels": [0], "source": f"pipe:touch {canary}"}
    ),
    "address": url("http://127.0.0.1:9/%s"),
    "shard of a pipe": url("pipe:touch %s#offset=0&size=9"),
    "shard through another file system": url("simplecache::http://127.0.0.1:9%s#offset=0&size=9"),
    "shard of a program": url("sftp://127.0.0.1%s#offset=0&size=9"),
    "memory": url("memory%s"),
    "placeholder": with_source(lambda _: {"type": "shar", "channels": [0], "source": ""}),
    "track": in_a_track,
    "transform": in_a_transform,
    "features through a pipe": in_features("lilcom_chunky"),
    "features at an address": in_features("lilcom_url"),
    "features of Kaldi": in_features("kaldiio"),
    "custom array": in_a_custom_array,
    "custom recording": in_a_custom_recording,
    "custom recording of the supervision": in_the_supervision,
}


def with_transforms(transforms: list[Json]) -> Form:
    return lambda cut, _: {**cut, "recording": {**cut["recording"], "transforms": transforms}}


def with_transform(name: str, **arguments: object) -> Form:
    return with_transforms([{"name": name, "kwargs": arguments}])


def in_a_transform_of_a_mixture(cut: Json, canary: str) -> Json:
    transforms = in_a_transform(cut, canary)["recording"]["transforms"]
    track = {"cut": {k: v for k, v in cut.items() if k != "type"}, "type": "MonoCut", "offset": 0.0}
    return {"type": "MixedCut", "id": cut["id"], "tracks": [track], "transforms": transforms}


def member_in_a_transform(cut: Json, canary: str) -> Json:
    """Lhotse would take the whole address and fetch it."""
    source = {"type": "url", "channels": [0], "source": "http://127.0.0.1:9/x#offset=0&size=9"}
    return with_transform("ReverbWithImpulseResponse", rir=_recording(cut, source))(cut, canary)


def mixture(second: Json, kind: str, offset_s: float = 0.0) -> Form:
    def form(cut: Json, _: str) -> Json:
        first = {key: value for key, value in cut.items() if key != "type"}
        tracks = [{"cut": first, "type": "MonoCut", "offset": 0.0}]
        tracks.append({"cut": second or first, "type": kind, "offset": offset_s})
        return {"type": "MixedCut", "id": cut["id"], "tracks": tracks}

    return form


def silence(num_samples: int, duration_s: float) -> Json:
    return {"id": "p", "duration": duration_s, "sampling_rate": 16000, "feat_value": 0.0} | {
        "num_samples": num_samples
    }


# What runs or opens something by rarer ways; and what would take any memory, for which the item is
# malformed.
RARER: dict[str, Form] = {
    "transform of a mixture": in_a_transform_of_a_mixture,
    "member in a transform": member_in_a_transform,
    "file at an address": with_source(
        lambda _: {"type": "file", "channels": [0], "source": "http://127.0.0.1:9/x.wav"}
    ),
    "codec that looks for programs": with_transform("Narrowband", codec="lpc10"),
    "codec beside a storage": beside_a_storage(with_transform("Narrowband", codec="lpc10")),
    "transform of a plug-in": with_transform("Run", command="touch x"),
}
HUGE: dict[str, Form] = {
    "silence": mixture(silence(16 * 10**10, 1e7), "PaddingCut"),
    "silence without a length": mixture(silence(16 * 10**10, 1.0), "PaddingCut"),
    "late track": mixture({}, "MonoCut", 1e8),
    "late track beside a storage": beside_a_storage(mixture({}, "MonoCut", 1e8)),
    "many silences": lambda cut, _: {
        "type": "MixedCut",
        "id": cut["id"],
        "tracks": 20 * [{"cut": silence(1 << 27, 8388.608), "type": "PaddingCut", "offset": 0.0}],
    },
    "slow": with_transform("Speed", factor=1e-7),
    "slower and slower": lambda cut, canary: with_transforms(
        4 * [{"name": "Speed", "kwargs": {"factor": 0.1}}]
    )(cut, canary),
    "odd rates": with_transform("Resample", source_sampling_rate=16000, target_sampling_rate=16001),
    "odd factor": with_transform("Speed", factor=0.90006),
    "negative rate": with_transform(
        "Resample", source_sampling_rate=-16000, target_sampling_rate=8000
    ),
    "rate": with_transform("Resample", source_sampling_rate=16000, target_sampling_rate=10**9),
    "room": with_transform("ReverbWithImpulseResponse", rir_generator={"max_T60": 1e9}),
}
