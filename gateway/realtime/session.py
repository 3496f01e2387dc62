"""A session: obeys the client's events in their order, and asks the engine what its audio says."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from starlette.websockets import WebSocket

from gateway.engine import Engine, EngineError, LiveSession, Model, UnavailableError
from gateway.inbox import Inbox
from gateway.openai.errors import code_of
from gateway.realtime.configuration import Configuration
from gateway.realtime.events import (
    Append,
    Clear,
    Cleared,
    ClientEventError,
    Commit,
    Event,
    Update,
    describe_engine_error,
    error_event,
    new_id,
    parse_event,
    refusal_event,
    server_event,
)
from gateway.realtime.turns import SILENCE, Said, Turns
from gateway.sockets import (
    MOST_WAITING_BYTES,
    Reader,
    end_session,
    find_live_model,
    find_only_live_model,
    keep_seconds,
    run_first,
    take_next,
)

Command = Update | Commit | Cleared
# The part of its longest audio after which an engine's session ends with the next turn.
LONG_SHARE = 0.5
MODEL_FIELD = "session.audio.input.transcription.model"


class Session:
    """One client: what is in effect, the engine's session, and the items so far."""

    def __init__(self, engine: Engine, websocket: WebSocket, model: str | None) -> None:
        self._engine = engine
        self._websocket = websocket
        self._asked_model = model
        self._id = new_id("sess")
        self._configuration = Configuration()
        self._model: Model | None = None
        self._live: LiveSession | None = None
        self._turns = Turns()
        self._inbox: Inbox[Command] = Inbox(MOST_WAITING_BYTES)

    async def run(self, idle_s: float) -> None:
        """Greet the client, and serve it to its end."""
        await self._begin()
        await run_first(self._read(idle_s), self._recognize())

    async def _begin(self) -> None:
        name = self._asked_model or await find_only_live_model(self._engine)
        if name is not None:
            self._model = await find_live_model(self._engine, name)
            self._configuration = replace(self._configuration, model=name)
        await self._send(server_event("session.created", session=self._describe()))

    async def _read(self, idle_s: float) -> None:
        async with Reader(self._websocket, self._inbox, idle_s) as reader:
            while True:
                try:
                    await self._receive(reader)
                except ClientEventError as error:
                    await self._send(refusal_event(error))

    async def _receive(self, reader: Reader) -> None:
        # A message may be large: it is not kept while the next one is awaited.
        message = await reader.next()
        event = parse_event(message)
        if isinstance(event, Append):
            audio = event.decode()
            await reader.wait_for_room()
            self._inbox.put_audio(audio)
        elif isinstance(event, Clear):
            # What is dropped makes room.
            cleared = Cleared(self._inbox.drop_audio())
            await reader.wait_for_room()
            self._inbox.put_command(cleared, len(message))
        else:
            await reader.wait_for_room()
            self._inbox.put_command(event, len(message))

    async def _recognize(self) -> None:
        try:
            while True:
                await self._take()
        except EngineError as error:
            await self._tell(self._turns.fail(describe_engine_error(error)))
            raise
        finally:
            await end_session(self._live)

    async def _take(self) -> None:
        encoding, keep_s = self._configuration.encoding, keep_seconds(self._model)
        entry = await take_next(self._inbox, encoding, self._live, keep_s)
        try:
            if isinstance(entry, bytes):
                await self._hear(entry)
            elif isinstance(entry, Update):
                await self._update(entry)
            elif isinstance(entry, Commit):
                await self._commit(entry)
            else:
                await self._clear(entry)
        except ClientEventError as error:
            await self._send(refusal_event(error))

    async def _hear(self, audio: bytes) -> None:
        configuration = self._configuration
        if configuration.model is None:
            raise ClientEventError(
                "missing_required_parameter", f"Expected {MODEL_FIELD} before audio.", MODEL_FIELD
            )
        encoding = configuration.encoding
        if self._live is None:
            self._live = await self._engine.open_live(configuration.model, encoding.engine_format)
            self._turns.open()
        said = await self._live.send(encoding.expand(audio))
        self._pass_by(len(audio))
        await self._tell(self._turns.hear(said, configuration.detects_turns))
        if not self._turns.is_speaking and self._turns.open_s > self._longest_s * LONG_SHARE:
            await self._tell(self._turns.hear(await self._finish(), configuration.detects_turns))

    async def _finish(self) -> Said:
        """End the engine's session, which tells the rest of its text."""
        live, self._live = self._live, None
        return await live.send(b"", last=True) if live else SILENCE

    async def _commit(self, event: Commit) -> None:
        if not self._turns.has_audio:
            raise ClientEventError(
                "input_audio_buffer_commit_empty",
                "Expected audio before a commit, got none since the last item.",
                event_id=event.event_id,
            )
        await self._end_item()

    async def _end_item(self) -> None:
        said = await self._finish()
        await self._tell(self._turns.commit(said, self._configuration.detects_turns))

    async def _clear(self, event: Cleared) -> None:
        live, self._live = self._live, None
        await end_session(live)
        self._pass_by(event.audio_bytes)
        self._turns.clear()
        await self._send(server_event("input_audio_buffer.cleared"))

    async def _update(self, event: Update) -> None:
        before, after = self._configuration, self._configuration.update(event.session)
        model = self._model
        if after.model is not None and after.model != before.model:
            model = await self._find_model(after.model, event)
        if after != before and self._turns.has_audio:
            await self._end_item()
        self._configuration, self._model = after, model
        await self._send(server_event("session.updated", session=self._describe()))

    async def _find_model(self, name: str, event: Update) -> Model:
        try:
            return await find_live_model(self._engine, name)
        except EngineError as error:
            if isinstance(error, UnavailableError) and self._model is None:
                # It may be there for another session; this one has none.
                raise
            raise ClientEventError(
                code_of(error), error.message, MODEL_FIELD, event.event_id
            ) from error

    def _pass_by(self, audio_bytes: int) -> None:
        self._turns.position_s += audio_bytes / self._configuration.encoding.bytes_per_s

    def _describe(self) -> Event:
        named = {"id": self._id, "object": "realtime.transcription_session"}
        return named | self._configuration.describe(self._limits)

    @property
    def _limits(self) -> Mapping[str, float]:
        return self._model.about.limits if self._model else {}

    @property
    def _longest_s(self) -> float:
        """Return how much audio a session of the engine may have."""
        return self._limits.get("max_audio_seconds", math.inf)

    async def _send(self, event: Event) -> None:
        # ASCII: a client's own words that come back in it may be no UTF-8.
        await self._websocket.send_text(json.dumps(event))

    async def _tell(self, events: Iterable[Event]) -> None:
        for event in events:
            await self._send(event)

    async def tell_error(self, error: EngineError) -> None:
        """Tell the client why its session ends."""
        said = describe_engine_error(error)
        await self._send(error_event(said["type"], said["code"], said["message"]))
