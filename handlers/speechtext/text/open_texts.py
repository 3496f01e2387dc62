"""Texts that are being continued, token by token, while others come."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from speechtext.allowance import find_deadline_s, reserve, took_too_long
from speechtext.errors import RequestError
from speechtext.text.base import Answer, TokenListener
from speechtext.text.generation import TextGeneration
from speechtext.text.payloads import Example
from speechtext.text.predictor import TextPredictor
from speechtext.text.sampling import Continuation, TokenEvent
from speechtext.text.tokens import Window
from speechtext.text.windows import EncodedBatch


@dataclass(frozen=True, eq=False)
class OpenText:
    """A prompt, the continuation of it, and when that must have ended."""

    example: Example
    window: Window
    row: Continuation
    cost_s: float
    deadline_s: float

    @property
    def ended(self) -> bool:
        """Tell whether nothing is added any more."""
        return self.row.finish_reason is not None

    @property
    def left_s(self) -> float:
        """Return the seconds of work that are left."""
        most: int = self.example.parameters.max_new_tokens
        return self.cost_s * (1 - len(self.row.ids) / most)


class OpenTexts:
    """The texts of a model that are being continued; a text's answer is that of the text alone."""

    def __init__(self, predictor: TextPredictor, task: TextGeneration) -> None:
        self._predictor = predictor
        self._task = task
        self._decoder = task.make_decoder()
        self._texts: list[OpenText] = []

    def begin(
        self, examples: Sequence[Example], on_token: TokenListener
    ) -> list[OpenText | RequestError]:
        """Continue further texts, or return why one of them is not.

        Those that are open already are part of the time that there is. `on_token` gets each token
        of the examples that ask for a stream, as it is made.
        """
        reserve(sum(text.left_s for text in self._texts))

        def begin(batch: EncodedBatch, kept: Sequence[int]) -> list[OpenText]:
            def tell(owner: int, event: TokenEvent) -> None:
                on_token(kept[owner], event)

            return self._begin(batch, tell)

        found = self._predictor.run(examples, begin)
        new = [each for each in found if isinstance(each, OpenText)]
        self._texts += new
        self._decoder.add([text.row for text in new])
        return found

    def _begin(self, batch: EncodedBatch, on_token: TokenListener) -> list[OpenText]:
        task = self._task
        rows = task.begin(batch, on_token)
        deadline_s = find_deadline_s()
        return [
            OpenText(example, window, row, task.measure_work(example, [window]).cost_s, deadline_s)
            for example, window, row in zip(batch.examples, batch.windows, rows, strict=True)
        ]

    def advance(self) -> None:
        """Add a token to each text; those that take too long are ended."""
        now_s = time.monotonic()
        for text in self._texts:
            if now_s > text.deadline_s:
                text.row.fail(took_too_long(text.cost_s))
        self._decoder.step()
        self._texts = [text for text in self._texts if not text.ended]

    def remove(self, text: OpenText) -> None:
        """Forget a text that nobody waits for any more."""
        self._decoder.remove(text.row)
        self._texts = [each for each in self._texts if each is not text]

    def finish(self, text: OpenText) -> Answer | RequestError:
        """Return the answer of a text that has ended."""
        return text.row.error or self._task.finish(text.window, text.example, text.row)
