"""What goes wrong on the way to TorchServe, as the engine's errors."""

from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp

from gateway.contract.errors import BUSY_S
from gateway.engine import EngineTimeoutError, UnavailableError

# When to try again where the engine is not there.
DOWN_S = 5.0


@contextmanager
def as_engine_errors() -> Iterator[None]:
    """Raise what goes wrong on the way to TorchServe as an `EngineError`."""
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise UnavailableError(
            "EngineUnreachable", "Expected a connection to the engine, got none. Try again.", DOWN_S
        ) from error
    except TimeoutError as error:
        raise EngineTimeoutError(
            "EngineTimeout", "Expected an answer of the engine in time, got none."
        ) from error
    except (aiohttp.ClientError, OSError) as error:
        raise UnavailableError(
            "EngineLost", "Expected the engine's whole answer; the connection was lost.", BUSY_S
        ) from error
