"""How FFmpeg opens a recording: which containers and codecs, and within which limits.

A recording's bytes choose among the containers and codecs named here, and nothing else: FFmpeg
knows many more, some of which open addresses and other files. As a program, this opens whatever
`trial_opening` sends it; for that it imports little.
"""

import contextlib
import ctypes
import functools
import io
import math
import signal
import sys
import time
from typing import Any, NoReturn

import av
import av.audio.frame
from av.container import InputContainer

from speechtext.errors import RequestError, UnsupportedMediaError

try:
    import resource
except ImportError:
    # Windows has none: there, only the time of a batch ends an opening.
    resource = None  # type: ignore[assignment]

CONTAINERS = (
    *("wav", "w64", "aiff", "au", "caf", "flac", "ogg", "mp3", "aac", "mov", "matroska", "amr"),
    *("avr", "epaf", "ircam", "nistsphere", "pvf", "voc"),
)
PCM_CODECS = (
    *("pcm_u8", "pcm_s8", "pcm_alaw", "pcm_mulaw", "adpcm_ima_qt", "adpcm_ima_wav", "adpcm_ms"),
    *("pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le"),
    *("pcm_s16be", "pcm_s24be", "pcm_s32be", "pcm_f32be", "pcm_f64be"),
)
# What is damaged in one of these cannot be left out, and is found by checksum or length.
LOSSLESS_CODECS = ("flac", "alac")
LOSSY_CODECS = (
    *("aac", "mp1float", "mp2float", "mp3float", "opus", "vorbis", "gsm", "gsm_ms"),
    *("amrnb", "amrwb"),
)
CODECS = (*PCM_CODECS, *LOSSLESS_CODECS, *LOSSY_CODECS)
# Of all that people record, phone videos have the most streams; each may have an index.
MOST_STREAMS = 16
# What FFmpeg may ask for at once. An index has 24 bytes for each packet, of which AAC at 48 kHz has
# 1.4 million in eight hours; a few hundred bytes can ask for gigabytes.
MOST_BLOCK_BYTES = 32 * 2**20
DEMUXER_OPTIONS = {
    "format_whitelist": ",".join(CONTAINERS),
    "codec_whitelist": ",".join(CODECS),
    "probesize": "1000000",
    "analyzeduration": "1000000",
    # Samples of PCM are not searched for what might be another codec.
    "max_probe_packets": "0",
    "max_streams": str(MOST_STREAMS),
    # Packets of WAV, of 4,096 bytes otherwise: fewer are faster, larger ones slower to open.
    "max_size": "16384",
}
# How the program tells that a recording was opened, and how many bytes tell a recording's size.
OPENED = b"."
SIZE_BYTES = 8


def open_container(file: io.BytesIO, name: str | None = None) -> InputContainer:
    """Open a recording, in the container of that name where one is given.

    Raises `av.FFmpegError` for what cannot be opened.
    """
    limit_blocks()
    return av.open(
        file,
        "r",
        format=name,
        options=DEMUXER_OPTIONS,
        # Names and tags are nobody's business here, but are read.
        metadata_errors="replace",
        io_open=_refuse_second_file,
    )


@functools.cache
def limit_blocks() -> None:
    """Let FFmpeg refuse what needs a larger block of memory: `av_max_alloc`, libavutil/mem.h.

    While it opens a recording, it makes an index of as many packets as the header tells. Left out
    where a library does not find what is linked to it, as on Windows.
    """
    limit = getattr(ctypes.CDLL(av.audio.frame.__file__), "av_max_alloc", None)
    if limit is not None:
        limit(ctypes.c_size_t(MOST_BLOCK_BYTES))


def unsupported(size: int) -> RequestError:
    """Return the error of bytes that are no recording, or of none of these."""
    return UnsupportedMediaError(
        "UnsupportedAudio",
        "Expected a recording in body (WAV, FLAC, Ogg, MP3, AIFF, m4a, mp4 or WebM), got "
        f"{size} bytes that no audio decoder recognises.",
    )


def _refuse_second_file(*_: Any) -> NoReturn:
    raise PermissionError("Expected a recording in one file, got one that names another.")


def main() -> None:
    """Open the recordings of the standard input one by one, and tell of each when that is done.

    The seconds of work that one may take are the argument; the system ends this process then.
    """
    # Whoever began this process ends it, by closing its input at the latest.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    most_s = int(sys.argv[1])
    while size := sys.stdin.buffer.read(SIZE_BYTES):
        recording = io.BytesIO(sys.stdin.buffer.read(int.from_bytes(size, "big")))
        _limit_work(most_s)
        # Whoever asked opens it next, and finds what is wrong with it.
        with contextlib.suppress(Exception), open_container(recording):
            pass
        # The next one may be long in coming.
        del recording
        sys.stdout.buffer.write(OPENED)
        sys.stdout.buffer.flush()


def _limit_work(most_s: int) -> None:
    if resource:
        # What the system writes of a process that it ends would have the recording in it.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        soft = math.ceil(time.process_time()) + most_s
        soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


if __name__ == "__main__":
    main()
