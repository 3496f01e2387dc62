"""What the tasks share whose model reads each window once and adds nothing to it."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

import torch

from speechtext.errors import RequestError
from speechtext.measurements import stage
from speechtext.text.base import Answer, TextTask, TokenListener
from speechtext.text.explanation.targets import Target
from speechtext.text.payloads import Example
from speechtext.text.windows import EncodedBatch, Scored, pick_row, run_heads, score_windows


class UnderstandingTask(TextTask):
    """A task whose model reads each window once."""

    single_call = True

    # Whether the model says something about each token.
    per_token: ClassVar[bool] = False

    def answer(self, batch: EncodedBatch, on_token: TokenListener | None = None) -> list[Answer]:
        """Return the answer to each example of a batch, whole."""
        scored = list(self._score_examples(batch))
        with stage("decode"):
            return [
                Answer(
                    self.decode(example, windows),
                    tokens_in=batch.count_tokens(owner),
                    dropped_tokens=windows[0].window.dropped_tokens,
                )
                for owner, (example, windows) in enumerate(scored)
            ]

    def _score_examples(self, batch: EncodedBatch) -> Iterator[tuple[Example, list[Scored]]]:
        """Return each example with what the model says about its windows."""
        owned: list[list[Scored]] = [[] for _ in batch.examples]
        for each in self.score(batch):
            owned[each.window.owner].append(each)
        return zip(batch.examples, owned, strict=True)

    @torch.inference_mode()
    def score(self, batch: EncodedBatch) -> list[Scored]:
        """Return what the model says about each window."""
        return score_windows(
            self.model.network,
            batch,
            self.model.input_names,
            self.model.device,
            self.settings.max_batch_tokens,
            self.per_token,
            self.pads,
        )

    @torch.inference_mode()
    def compute_together(self, examples: Sequence[Example]) -> list[torch.Tensor]:
        """Return what the first head says of the first window of each example."""
        batch = self.encode(examples)
        heads = run_heads(
            self.model.network, batch.inputs(self.model.input_names, self.model.device)
        )
        owners = [window.owner for window in batch.windows]
        rows = [owners.index(owner) for owner in range(len(examples))]
        return [pick_row(heads, row, len(batch.windows[row]), self.per_token)[0] for row in rows]

    @abstractmethod
    def decode(self, example: Example, scored: Sequence[Scored]) -> Any:
        """Return the answer to an example, of which the model scored these windows."""

    def find_targets(self, batch: EncodedBatch) -> list[list[Target] | RequestError]:
        """Return what to explain of each example of a batch, or why that cannot be."""
        return [
            self.try_targets(partial(self.choose_targets, example, scored))
            for example, scored in self._score_examples(batch)
        ]

    @abstractmethod
    def choose_targets(self, example: Example, scored: Sequence[Scored]) -> list[Target]:
        """Return what to explain of an example: what it asks for, else what the model answers."""
