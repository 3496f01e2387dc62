"""TorchServe handler for live speech: sessions of an Emformer RNN-T, a chunk of audio at a time."""

import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from batches import Answer, answer_requests
from device_io import (
    AUDIO_FIELDS,
    Row,
    prepare_worker,
    refuse_explanation,
    request_audio,
    request_header,
)
from live_headers import read_idle_seconds, read_sequence_headers, read_session_id
from live_requests import describe_live, tell_live
from load_errors import check_files_and_explain
from speaker_requests import load_diarizer, measure_live
from speechtext.allowance import run_admitted
from speechtext.errors import DeadlineError, RequestError
from speechtext.host_memory import keep_loaded
from speechtext.measurements import note_gauge, note_size
from speechtext.settings import read_settings
from speechtext.speech.live_sessions import (
    LiveRecognizer,
    LiveSession,
    LiveSettings,
)
from speechtext.speech.open_sessions import AudioChunk, OpenSessions
from speechtext.speech.pcm import parse_pcm_format
from speechtext.speech.rnnt.loading import SENTENCEPIECE_FILE


class LiveHandler:
    """Transcribes what people say while they say it."""

    def __init__(self) -> None:
        self.initialized = False

    @check_files_and_explain(SENTENCEPIECE_FILE)
    def initialize(self, context: Any) -> None:
        """Load the archive's files, and run them.

        Raises `LoadError`, which stops the load, for a mistake in the YAML or a missing file.
        """
        config = context.model_yaml_config
        settings = read_settings(LiveSettings, config, "handler")
        idle_s = read_idle_seconds(config)
        self._sessions = OpenSessions(settings.max_sessions, idle_s)
        folder, self.device = prepare_worker(context, settings.threads)
        file = context.manifest["model"]["serializedFile"]
        self.recognizer = LiveRecognizer.load(folder, settings, self.device, file)
        self._diarizer = load_diarizer(folder, settings, settings.dtype, self.device)
        self._description = describe_live(settings, idle_s)
        keep_loaded()
        self.initialized = True

    def handle(self, data: Sequence[Row], context: Any) -> list[Any]:
        """Return what each session of the batch said with the chunk that came of it, in order."""
        self._sessions.expire()
        with self._sessions.working():
            return answer_requests(
                data,
                context,
                lambda index, row: self._parse(index, row, context),
                self._answer,
                self._description,
            )

    def _parse(self, index: int, row: Row, context: Any) -> AudioChunk:
        given = read_session_id(context, index)
        name = given or str(uuid.uuid4())
        try:
            refuse_explanation(context, index)
            begins, ends = read_sequence_headers(context, index)
            session = self._find_session(name, begins or not given, index, context)
            duration_s = self._receive(name, session, ends, index, row, context)
            return AudioChunk(name, session, ends, duration_s)
        finally:
            if not self._sessions.is_open(name):
                # With sequenceBatching TorchServe gives the session's place to another at once.
                context.set_response_header(index, context.header_key_sequence_end, name)
            note_gauge("LiveSessions", len(self._sessions))

    def _find_session(self, name: str, begins: bool, index: int, context: Any) -> LiveSession:
        if not begins:
            return self._sessions.find(name)
        pcm = parse_pcm_format(request_header(context, index, "Content-Type") or "")
        session = self.recognizer.begin(pcm, self._diarizer)
        self._sessions.begin(name, session)
        return session

    def _receive(
        self, name: str, session: LiveSession, ends: bool, index: int, row: Row, context: Any
    ) -> float:
        # Without what cannot be read the session is of no use.
        with ExitStack() as unless_it_goes_on:
            unless_it_goes_on.callback(self._sessions.end, name)
            # A chunk may be empty, as the last one often is.
            audio = request_audio(row) if any(row.get(field) for field in AUDIO_FIELDS) else b""
            duration_s = session.receive(audio, ends)
            note_size(index, "audio_s", duration_s)
            if not ends:
                unless_it_goes_on.pop_all()
        return duration_s

    def _answer(self, chunks: Sequence[AudioChunk]) -> list[Any]:
        cost, diarizer = self.recognizer.cost, self._diarizer
        works = [measure_live(cost, diarizer, chunk.duration_s) for chunk in chunks]
        answers = run_admitted(self._recognize, chunks, works)
        pairs = zip(chunks, answers, strict=True)
        self._end([chunk for chunk, answer in pairs if isinstance(answer, RequestError)])
        return answers

    def _end(self, chunks: Sequence[AudioChunk]) -> None:
        """End the sessions of chunks that were not answered: what follows would make no sense."""
        for chunk in chunks:
            self._sessions.end(chunk.name)

    def _recognize(self, chunks: Sequence[AudioChunk]) -> list[Answer | RequestError]:
        # Who does not wait for answers may have several chunks in a batch.
        sessions = {id(chunk.session): chunk.session for chunk in chunks}
        try:
            self.recognizer.recognize(list(sessions.values()))
        except DeadlineError:
            self._end(chunks)
            raise
        return list(map(tell_live, chunks))
