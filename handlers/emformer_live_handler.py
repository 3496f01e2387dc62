"""TorchServe handler for live speech: sessions of an Emformer RNN-T, a piece of audio at a time."""

import uuid
from collections.abc import Sequence
from typing import Any

import torch

from audio_decoding import parse_pcm_format
from batches import answer_requests
from device_io import (
    AUDIO_FIELDS,
    Answer,
    RequestError,
    Row,
    read_settings,
    refuse_explanation,
    request_audio,
    request_header,
)
from emformer_features import SAMPLE_RATE_HZ
from host_memory import keep_loaded
from live_audio import LiveAudio
from live_sessions import (
    LiveSettings,
    Piece,
    Session,
    Sessions,
    read_idle_seconds,
    read_sequence_headers,
)
from load_errors import one_sentence
from measurements import note_gauge, note_size
from rnnt_loading import SENTENCEPIECE_FILE, load_archive
from rnnt_recognition import Recognizer
from rnnt_segments import find_segment_ends
from rnnt_tokens import describe_tokens, text_of
from scripted_beam_search import is_beam_search

# TorchScript profiles and optimises its first runs.
WARM_UPS = 3


class LiveHandler:
    """Transcribes what people say while they say it."""

    def __init__(self) -> None:
        self.initialized = False

    @one_sentence(SENTENCEPIECE_FILE)
    def initialize(self, context: Any) -> None:
        """Load the archive's files, and run them.

        Raises `LoadError`, which stops the load, for a mistake in the YAML or a missing file.
        """
        config = context.model_yaml_config
        self._settings = settings = read_settings(LiveSettings, config, "handler")
        idle_s = read_idle_seconds(config)
        loaded = load_archive(context, settings.threads)
        if is_beam_search(loaded.model):
            raise ValueError(
                "Expected the TorchScript file that make archive writes, got an RNNTBeamSearch, "
                "which cannot carry on."
            )
        self._pieces = loaded.pieces
        self.recognizer = Recognizer(
            loaded.model, loaded.device, settings.dtype, settings.step_max_tokens
        )
        self._silent_frames = round(settings.endpoint_silence_s / self.recognizer.frame_s)
        self._sessions = Sessions(settings.max_sessions, idle_s)
        for _ in range(WARM_UPS):
            self.recognizer.recognize([self.recognizer.start(torch.zeros(SAMPLE_RATE_HZ))])
        keep_loaded()
        self.initialized = True

    def handle(self, data: Sequence[Row], context: Any) -> list[Any]:
        """Return what each session of the batch said with the piece that came of it, in order."""
        self._sessions.expire()
        return answer_requests(
            data, context, lambda index, row: self._parse(index, row, context), self._answer
        )

    def _parse(self, index: int, row: Row, context: Any) -> Piece:
        try:
            return self._take(index, row, context)
        finally:
            note_gauge("LiveSessions", len(self._sessions))

    def _take(self, index: int, row: Row, context: Any) -> Piece:
        given = context.get_request_header(index, context.header_key_sequence_id)
        name = given or str(uuid.uuid4())
        try:
            refuse_explanation(context, index)
            begins, ends = read_sequence_headers(context, index)
            begins = begins or not given
            session = self._begin(name, index, context) if begins else self._sessions.find(name)
        except RequestError:
            # TorchServe would keep a place for a session that there is none of.
            if not self._sessions.is_open(name):
                self._end(name, index, context)
            raise
        try:
            self._receive(session, row, index, ends)
        except RequestError:
            # What is missing now would be missing for ever.
            self._end(name, index, context)
            raise
        if ends:
            self._end(name, index, context)
        return Piece(name, session, ends)

    def _begin(self, name: str, index: int, context: Any) -> Session:
        limit_s = self._settings.max_audio_seconds
        pcm = parse_pcm_format(request_header(context, index, "Content-Type") or "")
        audio = LiveAudio(SAMPLE_RATE_HZ, limit_s, pcm)
        session = Session(audio, self.recognizer.start(torch.empty(0), ended=False))
        self._sessions.begin(name, session)
        return session

    def _end(self, name: str, index: int, context: Any) -> None:
        self._sessions.end(name)
        # With sequenceBatching TorchServe gives the session's place to another at once then.
        context.set_response_header(index, context.header_key_sequence_end, name)

    def _receive(self, session: Session, row: Row, index: int, ends: bool) -> None:
        # A piece may be empty, as the last one often is.
        piece = request_audio(row) if any(row.get(field) for field in AUDIO_FIELDS) else b""
        recording, parts = session.recording, [session.audio.push(piece)]
        if ends:
            parts.append(session.audio.end())
        note_size(index, "audio_s", sum(map(len, parts)) / SAMPLE_RATE_HZ)
        recording.samples = torch.cat([recording.samples, *parts])
        recording.ended = ends

    def _answer(self, pieces: Sequence[Piece]) -> list[Answer]:
        # Who does not wait for answers may have several pieces in a batch.
        recordings = {id(piece.session): piece.session.recording for piece in pieces}
        self.recognizer.recognize(list(recordings.values()))
        return [Answer(self._report(piece), "application/json") for piece in pieces]

    def _report(self, piece: Piece) -> dict[str, Any]:
        session = piece.session
        tokens, first = session.recording.best_tokens(), session.told
        frames = session.recording.frames
        ends = find_segment_ends(tokens, first, frames, self._silent_frames)
        if piece.ends:
            ends.append(len(tokens))
        session.told = ends[-1] if ends else first
        final, partial = tokens[first : session.told], tokens[session.told :]
        said, saying = (
            describe_tokens(self._pieces, each, self.recognizer.frame_s)
            for each in (final, partial)
        )
        told = said if final else saying
        report = {
            "session": piece.name,
            "partial": saying["text"],
            "final": said["text"],
            "start": told["start"],
            "end": told["end"],
            "words": said["words"],
            "duration": round(session.audio.duration_s, 3),
        }
        return {**report, "text": text_of(self._pieces, tokens)} if piece.ends else report
