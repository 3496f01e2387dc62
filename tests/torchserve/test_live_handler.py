"""Live sessions, through TorchServe's own loader: what they say, when, and how they end."""

import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from live_headers import read_idle_seconds
from serving.local import LocalModel, Reply
from speechtext.speech.open_sessions import OpenSessions
from speechtext.speech.rnnt.segments import SegmentTracker, find_segment_ends
from speechtext.speech.transcripts import Token
from support.common import EXAMPLES, LoadModel
from trials.good_traffic import session_headers

RATE_HZ = 16_000
L16 = f"audio/L16; rate={RATE_HZ}; endianness=little-endian"
TRANSCRIPTS: dict[str, str] = json.loads((EXAMPLES / "transcripts.json").read_text())
MONO = [name for name in TRANSCRIPTS if not name.endswith("hz.wav")]


def samples_of(name: str) -> np.ndarray:
    samples, _ = soundfile.read(EXAMPLES / name, dtype="int16")
    return np.asarray(samples)


def speak(
    model: LocalModel, name: str, recording: bytes, cuts: Sequence[int], **others: str
) -> list[dict[str, Any]]:
    """Send a recording in pieces as one session; return the answers."""
    places = [0, *sorted(min(cut, len(recording)) for cut in cuts), len(recording)]
    pieces = [recording[low:high] for low, high in itertools.pairwise(places)]
    answers = []
    for number, piece in enumerate(pieces):
        sent = session_headers(name, number == 0, number == len(pieces) - 1, **others)
        reply = model.answer([{"body": piece}], [sent])[0]
        assert reply.status == 200, reply.answer
        answers.append(reply.answer)
    return answers


def whole(load_model: LoadModel, recording: bytes, **others: str) -> str:
    reply = load_model("emformer_asr").answer([{"body": recording}], [others])[0]
    assert reply.status == 200
    return str(reply.answer)


def finals(answers: Sequence[dict[str, Any]]) -> list[str]:
    return [answer["final"] for answer in answers if answer["final"]]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(sorted(TRANSCRIPTS)), st.lists(st.integers(0, 90_000), max_size=25))
def test_session_says_what_the_whole_recording_does(
    load_model: LoadModel, name: str, cuts: list[int]
) -> None:
    recording = (EXAMPLES / name).read_bytes()
    answers = speak(load_model("emformer_asr_live"), name, recording, cuts)
    assert answers[-1]["text"] == whole(load_model, recording) == TRANSCRIPTS[name]
    assert " ".join(finals(answers)) == answers[-1]["text"]
    assert answers[-1]["partial"] == ""


def test_pieces_of_one_byte(load_model: LoadModel) -> None:
    """The header, and then samples in halves."""
    recording = (EXAMPLES / MONO[0]).read_bytes()
    cuts = [*range(400), *range(10_000, 10_400), *range(401, len(recording), 2_001)]
    answers = speak(load_model("emformer_asr_live"), "bytes", recording, cuts)
    assert answers[-1]["text"] == TRANSCRIPTS[MONO[0]]


@pytest.mark.parametrize("name", ["ts_request_sequence_id", "TS_Request_Sequence_End"])
def test_field_of_a_form_named_like_a_header_names_no_session(
    load_model: LoadModel, name: str
) -> None:
    recording = (EXAMPLES / MONO[0]).read_bytes()
    fields: dict[str, Any] = {name: {"content-type": "text/plain"}}
    sent = session_headers("form", True, True)
    with_id, without = load_model("emformer_asr_live").answer(
        [{"data": recording, name: b"true"}] * 2,
        [{**fields, **sent}, {**fields, "ts_request_sequence_end": "true"}],
    )
    assert (with_id.status, with_id.answer["text"]) == (200, TRANSCRIPTS[MONO[0]])
    assert without.status == 200


def test_sessions_do_not_hear_each_other(load_model: LoadModel) -> None:
    model = load_model("emformer_asr_live")
    recordings = {name: samples_of(name).tobytes() for name in MONO[:6]}
    generator = np.random.default_rng(0)
    places = dict.fromkeys(recordings, 0)
    text: dict[str, str] = {}
    while len(text) < len(recordings):
        rows, sent = [], []
        speakers = [name for name in recordings if name not in text and generator.random() < 0.7]
        for name in speakers:
            start, recording = places[name], recordings[name]
            places[name] += int(generator.integers(1, 20_000))
            rows.append({"body": recording[start : places[name]]})
            last = places[name] >= len(recording)
            content = {"Content-Type": L16}
            sent.append(session_headers(name, start == 0, last, **content))
        for name, reply in zip(speakers, model.answer(rows, sent), strict=True):
            assert reply.status == 200
            if "text" in reply.answer:
                text[name] = reply.answer["text"]
    assert text == {name: TRANSCRIPTS[name] for name in recordings}


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=8),
    st.lists(st.integers(0, 60_000), max_size=9),
)
def test_pieces_of_a_session_may_come_together(
    load_model: LoadModel, together: list[int], cuts: list[int]
) -> None:
    """From a client that does not wait for its answers, and beside another session."""
    model = load_model("emformer_asr_live")
    recording = two_sentences(silence_s=1.5)
    places = [0, *sorted(cuts), len(recording)]
    pieces = [recording[low:high] for low, high in itertools.pairwise(places)]
    rows: list[tuple[dict[str, bytes], dict[str, str]]] = []
    for number, piece in enumerate(pieces):
        first, last = number == 0, number == len(pieces) - 1
        rows.append(
            ({"body": piece}, session_headers("hasty", first, last, **{"Content-Type": L16}))
        )
    alone = {"Content-Type": L16, "ts_request_sequence_end": "true"}
    other = ({"body": samples_of(MONO[2]).tobytes()}, alone)
    answers: list[dict[str, Any]] = []
    sizes = itertools.cycle(together)
    while rows:
        size = next(sizes)
        batch, rows = [*rows[:size], other], rows[size:]
        replies = model.answer([row for row, _ in batch], [sent for _, sent in batch])
        assert [reply.status for reply in replies] == [200] * len(batch)
        assert replies[-1].answer["text"] == TRANSCRIPTS[MONO[2]]
        answers += [reply.answer for reply in replies[:-1]]
    text = f"{TRANSCRIPTS[MONO[0]]} {TRANSCRIPTS[MONO[1]]}"
    assert answers[-1]["text"] == " ".join(finals(answers)) == text


def test_session_without_an_id_gets_one(load_model: LoadModel) -> None:
    """As TorchServe gives it with sequenceBatching, and the handler without."""
    model = load_model("emformer_asr_live")
    recording = (EXAMPLES / MONO[0]).read_bytes()
    opened = [model.answer([{"body": recording[:9_000]}], [{}])[0].answer for _ in range(2)]
    assert opened[0]["session"] != opened[1]["session"]
    for answer in opened:
        sent = session_headers(answer["session"], last=True)
        assert (
            model.answer([{"body": recording[9_000:]}], [sent])[0].answer["text"]
            == TRANSCRIPTS[MONO[0]]
        )


def two_sentences(silence_s: float) -> bytes:
    silence = np.zeros(int(silence_s * RATE_HZ), np.int16)
    parts = [samples_of(MONO[0]), silence, samples_of(MONO[1])]
    return np.concatenate(parts).tobytes()


@pytest.mark.parametrize("piece_bytes", [999, 6_400, 50_000, 10_000_000])
def test_silence_ends_a_segment(load_model: LoadModel, piece_bytes: int) -> None:
    recording = two_sentences(silence_s=1.5)
    cuts = range(piece_bytes, len(recording), piece_bytes)
    content = {"Content-Type": L16}
    answers = speak(load_model("emformer_asr_live"), "silence", recording, cuts, **content)
    said = finals(answers)
    assert " ".join(said) == f"{TRANSCRIPTS[MONO[0]]} {TRANSCRIPTS[MONO[1]]}"
    if piece_bytes < 50_000:
        assert said == [TRANSCRIPTS[MONO[0]], TRANSCRIPTS[MONO[1]]]
        first, second = [answer for answer in answers if answer["final"]]
        assert 0 < first["start"] < first["end"] < second["start"] < second["end"]
        assert first["words"][0]["word"] == TRANSCRIPTS[MONO[0]].split()[0]
    # Each partial text is the beginning of the final one that follows it.
    for place, answer in enumerate(answers):
        following = finals(answers[place + 1 :])
        assert answer["partial"] == "" or following[0].startswith(answer["partial"])


def test_short_pauses_do_not(load_model: LoadModel) -> None:
    recording = two_sentences(silence_s=0.1)
    answers = speak(
        load_model("emformer_asr_live"), "pause", recording, [], **{"Content-Type": L16}
    )
    assert len(finals(answers)) == 1


def refusal(reply: Reply) -> tuple[int, str]:
    return reply.status, reply.answer["type"]


def test_errors_of_sessions(load_model: LoadModel) -> None:
    model = load_model("emformer_asr_live")
    recording = (EXAMPLES / MONO[0]).read_bytes()

    def send(piece: bytes, name: str, **flags: Any) -> Reply:
        return model.answer([{"body": piece}], [session_headers(name, **flags)])[0]

    assert refusal(send(recording, "never opened")) == (410, "SessionGone")
    assert send(recording[:9_000], "twice", first=True).status == 200
    assert refusal(send(recording, "twice", first=True)) == (409, "SessionExists")
    # The open session goes on.
    assert send(recording[9_000:], "twice", last=True).answer["text"] == TRANSCRIPTS[MONO[0]]
    assert refusal(send(b"", "twice")) == (410, "SessionGone")
    assert refusal(send(b"no audio", "text", first=True)) == (415, "UnsupportedAudio")
    assert refusal(send(recording, "text")) == (410, "SessionGone")
    assert refusal(send(b"", "empty", first=True, last=True)) == (415, "UnsupportedAudio")
    assert len(model.handler._sessions) == 0
    for number in range(8):
        assert send(b"", f"speaker {number}", first=True).answer["partial"] == ""
    assert refusal(send(b"", "one too many", first=True)) == (503, "TooManySessions")
    for number in range(8):
        assert refusal(send(b"x", f"speaker {number}"))[0] == 415
    explained = model.answer(
        [{"body": b""}], [session_headers("explain", first=True, explain="True")]
    )[0]
    assert explained.status == 422


def test_refused_piece_holds_no_place_of_torchserve(load_model: LoadModel) -> None:
    """A session that there is none of is ended for TorchServe; one that is open goes on."""
    model = load_model("emformer_asr_live")
    context = model.service.context

    def frees_place(name: str, piece: bytes = b"", **more: Any) -> bool:
        (reply,) = model.answer([{"body": piece}], [session_headers(name, **more)])
        assert reply.status != 200
        told = context.get_response_headers(0).get(context.header_key_sequence_end)
        return bool(told == name)

    assert frees_place("never opened")
    assert frees_place("explained", first=True, explain="True")
    assert frees_place("other case", TS_Request_Sequence_Start="true")
    assert frees_place("no audio", b"text", first=True)
    model.answer([{"body": b""}], [session_headers("open", first=True)])
    assert not frees_place("open", first=True)
    assert not frees_place("open", explain="True")
    assert frees_place("open", b"text")
    assert len(model.handler._sessions) == 0


def test_silent_sessions_expire() -> None:
    now_s = [100.0]
    sessions = OpenSessions(most=2, idle_s=10.0, clock_s=lambda: now_s[0])

    def session() -> Any:
        return type("Session", (), {"used_s": now_s[0]})()

    first = session()
    sessions.begin("first", first)
    now_s[0] += 6
    sessions.begin("second", session())
    sessions.expire()
    now_s[0] += 3
    assert sessions.find("first") is first
    now_s[0] += 3
    sessions.expire()
    # The first was used since, and the second is not old yet.
    assert len(sessions) == 2
    now_s[0] += 5
    sessions.expire()
    assert len(sessions) == 1
    sessions.begin("third", session())
    sessions.end("third")
    sessions.end("third")
    assert len(sessions) == 1


def test_worker_that_is_busy_makes_nobody_silent(
    load_model: LoadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that takes as long for audio as it lasts: what it works for others is no silence."""
    model = load_model("emformer_asr_live")
    ticks = itertools.count()

    def clock_s() -> float:
        heard = (session.recording.received() for session, _ in sessions._open.values())
        return float(sum(heard) / RATE_HZ + 0.001 * next(ticks))

    # The archive has classes of its own, also of errors.
    sessions = type(model.handler._sessions)(8, 10.0, clock_s)
    monkeypatch.setattr(model.handler, "_sessions", sessions)
    samples = samples_of(MONO[0])

    def send(piece: np.ndarray, name: str, **flags: Any) -> Reply:
        sent = {**session_headers(name, **flags), "Content-Type": L16}
        return model.answer([{"body": piece.tobytes()}], [sent])[0]

    for name in ("me", "silent"):
        assert send(samples[:8_000], name, first=True).status == 200
    assert send(np.zeros(15 * RATE_HZ, np.int16), "other", first=True).status == 200
    assert send(samples[8_000:], "me").status == 200
    assert send(np.zeros(15 * RATE_HZ, np.int16), "other").status == 200
    assert send(samples[:0], "me", last=True).answer["text"] == TRANSCRIPTS[MONO[0]]
    # Who said nothing after the first of the long ones either has been silent.
    assert refusal(send(samples[8_000:], "silent")) == (410, "SessionGone")


def test_yaml_must_ask_for_sessions() -> None:
    idle = {"sequenceMaxIdleMSec": 9_000}
    sticky = {"sequenceBatching": True, "continuousBatching": True}
    for keys in (idle, idle | sticky, idle | sticky | {"maxWorkers": 4}):
        assert read_idle_seconds(keys) == 9.0
    for none in (None, sticky, {"sequenceMaxIdleMSec": 0}):
        with pytest.raises(ValueError, match="needs sequenceMaxIdleMSec"):
            read_idle_seconds(none)
    for keys in (
        idle | {"maxWorkers": 2},
        idle | {"sequenceBatching": True},
        idle | {"continuousBatching": True},
        idle | sticky | {"continuousBatching": False, "maxWorkers": 2},
    ):
        with pytest.raises(ValueError, match="needs both sequenceBatching"):
            read_idle_seconds(keys)


def test_segments_end_where_no_token_follows() -> None:
    tokens = [Token(0, frame, frame + 1, 1.0) for frame in (3, 5, 30, 31)]
    assert find_segment_ends(tokens, 0, frames=40, silent_frames=20) == [2]
    assert find_segment_ends(tokens, 0, frames=52, silent_frames=20) == [2, 4]
    assert find_segment_ends(tokens, 2, frames=52, silent_frames=20) == [4]
    assert find_segment_ends(tokens, 4, frames=99, silent_frames=20) == []
    assert find_segment_ends([], 0, frames=99, silent_frames=20) == []


def test_each_segment_is_taken_once_and_when_it_is_certain() -> None:
    tracker = SegmentTracker(silent_frames=20)
    said = [Token(0, frame, frame + 1, 1.0) for frame in (3, 30, 60)]

    def recording(certain: int, known: int, frames: int) -> Any:
        fields = {"tokens": said[:certain], "frames": frames}
        return type("Recording", (), {**fields, "best_tokens": lambda _: said[:known]})()

    assert tracker.take_ended(recording(certain=0, known=1, frames=30)) == []
    assert tracker.take_ended(recording(certain=1, known=2, frames=40)) == [said[:1]]
    assert tracker.take_ended(recording(certain=1, known=2, frames=40)) == []
    assert tracker.take_ended(recording(certain=3, known=3, frames=61)) == [said[1:2]]
    assert tracker.take_rest(recording(3, 3, 62)) == [said[2:]]
