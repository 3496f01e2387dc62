"""What the tests of OpenAI's protocol share: its official client before a real gateway."""

from collections.abc import Iterator

import pytest
from openai import OpenAI


@pytest.fixture(scope="session")
def openai_client(gateway_url: str) -> Iterator[OpenAI]:
    """Return the official client, which tries nothing again."""
    with OpenAI(base_url=f"{gateway_url}/v1", api_key="none", max_retries=0) as client:
        yield client
