"""A session of live speech: a series of requests with the same `ts_request_sequence_id`."""

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from gateway.engine import (
    Answer,
    AudioFormat,
    EngineError,
    EngineTimeoutError,
    InternalError,
    Request,
    SessionGoneError,
)


class ContractLiveSession:
    """Speech, chunk by chunk; docs/live.md has the headers and the answers."""

    def __init__(
        self,
        ask: Callable[[Request], Awaitable[Answer]],
        audio_format: AudioFormat,
        answer_timeout_s: float,
    ) -> None:
        self._ask = ask
        self._answer_timeout_s = answer_timeout_s
        self._content_type = (
            f"audio/L16; rate={audio_format.rate_hz}; channels={audio_format.channels}; "
            "endianness=little-endian"
        )
        # Names in lower case, which TorchServe insists on.
        self._headers = {"ts_request_sequence_id": str(uuid.uuid4())}
        self._opened = self._ended = False
        self._turn = asyncio.Lock()

    async def send(self, chunk: bytes, last: bool = False) -> dict[str, Any]:
        """Return what was said by the end of a chunk; raises `EngineError`."""
        async with self._turn:
            if self._ended:
                raise SessionGoneError("SessionGone", "Expected an open session; it has ended.")
            headers = dict(self._headers)
            if not self._opened:
                headers["ts_request_sequence_start"] = "true"
            if last:
                headers["ts_request_sequence_end"] = "true"
            # Whatever comes of it, the engine may have opened the session.
            self._opened, self._ended = True, last
            return await self._answer(Request(chunk, self._content_type, headers=headers))

    async def _answer(self, request: Request) -> dict[str, Any]:
        try:
            async with asyncio.timeout(self._answer_timeout_s):
                answer = await self._ask(request)
        except TimeoutError as error:
            # Nothing more is asked of it: it forgets the session as one that went silent.
            self._ended = True
            raise EngineTimeoutError(
                "EngineTimeout",
                f"Expected an answer of the engine within {self._answer_timeout_s:g} s, got none.",
            ) from error
        return _read_answer(answer.body)

    async def close(self) -> None:
        """End the session, where it has not ended, without its text; raises nothing."""
        if self._opened and not self._ended:
            with suppress(EngineError):
                await self.send(b"", last=True)
        self._ended = True


def _read_answer(body: bytes) -> dict[str, Any]:
    """Return an answer of a live model; raises `InternalError` for one of another."""
    with suppress(ValueError):
        answer = json.loads(body)
        if isinstance(answer, dict) and "partial" in answer:
            return answer
    raise InternalError("NotLive", "Expected the answer of a model of live speech, got another.")
