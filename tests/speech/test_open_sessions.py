"""Live sessions: what each says, when, and which of them are open."""

import itertools
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from archives.emformer import load_emformer
from repository import ROOT
from speechtext.devices import CPU
from speechtext.errors import (
    RequestError,
    RequestTooLargeError,
    SessionConflictError,
    SessionGoneError,
    UnavailableError,
    UnsupportedMediaError,
)
from speechtext.speech import live_sessions
from speechtext.speech.audio import decode_audio
from speechtext.speech.costs import PROBE_S
from speechtext.speech.diarization import Diarizer
from speechtext.speech.live_sessions import (
    LiveRecognizer,
    LiveSession,
    LiveSettings,
    LiveTranscript,
)
from speechtext.speech.open_sessions import OpenSessions
from speechtext.speech.pcm import PcmFormat
from speechtext.speech.rnnt.features import load_features
from speechtext.speech.rnnt.loading import load_vocabulary
from speechtext.speech.rnnt.torchscript.recognizer import save_recognizer
from speechtext.speech.rnnt.transducer import Transducer
from speechtext.speech.transcripts import Segment, Word
from support.common import EXAMPLES
from support.recordings import read_samples, read_turns, write_wav
from support.speech import failing_call

DEMO = ROOT / "demo_models" / "emformer_asr"
VOICES = ROOT / "demo_models" / "wav2vec2_voices"
RATE_HZ = 16_000
SAMPLES = PcmFormat(RATE_HZ, endian="LITTLE")
TEXTS: dict[str, str] = json.loads((EXAMPLES / "transcripts.json").read_text())
LIGHTS, WINDOW = "turn_on_the_kitchen_lights.wav", "close_the_bathroom_window.wav"
STEREO = "turn_on_the_kitchen_lights_stereo_44100_hz.wav"
SLOW = "please_set_a_timer_for_twenty_seconds_8000_hz.wav"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a live archive."""
    folder = tmp_path_factory.mktemp("live")
    features = load_features(DEMO / "global_stats.json")
    save_recognizer(load_emformer(DEMO), features, folder / "model.pt")
    shutil.copy(DEMO / "spm.model", folder)
    return folder


@pytest.fixture(scope="module")
def recognizer(folder: Path) -> LiveRecognizer:
    return LiveRecognizer.load(folder)


def recognize_whole(folder: Path, waveform: torch.Tensor, *settings: Any) -> list[Word]:
    """Return the words of a whole recording, which the model hears at once."""
    transducer = Transducer(torch.jit.load(str(folder / "model.pt")), CPU, *settings)
    recording = transducer.start(waveform)
    transducer.recognize([recording])
    vocabulary = load_vocabulary(folder)
    return vocabulary.time_words(recording.best_tokens(), transducer.frame_s)


def pause(seconds: float) -> np.ndarray[Any, np.dtype[np.int16]]:
    return np.zeros(round(seconds * RATE_HZ), np.int16)


def speak(session: LiveSession, recording: bytes, piece_bytes: int) -> list[LiveTranscript]:
    """Send a recording in pieces; return what was told after each."""
    pieces = [
        recording[place : place + piece_bytes] for place in range(0, len(recording), piece_bytes)
    ]
    return [*(session.accept(piece) for piece in pieces[:-1]), session.finish(pieces[-1])]


def finals(told: Sequence[LiveTranscript]) -> list[str]:
    return [each.final.text for each in told if each.final.text]


def assert_same_words(found: Sequence[Word], expected: Sequence[Word]) -> None:
    assert [word.text for word in found] == [word.text for word in expected]
    for word, other in zip(found, expected, strict=True):
        assert word[1:4] == pytest.approx(other[1:4], abs=1e-3)


@pytest.mark.parametrize("name", [LIGHTS, STEREO, SLOW])
@pytest.mark.parametrize("piece_bytes", [1_999, 1_000_000])
def test_session_hears_what_is_in_the_whole_recording(
    recognizer: LiveRecognizer, folder: Path, name: str, piece_bytes: int
) -> None:
    recording = (EXAMPLES / name).read_bytes()
    told = speak(recognizer.begin(), recording, piece_bytes)
    waveform = decode_audio(recording, RATE_HZ, 60)
    assert told[-1].text == " ".join(finals(told)) == TEXTS[name]
    assert all(each.text is None for each in told[:-1])
    words = [word for each in told for word in each.final.words]
    assert_same_words(words, recognize_whole(folder, waveform, "float32", 100))
    assert (told[-1].partial.text, told[-1].partial.words) == ("", [])
    assert told[-1].duration_s == pytest.approx(len(waveform) / RATE_HZ, abs=1e-4)
    assert {word.speaker for word in words} == {None}


@pytest.fixture(scope="module")
def two_sentences() -> bytes:
    """Return two sentences, a pause after each, as bare samples."""
    parts = [read_samples(EXAMPLES / LIGHTS), pause(1.5), read_samples(EXAMPLES / WINDOW)]
    return np.concatenate([*parts, pause(1.5)]).tobytes()


def test_pause_makes_final_what_was_partial(
    recognizer: LiveRecognizer, two_sentences: bytes
) -> None:
    told = speak(recognizer.begin(SAMPLES), two_sentences, 6_400)
    assert finals(told) == [TEXTS[LIGHTS], TEXTS[WINDOW]]
    assert told[-1].text == f"{TEXTS[LIGHTS]} {TEXTS[WINDOW]}"
    # What seems to be said is the beginning of what was, and grows to it.
    for text, group in itertools.groupby(
        [each.partial for each in told if each.partial.text],
        key=lambda each: TEXTS[LIGHTS] if each.words[0].end_s < 1.5 else TEXTS[WINDOW],
    ):
        seemed = [each.text for each in group]
        assert all(text.startswith(each) for each in seemed)
        assert sorted(seemed, key=len) == seemed
        assert (len(set(seemed)) > 1, seemed[-1]) == (True, text)


def test_final_words_come_as_soon_as_the_pause_was_long_enough(
    recognizer: LiveRecognizer, two_sentences: bytes
) -> None:
    told = speak(recognizer.begin(SAMPLES), two_sentences, 640)
    (first, second) = [each for each in told if each.final.text]
    for each in (first, second):
        silent_s = each.duration_s - each.final.words[-1].end_s
        # The model hears 0.16 s at a time, and as much as 0.04 s ahead.
        assert 0.8 <= silent_s <= 0.8 + 0.16 + 0.04 + 0.04


def test_all_that_ended_is_final_at_once(recognizer: LiveRecognizer, two_sentences: bytes) -> None:
    session = recognizer.begin(SAMPLES)
    told = session.accept(two_sentences)
    assert told.final.text == f"{TEXTS[LIGHTS]} {TEXTS[WINDOW]}"
    assert (told.partial.text, told.text) == ("", None)
    end = session.finish()
    assert (end.final.text, end.partial.text) == ("", "")
    assert end.text == told.final.text
    assert end.duration_s == told.duration_s == len(two_sentences) / 2 / RATE_HZ


@pytest.mark.parametrize(("silence_s", "frames"), [(0.8, 20), (0.79, 20), (0.81, 20), (2.0, 50)])
def test_setting_says_how_long_a_pause_is(folder: Path, silence_s: float, frames: int) -> None:
    """In frames of 0.04 s."""
    recognizer = LiveRecognizer.load(folder, LiveSettings(endpoint_silence_s=silence_s))
    assert (recognizer.frame_s, recognizer.silent_frames) == (0.04, frames)


def test_short_pause_is_none(folder: Path, two_sentences: bytes) -> None:
    recognizer = LiveRecognizer.load(folder, LiveSettings(endpoint_silence_s=2.0))
    told = speak(recognizer.begin(SAMPLES), two_sentences, 6_400)
    assert finals(told) == [f"{TEXTS[LIGHTS]} {TEXTS[WINDOW]}"]


@pytest.mark.parametrize("name", [LIGHTS, STEREO, SLOW])
def test_chunk_tells_its_seconds(recognizer: LiveRecognizer, name: str) -> None:
    recording = (EXAMPLES / name).read_bytes()
    session = recognizer.begin()
    assert session.receive(recording[:20], ends=False) == 0.0
    seconds = [
        session.receive(recording[20:9_000], False),
        session.receive(recording[9_000:], True),
    ]
    whole = decode_audio(recording, RATE_HZ, 60)
    assert sum(seconds) * RATE_HZ == pytest.approx(len(whole))
    assert 0 < seconds[0] < seconds[1]
    # Nothing was recognised yet: these are all samples, and no others.
    assert torch.equal(session.recording.samples, whole)
    assert session.recording.ended


def test_session_goes_on_until_its_end(recognizer: LiveRecognizer) -> None:
    session = recognizer.begin(SAMPLES)
    # Nothing was said yet, and that is not the end.
    recognizer.recognize([session])
    assert (session.recording.ended, session.recording.frames) == (False, 0)
    session.receive(bytes(3_200), ends=False)
    assert (session.recording.ended, session.recording.received()) == (False, 1_600)
    session.finish()
    assert session.recording.ended


def test_sessions_that_are_recognised_together_say_what_each_says_alone(
    recognizer: LiveRecognizer,
) -> None:
    names = [LIGHTS, WINDOW, SLOW]
    sessions = [recognizer.begin() for _ in names]
    recordings = [(EXAMPLES / name).read_bytes() for name in names]
    for session, recording in zip(sessions, recordings, strict=True):
        session.receive(recording[:20_000], ends=False)
    recognizer.recognize(sessions)
    partial = [session.tell(ends=False).partial.text for session in sessions]
    assert [TEXTS[name].startswith(said) for name, said in zip(names, partial, strict=True)]
    assert all(partial)
    for session, recording in zip(sessions, recordings, strict=True):
        session.receive(recording[20_000:], ends=True)
    recognizer.recognize(sessions)
    assert [session.tell(ends=True).text for session in sessions] == [TEXTS[name] for name in names]


def test_samples_need_a_header_or_a_format(recognizer: LiveRecognizer) -> None:
    with pytest.raises(UnsupportedMediaError):
        recognizer.begin().accept(bytes(400))
    with pytest.raises(UnsupportedMediaError):
        recognizer.begin().finish()
    assert recognizer.begin(SAMPLES).finish() == LiveTranscript(
        Segment("", []), Segment("", []), 0.0, ""
    )


def test_session_has_a_longest_recording(folder: Path, recognizer: LiveRecognizer) -> None:
    short = LiveRecognizer.load(folder, LiveSettings(max_audio_seconds=1.0))
    session = short.begin(SAMPLES)
    assert session.accept(bytes(2 * RATE_HZ)).duration_s == 1.0
    with pytest.raises(RequestTooLargeError, match=r"at most 1 s of audio in body, got 1\.1 s"):
        session.finish(bytes(3_200))
    # Without a setting it is an hour.
    assert recognizer.begin(SAMPLES).receive(bytes(8_000), ends=False) == 0.25
    with pytest.raises(RequestTooLargeError, match="at most 3600 s"):
        recognizer.begin(PcmFormat(4_000)).receive(bytes(2 * 4_000 * 3_601), ends=False)


def test_settings_reach_the_model(folder: Path) -> None:
    waveform = decode_audio((EXAMPLES / LIGHTS).read_bytes(), RATE_HZ, 60)
    settings = LiveSettings(dtype="bfloat16", step_max_tokens=1)
    told = LiveRecognizer.load(folder, settings).begin()
    words = told.finish((EXAMPLES / LIGHTS).read_bytes()).final.words
    assert_same_words(words, recognize_whole(folder, waveform, "bfloat16", 1))
    for others in (("float32", 1), ("bfloat16", 100)):
        pairs = zip(words, recognize_whole(folder, waveform, *others), strict=True)
        assert max(abs(word.confidence - other.confidence) for word, other in pairs) > 5e-5


def test_cost_is_measured_when_the_model_is_loaded(folder: Path) -> None:
    """It grows with the length of a recording."""
    cost = LiveRecognizer.load(folder).cost
    assert cost.probe_cost_s > 0
    assert cost.measure(3 * PROBE_S).cost_s == pytest.approx(3 * cost.probe_cost_s)


def test_file_may_have_another_name_and_its_folder_be_a_text(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "model.pt", tmp_path / "other.pt")
    shutil.copy(folder / "spm.model", tmp_path)
    recognizer = LiveRecognizer.load(str(tmp_path), file="other.pt")
    told = recognizer.begin().finish((EXAMPLES / LIGHTS).read_bytes())
    assert told.text == TEXTS[LIGHTS]


class RNNTBeamSearch(torch.nn.Module):
    """Says that it is torchaudio's."""

    def __init__(self, blank: int) -> None:
        super().__init__()
        self.blank = blank

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        return samples


def test_beam_search_of_torchaudio_is_refused(tmp_path: Path) -> None:
    shutil.copy(DEMO / "spm.model", tmp_path)
    script = torch.jit.script(RNNTBeamSearch(len(load_vocabulary(tmp_path))))
    torch.jit.save(script, str(tmp_path / "model.pt"))
    said = (
        "^Expected the TorchScript file that make archive writes, got an RNNTBeamSearch, which "
        "cannot carry on.$"
    )
    with pytest.raises(ValueError, match=said):
        LiveRecognizer.load(tmp_path)


class Listener(Diarizer):
    """Remembers what it heard."""

    heard: list[torch.Tensor]

    def listen(self, waveforms: Sequence[torch.Tensor]) -> list[torch.Tensor | RequestError]:
        self.heard += waveforms
        return super().listen(waveforms)


@pytest.fixture(scope="module")
def diarizer() -> Listener:
    return Listener.load(VOICES, 0.3)


@pytest.fixture(scope="module")
def pausing(folder: Path) -> LiveRecognizer:
    """Return a recogniser that takes the pauses between the example's turns for such."""
    return LiveRecognizer.load(folder, LiveSettings(endpoint_silence_s=0.5))


TALK = (EXAMPLES / "conversations" / "two_speakers.wav").read_bytes()
# Longer than a turn and the pause behind it, and shorter than two.
TURN_SAMPLES = 3 * RATE_HZ


@pytest.mark.parametrize("most_samples", [live_sessions.MOST_HEARD_SAMPLES, TURN_SAMPLES])
def test_words_have_the_speakers_of_their_turns(
    pausing: LiveRecognizer,
    diarizer: Listener,
    most_samples: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live_sessions, "MOST_HEARD_SAMPLES", most_samples)
    diarizer.heard = []
    session = pausing.begin(diarizer=diarizer)
    told = speak(session, TALK, 8_000)
    assert len(session._heard) <= most_samples
    words = [word for each in told for word in each.final.words]
    turns = [
        (speaker, " ".join(word.text for word in turn))
        for speaker, turn in itertools.groupby(words, key=lambda word: word.speaker)
    ]
    texts = [text for text, _ in read_turns()]
    assert turns == list(zip(["Speaker 1", "Speaker 2"] * 2, texts, strict=True))
    assert {word.speaker for each in told for word in each.partial.words} == {None}
    # A voice is heard from 0.2 s before the first word of a stretch on.
    whole = decode_audio(TALK, RATE_HZ, 60)
    places = [max(0, round((word.start_s - 0.2) * RATE_HZ)) for word in words]
    assert len(diarizer.heard) >= len(turns)
    for voice in diarizer.heard:
        assert any(torch.equal(whole[place:][: len(voice)], voice) for place in places)


@pytest.mark.parametrize("piece_bytes", [64_000, len(TALK)])
def test_what_comes_at_once_has_the_speakers_of_its_turns(
    pausing: LiveRecognizer, diarizer: Listener, piece_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a piece, or in several of a batch: more than is kept from one batch to the next."""
    monkeypatch.setattr(live_sessions, "MOST_HEARD_SAMPLES", TURN_SAMPLES)
    diarizer.heard = []
    session = pausing.begin(diarizer=diarizer)
    places = range(0, len(TALK), piece_bytes)
    for place in places:
        session.receive(TALK[place : place + piece_bytes], ends=place == places[-1])
    pausing.recognize([session])
    speakers = [word.speaker for word in session.tell(ends=True).final.words]
    turns = [who for who, _ in itertools.groupby(speakers)]
    assert turns == ["Speaker 1", "Speaker 2"] * 2


def test_words_that_could_not_be_named_are_told_the_next_time(
    pausing: LiveRecognizer, diarizer: Listener
) -> None:
    diarizer.heard = []
    expected = pausing.begin(diarizer=diarizer).accept(TALK).final
    session = pausing.begin(diarizer=diarizer)
    voices, error = diarizer._voices.network.feature_extractor, torch.OutOfMemoryError("none left")
    with failing_call(voices, 3, error), pytest.raises(torch.OutOfMemoryError):
        session.accept(TALK)
    assert expected.words
    assert session.accept(b"").final == expected


def test_each_session_has_speakers_of_its_own(pausing: LiveRecognizer, diarizer: Listener) -> None:
    diarizer.heard = []
    turns = [write_wav(samples) for _, samples in read_turns()[:2]]
    for recording in turns:
        told = pausing.begin(diarizer=diarizer).finish(recording)
        assert {word.speaker for word in told.final.words} == {"Speaker 1"}


def test_nobody_speaks_where_nothing_is_said(pausing: LiveRecognizer, diarizer: Listener) -> None:
    diarizer.heard = []
    told = pausing.begin(SAMPLES, diarizer).finish(pause(1.0).tobytes())
    assert (told.text, told.final.words, diarizer.heard) == ("", [], [])


class Clock:
    """Tells the time that it was set to."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def begun(most: int, idle_s: float, *names: str) -> tuple[OpenSessions, Clock, dict[str, Any]]:
    """Return sessions that were opened, their clock and what they are."""
    clock = Clock()
    sessions = OpenSessions(most, idle_s, clock)
    own: dict[str, Any] = {name: object() for name in names}
    for name, session in own.items():
        sessions.begin(name, session)
    return sessions, clock, own


def test_open_session_is_found_by_its_name() -> None:
    sessions, _, own = begun(3, 9.0, "a", "b")
    assert (sessions.find("a"), sessions.find("b")) == (own["a"], own["b"])
    assert len(sessions) == 2
    assert [sessions.is_open(name) for name in "abc"] == [True, True, False]
    sessions.end("a")
    assert [sessions.is_open(name) for name in "abc"] == [False, True, False]
    # To end a session that there is none of changes nothing.
    sessions.end("a")
    sessions.end("c")
    assert len(sessions) == 1


@pytest.mark.parametrize(("idle_s", "shown"), [(9.0, "9 s"), (2.5, "2.5 s")])
def test_session_that_is_not_open_is_gone(idle_s: float, shown: str) -> None:
    sessions, _, _ = begun(3, idle_s, "a")
    with pytest.raises(SessionGoneError) as refusal:
        sessions.find("b")
    assert (refusal.value.kind, refusal.value.message) == (
        "SessionGone",
        "Expected the identifier of an open session, got one that was never opened, has ended, was "
        f"silent for {shown} or lost with its worker. Open a new one.",
    )
    assert not sessions.is_open("b")


def test_open_session_is_not_opened_again() -> None:
    sessions, clock, own = begun(1, 9.0, "a")
    clock.now_s += 5
    with pytest.raises(SessionConflictError) as refusal:
        sessions.begin("a", object())  # type: ignore[arg-type]
    assert (refusal.value.kind, refusal.value.message) == (
        "SessionExists",
        "Expected a new session's identifier, got that of an open session.",
    )
    clock.now_s += 5
    # Nor was it used by that.
    sessions.expire()
    assert not sessions.is_open("a")
    sessions.begin("a", own["a"])
    assert sessions.find("a") is own["a"]


def test_one_session_too_many_may_be_opened_later() -> None:
    sessions, _, own = begun(2, 9.0, "a", "b")
    with pytest.raises(UnavailableError) as refusal:
        sessions.begin("c", own["a"])
    assert (refusal.value.kind, refusal.value.message) == (
        "TooManySessions",
        "Expected at most 2 open sessions. Try again when one has ended.",
    )
    assert [sessions.is_open(name) for name in "abc"] == [True, True, False]
    sessions.end("a")
    sessions.begin("c", own["a"])
    assert sessions.find("c") is own["a"]


def test_sessions_expire_where_nobody_speaks_for_longer_than_they_may() -> None:
    sessions, clock, own = begun(9, 10.0, "silent", "asked", "used")
    clock.now_s += 6
    assert sessions.find("used") is own["used"]
    # To ask whether it is open is not to use it.
    assert sessions.is_open("asked")
    clock.now_s += 4
    sessions.expire()
    assert len(sessions) == 3
    clock.now_s += 0.001
    sessions.expire()
    assert [sessions.is_open(name) for name in own] == [False, False, True]
    assert sessions.find("used") is own["used"]
    clock.now_s += 10
    sessions.expire()
    assert sessions.find("used") is own["used"]
    clock.now_s += 10.001
    sessions.expire()
    assert len(sessions) == 0


def test_nobody_is_silent_while_the_worker_works() -> None:
    """What is said meanwhile comes with the next batch; who is answered then speaks afterwards."""
    sessions, clock, _ = begun(9, 10.0, "waits", "silent")
    clock.now_s += 10
    sessions.expire()
    with sessions.working():
        sessions.begin("answered", object())  # type: ignore[arg-type]
        clock.now_s += 45
    sessions.expire()
    with sessions.working():
        sessions.find("waits")
        clock.now_s += 0.5
    clock.now_s += 9
    sessions.expire()
    # The one that the long batch began has been silent for 9.5 s since.
    assert [sessions.is_open(name) for name in ("waits", "silent", "answered")] == [1, 0, 1]


def test_session_expires_however_much_the_worker_works_for_others() -> None:
    sessions, clock, _ = begun(9, 10.0, "speaks", "silent")
    clock.now_s += 1
    for batch in range(1, 8):
        sessions.expire()
        with sessions.working():
            sessions.find("speaks")
            clock.now_s += 2
        # When the seventh begins, 13 s are over, of which the sixth took two.
        assert sessions.is_open("silent") == (batch < 7)


def test_batch_that_fails_took_its_time_as_well() -> None:
    sessions, clock, _ = begun(9, 10.0, "a")
    with pytest.raises(ZeroDivisionError), sessions.working():
        sessions.find("a")
        clock.now_s += 45
        raise ZeroDivisionError
    sessions.expire()
    assert sessions.is_open("a")


def test_time_goes_on_by_itself() -> None:
    session: Any = object()
    for idle_s, left in ((60.0, 1), (0.001, 0)):
        sessions = OpenSessions(1, idle_s)
        sessions.begin("a", session)
        time.sleep(0.01)
        sessions.expire()
        assert len(sessions) == left
