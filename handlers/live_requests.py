"""What a model of live speech says: of itself, and of what a session said."""

from typing import Any

from batches import JSON, Answer
from speechtext.errors import RequestError
from speechtext.failures import as_request_error
from speechtext.speech.live_sessions import LiveSettings, LiveTranscript
from speechtext.speech.open_sessions import AudioChunk
from speechtext.speech.rnnt.features import SAMPLE_RATE_HZ
from speechtext.speech.transcripts import write_segment


def describe_live(settings: LiveSettings, idle_s: float) -> dict[str, Any]:
    """Return what a model of live speech is, for who asks TorchServe to describe it."""
    return {
        "kind": "live_speech",
        "decoder": "greedy",
        "sample_rate_hz": SAMPLE_RATE_HZ,
        "media_types": [JSON],
        "streams": [],
        "explainable": False,
        "hotwords": False,
        "speakers": settings.speaker_model is not None,
        "limits": {
            "max_audio_seconds": settings.max_audio_seconds,
            "max_sessions": settings.max_sessions,
            "max_idle_seconds": idle_s,
            "endpoint_silence_seconds": settings.endpoint_silence_s,
        },
    }


def tell_live(chunk: AudioChunk) -> Answer | RequestError:
    """Return what a session said, or why it cannot be told: the others have told theirs for good.

    Telling moves a session on, so that a batch must not be run again for one of them.
    """
    try:
        return write_live(chunk.name, chunk.session.tell(chunk.ends))
    except Exception as error:
        return as_request_error(error)


def write_live(session: str, said: LiveTranscript) -> Answer:
    """Return what a session said, with the times of what is final, else of what is partial."""
    final = write_segment(said.final)
    times = final if said.final.text else write_segment(said.partial)
    report = {
        "session": session,
        "partial": said.partial.text,
        "final": said.final.text,
        "start": times["start"],
        "end": times["end"],
        "words": final["words"],
        "duration": round(said.duration_s, 3),
    }
    whole = {} if said.text is None else {"text": said.text}
    return Answer({**report, **whole}, JSON)
