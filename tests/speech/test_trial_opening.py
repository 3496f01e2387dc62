"""Recordings whose headers take FFmpeg minutes: ended in time, and what comes next is answered."""

import itertools
import os
import signal
import struct
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from batches import status_of
from speechtext.allowance import allow
from speechtext.errors import DeadlineError, RequestError
from speechtext.speech import containers
from speechtext.speech.audio import decode_audio
from speechtext.speech.containers import is_plain_wav
from speechtext.speech.trial_opening import TrialOpener
from trials.broken_audio import encode, encode_by_ffmpeg

RATE_HZ = 16_000
SPEECH = np.random.default_rng(0).normal(0, 0.1, RATE_HZ).astype(np.float32)
# A text frame of ID3 begins with T.
LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
NAMES = [b"T" + bytes(each) for each in itertools.product(LETTERS, repeat=3)]
# FFmpeg works on each for many seconds.
TAGS = 40_000


def flac_of_tags(tags: int) -> bytes:
    """Return a FLAC with a block of Vorbis comments: RFC 9639, section 8.6."""
    recording = encode(SPEECH, RATE_HZ, "FLAC")
    lines = b"".join(struct.pack("<I", 6) + name + b"=x" for name in NAMES[:tags])
    block = struct.pack("<I", 0) + struct.pack("<I", tags) + lines
    # Behind the first block, which has 34 bytes.
    start = 4 + 4 + 34
    header = bytes([4]) + len(block).to_bytes(3, "big")
    return recording[:start] + header + block + recording[start:]


def matroska_of_tags(tags: int) -> bytes:
    """Return a WebM whose last element has so many tags: RFC 9559, section 5.1.8."""
    recording = encode_by_ffmpeg(SPEECH, RATE_HZ, "webm", "libopus")
    pieces = (b"\x67\xc8\x8b\x45\xa3\x84" + name + b"\x44\x87\x81x" for name in NAMES[:tags])
    simple = b"".join(pieces)
    tag = b"\x73\x73" + _vint(len(simple)) + simple
    # Before the first cluster, in a segment that ends with the file.
    start = recording.index(b"\x1f\x43\xb6\x75")
    segment = recording.index(b"\x18\x53\x80\x67") + 4
    unknown = b"\x01" + 7 * b"\xff"
    whole = recording[:segment] + unknown + recording[segment + 8 : start]
    return whole + b"\x12\x54\xc3\x67" + _vint(len(tag)) + tag + recording[start:]


def _vint(size: int) -> bytes:
    return (size | 1 << 56).to_bytes(8, "big")


def mp3_of_tags(tags: int) -> bytes:
    """Return an MP3 behind a tag of so many frames: ID3v2.3, section 3.3."""
    frames = b"".join(name + struct.pack(">IH", 2, 0) + b"\0x" for name in NAMES[:tags])
    size = bytes(len(frames) >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\3\0\0" + size + frames + encode_by_ffmpeg(SPEECH, RATE_HZ, "mp3", "libmp3lame")


HOSTILE = {"flac": flac_of_tags, "webm": matroska_of_tags, "mp3": mp3_of_tags}


@pytest.fixture
def opener(monkeypatch: pytest.MonkeyPatch) -> Iterator[TrialOpener]:
    """Yield what opens recordings in these tests, where each may take a second of work."""
    opener = TrialOpener(1)
    monkeypatch.setattr(containers, "opener", opener)
    yield opener
    opener.end()


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_recording_of_many_tags_is_refused_in_time(name: str, opener: TrialOpener) -> None:
    with pytest.raises(RequestError, match="tags and index are read") as refusal:
        decode_audio(HOSTILE[name](TAGS), RATE_HZ, 60)
    assert (status_of(refusal.value), refusal.value.kind) == (413, "TooMuchWork")
    assert opener.process_id is None
    # Of few tags, and by the next process.
    assert len(decode_audio(HOSTILE[name](1_000), RATE_HZ, 60)) == pytest.approx(RATE_HZ, abs=2_000)


def test_time_of_a_batch_ends_an_opening(opener: TrialOpener) -> None:
    with allow(0.5), pytest.raises(DeadlineError):
        decode_audio(flac_of_tags(TAGS), RATE_HZ, 60)
    assert opener.process_id is None


def test_process_that_was_ended_is_followed_by_another(opener: TrialOpener) -> None:
    recording = flac_of_tags(1_000)
    expected = decode_audio(recording, RATE_HZ, 60)
    before = opener.process_id
    assert before
    os.kill(before, signal.SIGKILL)
    os.waitid(os.P_PID, before, os.WEXITED | os.WNOWAIT)
    assert torch.equal(decode_audio(recording, RATE_HZ, 60), expected)
    assert opener.process_id not in {before, None}


@pytest.mark.parametrize(
    ("signal_sent", "status", "kind"),
    [(signal.SIGSEGV, 415, "UnsupportedAudio"), (signal.SIGKILL, 503, "OpeningEnded")],
)
def test_end_of_the_process_is_blamed_on_a_recording_only_for_a_crash(
    signal_sent: int, status: int, kind: str, opener: TrialOpener
) -> None:
    decode_audio(flac_of_tags(1_000), RATE_HZ, 60)
    process = opener.process_id
    assert process
    # Stopped, it has read nothing when it is ended.
    os.kill(process, signal.SIGSTOP)
    threading.Timer(1, _end_stopped, (process, signal_sent)).start()
    with pytest.raises(RequestError) as refusal:
        decode_audio(flac_of_tags(1_000), RATE_HZ, 60)
    assert (status_of(refusal.value), refusal.value.kind) == (status, kind)


def _end_stopped(process: int, signal_sent: int) -> None:
    os.kill(process, signal_sent)
    os.kill(process, signal.SIGCONT)


def test_interrupt_from_the_terminal_is_the_worker_s(opener: TrialOpener) -> None:
    decode_audio(flac_of_tags(1_000), RATE_HZ, 60)
    process = opener.process_id
    assert process
    os.kill(process, signal.SIGINT)
    decode_audio(flac_of_tags(1_000), RATE_HZ, 60)
    assert opener.process_id == process


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_plain_wav_is_opened_by_nothing_else(subtype: str, opener: TrialOpener) -> None:
    recording = encode(np.tile(SPEECH, 4), RATE_HZ, "WAV", subtype)
    assert is_plain_wav(recording)
    assert len(decode_audio(recording, RATE_HZ, 60)) == 4 * RATE_HZ
    assert opener.process_id is None


def with_chunk(recording: bytes, before: bytes, size: int) -> bytes:
    """Return a WAV with one chunk more, before that of a name or at the end."""
    start = recording.find(before)
    start = len(recording) if start < 0 else start
    return recording[:start] + b"LIST" + struct.pack("<I", size) + bytes(size) + recording[start:]


@pytest.mark.parametrize("before", [b"fmt ", b"data", b"end"])
def test_wav_with_much_beside_its_samples_is_not_plain(before: bytes) -> None:
    recording = encode(SPEECH, RATE_HZ)
    expected = decode_audio(recording, RATE_HZ, 60)
    for size, plain in ((1_000, True), (20_000, False)):
        longer = with_chunk(recording, before, size)
        assert is_plain_wav(longer) == plain
        assert torch.equal(decode_audio(longer, RATE_HZ, 60), expected)
