"""What one client may ask for: requests a minute, requests and sessions at once, their length."""

import asyncio
import ipaddress
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.access.refusals import AccessPolicy
from gateway.engine import TooManyRequestsError
from gateway.request_context import client_name
from gateway.settings import ClientLimits

MINUTE_S = 60.0
# Clients remembered; beyond that, the longest silent are forgotten.
MOST_CLIENTS = 10_000
# When a client that has much in work may try again.
BUSY_S = 1.0
# A network of IPv6 that one subscriber has: RFC 6177.
SUBSCRIBER_BITS = 64
# RFC 6455, section 7.4.1: against the server's policy.
POLICY_CODE = 1008


def client_of(scope: Scope) -> str:
    """Return the name of a request's client, that of its token, else its address."""
    if name := client_name.get():
        return f"token {name}"
    host = (scope.get("client") or ("",))[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 4:
        return host
    return str(ipaddress.ip_network((address, SUBSCRIBER_BITS), strict=False))


class Rate:
    """A minute's requests for each client, which come back evenly.

    The generic cell rate algorithm (ITU-T I.371): of each client only the time is kept at which all
    of its requests will be there again.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = MINUTE_S / per_minute
        self._clock = clock
        self._full_s: OrderedDict[str, float] = OrderedDict()

    def take(self, client: str) -> float:
        """Return 0 for a request that may be made now, else the seconds until there is one."""
        now_s = self._clock()
        full_s = max(self._full_s.pop(client, now_s), now_s)
        wait_s = full_s + self._interval_s - now_s - MINUTE_S
        # A little less than nothing is nothing.
        allowed = wait_s <= self._interval_s * 1e-6
        self._full_s[client] = full_s + self._interval_s if allowed else full_s
        if len(self._full_s) > MOST_CLIENTS:
            self._full_s.popitem(last=False)
        return 0.0 if allowed else wait_s

    def __len__(self) -> int:
        """Return of how many clients something is kept."""
        return len(self._full_s)


class AtOnce:
    """What each client has in work; nothing is kept of those who have nothing."""

    def __init__(self, most: int | None) -> None:
        self.most = most
        self._taken: Counter[str] = Counter()

    @contextmanager
    def take(self, client: str) -> Iterator[bool]:
        """Take a place while the block runs; tell whether there was one."""
        if self.most is not None and self._taken[client] >= self.most:
            yield False
            return
        self._taken[client] += 1
        try:
            yield True
        finally:
            self._taken[client] -= 1
            if not self._taken[client]:
                del self._taken[client]


class LimitClients:
    """Refuses with 429 what is more than a client may have."""

    def __init__(self, app: ASGIApp, limits: ClientLimits, policy: AccessPolicy) -> None:
        self._app = app
        self._limits = limits
        self._policy = policy
        self._rate = Rate(limits.requests_per_minute) if limits.requests_per_minute else None
        self._requests = AtOnce(limits.requests_at_once)
        self._sessions = AtOnce(limits.sessions)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request or hold a WebSocket."""
        if not self._policy.guards(scope):
            await self._app(scope, receive, send)
            return
        client = client_of(scope)
        if self._rate is not None and (wait_s := self._rate.take(client)):
            most = f"{self._limits.requests_per_minute} requests a minute"
            await self._policy.refuse(_too_many(most, wait_s), scope, receive, send)
            return
        is_session = scope["type"] == "websocket"
        places = self._sessions if is_session else self._requests
        with places.take(client) as free:
            if not free:
                most = f"{places.most} {'live sessions' if is_session else 'requests'} at once"
                await self._policy.refuse(_too_many(most, BUSY_S), scope, receive, send)
            elif is_session and self._limits.session_seconds:
                ending = _Ending(receive, send, self._limits.session_seconds)
                await self._app(scope, ending.receive, ending.send)
            else:
                await self._app(scope, receive, send)


def _too_many(most: str, wait_s: float) -> TooManyRequestsError:
    return TooManyRequestsError(
        "TooManyRequests", f"Expected at most {most} of a client. Try again later.", wait_s
    )


class _Ending:
    """Ends a WebSocket after some seconds: for the application, its client is gone then."""

    def __init__(self, receive: Receive, send: Send, seconds: float) -> None:
        self._receive, self._send = receive, send
        self._seconds = seconds
        self._end_s = asyncio.get_running_loop().time() + seconds
        self._ended = False

    async def receive(self) -> Message:
        try:
            async with asyncio.timeout_at(self._end_s):
                return await self._receive()
        except TimeoutError:
            reason = f"Expected a session of at most {self._seconds:g} s."
            close = {"type": "websocket.close", "code": POLICY_CODE, "reason": reason}
            if not self._ended:
                self._ended = True
                await self._send(close)
            return {"type": "websocket.disconnect", "code": POLICY_CODE, "reason": reason}

    async def send(self, message: Message) -> None:
        if not self._ended:
            await self._send(message)
