"""What the search gives to the readers: each takes any bytes, or says why it does not."""

import json
import random
from contextlib import suppress

import pytest

from repository import EXAMPLES
from speechtext.errors import RequestError
from trials.deep_fuzz import READERS

WAV = (EXAMPLES / "turn_on_the_kitchen_lights.wav").read_bytes()
SEEDS = [
    WAV[:20_000],
    b"",
    json.dumps({"inputs": "a", "parameters": {"top_k": 3, "stop": ["x"]}}).encode(),
    b'--b\r\nContent-Disposition: form-data; name="data"\r\n\r\nx\r\n--b--\r\n',
]


class Given:
    """Random choices, and bytes that are nearly those of a request; as libFuzzer gives them."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        content = bytearray(SEEDS[seed % len(SEEDS)])
        for _ in range(self._chance.randint(0, 5)):
            if content:
                content[self._chance.randrange(len(content))] = self._chance.randrange(256)
        self._content = bytes(content[: self._chance.randint(0, len(content))])

    def ConsumeUnicodeNoSurrogates(self, most: int) -> str:  # noqa: N802 - atheris' own names
        return self._chance.choice(
            (
                "audio/L16; rate=8000",
                "multipart/form-data; boundary=b",
                "application/json",
                "\u00e9",
            )
        )[:most]

    def ConsumeIntInRange(self, least: int, most: int) -> int:  # noqa: N802
        return self._chance.randint(least, most)

    def ConsumeBool(self) -> bool:  # noqa: N802
        return self._chance.random() < 0.5

    def ConsumeBytes(self, count: int) -> bytes:  # noqa: N802
        return self._content[:count]

    def remaining_bytes(self) -> int:
        return len(self._content)


@pytest.mark.parametrize("reader", READERS)
def test_reader_takes_anything_or_says_why_not(reader: str) -> None:
    taken = 0
    for seed in range(300):
        with suppress(RequestError):
            READERS[reader](Given(seed))
            taken += 1
    assert taken > 0
