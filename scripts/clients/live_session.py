"""A session of the live archive, from the side of a client."""

import uuid
from types import TracebackType
from typing import Any, Self

import httpx2

# How much speech a piece has.
PIECE_S = 0.16
TIMEOUT_S = 30.0


class LiveError(Exception):
    """Why a session could not go on, in one sentence."""


class LiveSession:
    """A session of the live archive: send pieces of 16-bit samples, get what they say.

    Its connection is closed at the end of the `with` block that it is used in.
    """

    def __init__(self, url: str, rate_hz: int, channels: int = 1) -> None:
        self._url = url
        # Names of headers in lower case, which TorchServe insists on.
        self._headers = {
            "content-type": f"audio/L16; rate={rate_hz}; channels={channels}; "
            "endianness=little-endian",
            "ts_request_sequence_id": str(uuid.uuid4()),
            "ts_request_sequence_start": "true",
        }
        self._client = httpx2.Client(timeout=TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._client.close()

    def send(self, piece: bytes, last: bool = False) -> dict[str, Any]:
        """Return the answer to a piece; raises `LiveError` where there is none."""
        if last:
            self._headers["ts_request_sequence_end"] = "true"
        try:
            response = self._client.post(self._url, content=piece, headers=self._headers)
            answer: dict[str, Any] = response.json()
        except (httpx2.HTTPError, ValueError) as error:
            raise LiveError(f"{self._url} does not answer as expected: {error}.") from error
        if response.status_code != httpx2.codes.OK:
            raise LiveError(f"{self._url} answered {response.status_code}: {answer['message']}")
        if "partial" not in answer:
            raise LiveError(f"{self._url} is no archive of live sessions.")
        self._headers.pop("ts_request_sequence_start", None)
        return answer
