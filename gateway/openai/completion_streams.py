"""Completions token by token: those of all choices in one stream, as the engine makes them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.engine import AnswerStream, EngineError
from gateway.errors import as_engine_error, log_mistake
from gateway.openai.choices import FINISH_REASONS, cut_stop, write_logprobs
from gateway.openai.completion_request import Call, CompletionRequest
from gateway.openai.events import cut_short, read_lines

# Parts that wait for a client that reads slowly; the engine waits, too.
MOST_WAITING = 16


@dataclass
class Taken:
    """What a stream took so far: tokens of each prompt, and of all completions."""

    prompts: dict[int, int] = field(default_factory=dict)
    completions: int = 0


class ChoiceStream:
    """The parts of one choice, without the stop sequence that ends it."""

    def __init__(self, call: Call, request: CompletionRequest, taken: Taken) -> None:
        self._call = call
        self._request = request
        self._taken = taken
        self._sent = 0
        # What may be the beginning of a stop sequence, with the tokens that it is of.
        self._held = ""
        self._tokens: list[dict[str, Any]] = []
        self._top_tokens: list[list[dict[str, Any]]] = []

    async def parts(self, answer: AnswerStream) -> AsyncIterator[dict[str, Any]]:
        """Yield choices with further text, the last with the reason for the end."""
        if self._request.echo:
            yield self._choice(self._call.prompt, None, None)
        async for event in read_lines(answer):
            self._hold(event)
            details = event["details"]
            if details:
                yield self._finish(details)
                return
            if text := self._release():
                yield self._write(text, None)
        raise cut_short()

    def _hold(self, event: dict[str, Any]) -> None:
        self._held += event["token"]["text"]
        self._tokens.append(event["token"])
        self._top_tokens.append(event.get("top_tokens") or [])

    def _release(self) -> str:
        """Return the text that is held and of no stop sequence, whatever comes."""
        kept = max((_overlap(self._held, stop) for stop in self._request.stop), default=0)
        text = self._held[: len(self._held) - kept]
        # A token is not divided: its log-probability goes with all of it.
        if kept and self._request.logprobs is not None:
            return ""
        self._held = self._held[len(text) :]
        return text

    def _finish(self, details: dict[str, Any]) -> dict[str, Any]:
        self._taken.prompts[self._call.owner] = details["input_length"]
        self._taken.completions += details["generated_tokens"]
        text, reason = self._held, details["finish_reason"]
        if reason == "stop_sequence":
            text = cut_stop(text, self._request.stop)
        return self._write(text, FINISH_REASONS[reason])

    def _write(self, text: str, finish_reason: str | None) -> dict[str, Any]:
        logprobs = None
        if self._request.logprobs is not None:
            end = self._sent + len(text)
            logprobs = write_logprobs(self._tokens, self._top_tokens, self._sent, end)
        self._sent += len(text)
        self._tokens, self._top_tokens = [], []
        return self._choice(text, logprobs, finish_reason)

    def _choice(
        self, text: str, logprobs: dict[str, Any] | None, finish_reason: str | None
    ) -> dict[str, Any]:
        return {
            "index": self._call.number,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of a text may begin a stop sequence."""
    lengths = range(min(len(text), len(stop) - 1), 0, -1)
    return next((length for length in lengths if text.endswith(stop[:length])), 0)


class MergedParts:
    """The parts of several streams as they come; whoever has it closes it."""

    def __init__(
        self, sources: Sequence[AsyncIterator[dict[str, Any]]], answers: Sequence[AnswerStream]
    ) -> None:
        self._answers = answers
        self._queue: asyncio.Queue[dict[str, Any] | EngineError | None] = asyncio.Queue(
            MOST_WAITING
        )
        self._tasks = [asyncio.create_task(self._pump(each)) for each in sources]

    async def _pump(self, source: AsyncIterator[dict[str, Any]]) -> None:
        try:
            async for part in source:
                await self._queue.put(part)
            await self._queue.put(None)
        except EngineError as error:
            await self._queue.put(error)
        except Exception as error:
            # An engine with other events; its words may repeat what a request contained.
            log_mistake(error)
            await self._queue.put(as_engine_error(error))

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        running = len(self._tasks)
        while running:
            part = await self._queue.get()
            if isinstance(part, EngineError):
                raise part
            if part is None:
                running -= 1
            else:
                yield part

    async def aclose(self) -> None:
        """End the work of the engine, where it still runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for answer in self._answers:
            await answer.aclose()
