"""A file that names other files is no audio, whatever it is called; every real container still opens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.data.audio import containers
from asr.data.audio.samples import decode

av = pytest.importorskip("av", reason="PyAV is not installed")

# Each would make FFmpeg open ``victim.wav``, wait for more, or open itself again and again.
PLAYLISTS = {
    "master": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{name}\n",
    "live": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1000000\n#EXTINF:2.0,\nvictim.wav\n",
    "ended": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\nvictim.wav\n#EXT-X-ENDLIST\n",
    "remote": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\nhttp://127.0.0.1:9/x\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile victim.wav\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    "dash": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT2S"><Period><AdaptationSet mimeType="audio/wav"><Representation '
    'id="a" bandwidth="1"><BaseURL>victim.wav</BaseURL><SegmentList><SegmentURL media="victim.wav"/>'
    "</SegmentList></Representation></AdaptationSet></Period></MPD>\n",
    "imf": '<?xml version="1.0"?>\n<CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/'
    '2016"><Id>urn:uuid:0</Id></CompositionPlaylist>\n',
    "smil": '<smil><body><audio src="victim.wav"/></body></smil>\n',
    "asx": '<asx version="3.0"><entry><ref href="victim.wav"/></entry></asx>\n',
    "pls": "[playlist]\nFile1=victim.wav\nNumberOfEntries=1\n",
    "avs": 'LoadPlugin("x.dll")\nWavSource("victim.wav")\n',
    "vapoursynth": "import os\nos.system('touch canary')\n",
}
NAMES = ["x.wav", "x.mp3", "x.m4a", "x.m3u8", "x.mpd", "x.ffconcat", "x.sdp", "x.avs", "x.vpy"]

PROGRAM = """
import json, resource, signal, sys
from pathlib import Path
from asr.data.audio.samples import AudioError, check_audio, decode, probe
from asr.data.audio.blocks import read_blocks
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
signal.alarm(60)
for line in sys.stdin:
    path = Path(json.loads(line))
    told = []
    for read in (probe, check_audio, decode, lambda path: list(read_blocks(path, 16000, []))):
        try:
            read(path)
            told.append("read")
        except AudioError as error:
            told.append(str(error))
    print(json.dumps(told), flush=True)
"""


def test_playlists_are_refused_at_once(tmp_path: Path) -> None:
    """In a process of its own, which may take 6 GB and a minute."""
    soundfile.write(tmp_path / "victim.wav", np.zeros(16000), 16000)
    paths = []
    for kind, content in PLAYLISTS.items():
        for name in NAMES:
            path = tmp_path / f"{kind}-{name}"
            path.write_text(content.format(name=path.name) if kind == "master" else content)
            paths.append(path)
    found = subprocess.run(
        [sys.executable, "-B", "-c", PROGRAM],
        input="".join(json.dumps(str(path)) + "\n" for path in paths),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    assert found.returncode == 0, found.stderr[-2000:]
    answers = [json.loads(line) for line in found.stdout.splitlines()]
    assert len(answers) == len(paths)
    for path, told in zip(paths, answers, strict=True):
        for message in told:
            assert message.startswith(str(path)), message
            assert "\n" not in message
    assert sorted(tmp_path.iterdir()) == sorted([*paths, tmp_path / "victim.wav"])


def test_the_names_of_formats_are_ffmpegs() -> None:
    """A misspelt name would refuse a real container."""
    known = {name for each in av.formats_available for name in each.split(",")}
    missing = [name for name in containers.FORMATS if name not in known]
    assert missing == []
    openers = {"hls", "applehttp", "concat", "dash", "imf", "sdp", "rtsp", "rtp", "lavfi", "image2"}
    openers |= {"avisynth", "vapoursynth", "tedcaptions", "webm_dash_manifest", "pcm_s16le", "data"}
    assert openers.isdisjoint(containers.FORMATS)


CODECS = {
    "aac": "m4a mp4 mov mka 3gp ts adts flv f4v",
    "flac": "mkv oga",
    "pcm_s16le": "avi w64 nut",
    "libopus": "webm",
    "wmav2": "wma",
    "ac3": "ac3",
    "mp2": "mp2",
    "wavpack": "wv",
    "tta": "tta",
    "alac": "caf",
}
CONTAINERS = [(suffix, codec) for codec, kinds in CODECS.items() for suffix in kinds.split()]


@pytest.mark.parametrize(("suffix", "codec"), CONTAINERS)
def test_real_containers_open(suffix: str, codec: str, tmp_path: Path) -> None:
    """By their content: the names say nothing here."""
    rate = 48000
    path = tmp_path / f"sound.{suffix}"
    wave_n = 0.3 * np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate)
    kinds = {"ts": "mpegts", "wma": "asf", "mka": "matroska", "oga": "ogg"}
    with av.open(str(path), "w", format=kinds.get(suffix)) as out:
        stream = out.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = 128_000
        for at in range(0, len(wave_n), 1000):
            piece_1n = np.round(32767 * wave_n[at : at + 1000]).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(piece_1n, format="s16", layout="mono")
            frame.sample_rate, frame.pts = rate, at
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    nameless = path.rename(tmp_path / "sound.m4b")
    samples_nc, found = decode(nameless)
    middle = samples_nc[found // 2 : found]
    assert found == rate
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.1)
