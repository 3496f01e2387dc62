"""Who spoke when, as requests for transcripts ask for it."""

import base64
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from request_fields import parse_field
from speechtext.allowance import Work
from speechtext.devices import DtypeName
from speechtext.errors import ImpossibleRequestError, RequestError, UnavailableError
from speechtext.parameters import impossible, read_parameters
from speechtext.speech.alignments import Recognition
from speechtext.speech.audio import decode_audio
from speechtext.speech.chunks import SAMPLE_RATE_HZ
from speechtext.speech.costs import SpeechCost
from speechtext.speech.diarization import DiarizationParameters, Diarizer, SpeakerSettings

# Where an archive keeps the model of voices.
VOICES_FOLDER = "voices"
KNOWN_FIELD = "known_speakers"
MOST_KNOWN, LONGEST_KNOWN_S, LONGEST_NAME = 20, 30.0, 100
# Unicode's categories of control characters, lines' and paragraphs' ends, and surrogates.
UNWRITTEN = {"Cc", "Zl", "Zp", "Cs"}


class SpeakersAsked(NamedTuple):
    """Of how many speakers a recording is, and the voices of those that are known, by name."""

    num_speakers: int | None
    known: Mapping[str, torch.Tensor]


def load_diarizer(
    folder: Path, settings: SpeakerSettings, dtype: DtypeName, device: torch.device
) -> Diarizer | None:
    """Return what tells speakers apart in an archive, None where its YAML names no such model.

    It computes in the recogniser's `dtype`. Raises `ValueError` or `OSError` where the archive has
    none all the same.
    """
    if settings.speaker_model is None:
        return None
    voices = folder / VOICES_FOLDER
    if not (voices / "config.json").is_file():
        raise ValueError(
            f"handler.speaker_model: expected {VOICES_FOLDER}/config.json in the archive; build "
            "it anew."
        )
    return Diarizer.load(voices, settings.speaker_threshold, device, dtype)


def read_speakers(
    fields: Mapping[str, Any], diarizer: Diarizer | None, told_apart: bool
) -> SpeakersAsked | None:
    """Return what a request asks of speakers, None for nothing; raises `RequestError`.

    `told_apart` says whether an answer of the kind that is asked for has room for them.
    """
    given = {name: parse_field(fields.get(name), name) for name in _NAMES}
    known = parse_field(fields.get(KNOWN_FIELD), KNOWN_FIELD)
    asked = read_parameters(DiarizationParameters, given, {})
    if not asked.diarize and not known:
        if asked.num_speakers:
            raise impossible("num_speakers", "absent without diarize", str(asked.num_speakers))
        return None
    if diarizer is None:
        raise ImpossibleRequestError(
            "SpeakersUnsupported",
            "Expected diarize to be absent: this archive has no model of voices; name one as "
            "speaker_model in its YAML.",
        )
    if not told_apart:
        raise ImpossibleRequestError(
            "SpeakersUnsupported",
            "Expected diarize with a whole transcript; neither an explanation nor a stream of "
            "segments tells speakers apart.",
        )
    return SpeakersAsked(asked.num_speakers, _read_known(known or {}))


_NAMES = tuple(DiarizationParameters.__dataclass_fields__)


def _read_known(known: Any) -> dict[str, torch.Tensor]:
    if not isinstance(known, Mapping):
        raise impossible(KNOWN_FIELD, "an object of names and recordings", type(known).__name__)
    if len(known) > MOST_KNOWN:
        raise impossible(KNOWN_FIELD, f"at most {MOST_KNOWN} names", str(len(known)))
    if not all(map(_is_name, known)):
        expected = f"names of 1 to {LONGEST_NAME} characters in one line"
        raise impossible(KNOWN_FIELD, expected, "another one")
    return {name: _decode_known(recording) for name, recording in known.items()}


def _is_name(name: str) -> bool:
    """Tell whether a line of a transcript can begin with a name.

    Neither control characters nor halves of a surrogate pair, which are no Unicode, can be in it.
    """
    if not name.strip() or len(name) > LONGEST_NAME:
        return False
    return UNWRITTEN.isdisjoint(map(unicodedata.category, name))


def _decode_known(recording: Any) -> torch.Tensor:
    """Return the waveform of a recording in base64, or of a data URL of one (RFC 2397)."""
    if isinstance(recording, str):
        encoded = recording.partition(";base64,")[2] if recording[:5] == "data:" else recording
        with suppress(ValueError):
            content = base64.b64decode("".join(encoded.split()), validate=True)
            return _decode_audio(content)
    raise impossible(KNOWN_FIELD, "recordings in base64, or data URLs of them", "something else")


def _decode_audio(content: bytes) -> torch.Tensor:
    try:
        return decode_audio(content, SAMPLE_RATE_HZ, LONGEST_KNOWN_S)
    except UnavailableError:
        raise
    except RequestError as error:
        # It is not the recording itself that is to blame.
        said = error.message.replace(" in body", f" in {KNOWN_FIELD}")
        raise type(error)(error.kind, said) from error


def measure_speakers(diarizer: Diarizer, asked: SpeakersAsked, duration_s: float) -> Work:
    """Return the work of telling the speakers of a recording apart."""
    known_s = sum(map(len, asked.known.values())) / SAMPLE_RATE_HZ
    return diarizer.cost.measure(duration_s + known_s)


def measure_live(cost: SpeechCost, diarizer: Diarizer | None, duration_s: float) -> Work:
    """Return the work of a piece of live speech."""
    work = cost.measure(duration_s)
    if diarizer is None:
        return work
    return work._replace(cost_s=work.cost_s + diarizer.cost.measure(duration_s).cost_s)


def name_speakers(
    diarizer: Diarizer, asked: SpeakersAsked, waveform: torch.Tensor, recognition: Recognition
) -> Recognition | RequestError:
    """Return a recognition whose words have speakers, or why a voice cannot be known."""
    voices = diarizer.listen(list(asked.known.values()))
    known: dict[str, torch.Tensor] = {}
    for name, voice in zip(asked.known, voices, strict=True):
        if isinstance(voice, RequestError):
            return impossible(KNOWN_FIELD, "recordings in which voices can be heard", "a short one")
        known[name] = voice
    named = diarizer.name_words(recognition.transcript, waveform, asked.num_speakers, known)
    return recognition._replace(transcript=named)
