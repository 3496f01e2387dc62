"""A text model that answers and explains, whatever its task."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch

from speechtext.allowance import run_admitted
from speechtext.devices import CPU
from speechtext.errors import RequestError
from speechtext.text.base import Answer, TextTask, TokenListener
from speechtext.text.explanation.explainer import Explainer, choose_network
from speechtext.text.explanation.explanation import Explanation
from speechtext.text.loading import (
    MODEL_FILE,
    CompileSettings,
    load_exact,
    load_text_model,
    speed_up,
)
from speechtext.text.payloads import Example
from speechtext.text.sampling import TokenEvent
from speechtext.text.settings import TextSettings
from speechtext.text.tasks import find_task
from speechtext.text.trial import find_tolerances, try_explainer, try_task
from speechtext.text.windows import EncodedBatch

logger = logging.getLogger(__name__)

# Gets a batch, and which of the examples it holds.
Runner = Callable[[EncodedBatch, Sequence[int]], Sequence[Any]]


class TextPredictor:
    """Answers and explains with a Hugging Face text model; the settings' `mode` is its task."""

    def __init__(self, task: TextTask, explainer: Explainer | None) -> None:
        self.task = task
        self._explainer = explainer

    @classmethod
    def load(
        cls,
        folder: str | Path,
        settings: TextSettings | None = None,
        device: torch.device = CPU,
        compile_settings: CompileSettings | None = None,
        file: str = MODEL_FILE,
    ) -> Self:
        """Return the predictor of a folder with a model, its tokenizer and its labels, tried.

        `file` is the TorchScript file where the settings say so. Raises `ValueError` with one
        sentence for what does not fit together.
        """
        settings, folder = settings or TextSettings(), Path(folder)
        loaded = load_text_model(folder, file, settings, device)
        compiling = compile_settings or CompileSettings()
        network = speed_up(loaded.network, compiling, device)
        task = find_task(settings.mode)(replace(loaded, network=network), settings)
        task.costs = try_task(task)
        task.pads, task.takes_turns = find_tolerances(task)
        if not task.pads:
            logger.warning(
                "Padding changes this model's answers: only texts of equal length are batched "
                "together."
            )
        if not task.takes_turns:
            logger.warning(
                "Texts are continued one after another: this model keeps what it has read in "
                "itself, not in a cache of each text."
            )
        if not settings.captum_explanation:
            return cls(task, None)
        exact = partial(load_exact, folder, loaded.tokenizer, settings, device)
        explained = choose_network(task, loaded.network, settings, exact)
        explainer = Explainer(task, explained, settings)
        explainer.step_s = try_explainer(task, explainer)
        return cls(task, explainer)

    def read(
        self, payload: str | Mapping[str, Any], explain: bool = False, hub_client: bool = False
    ) -> Example:
        """Return the example of a text or of an object's fields; raises `RequestError`.

        Objects are those of the plain form, `{"text": ...}` or `{"question": ..., "context": ...}`,
        or of Hugging Face, `{"inputs": ..., "parameters": {...}}`.
        """
        return self.task.read(payload, explain, hub_client)

    def answer(
        self, examples: Sequence[Example], on_token: TokenListener | None = None
    ) -> list[Answer | RequestError]:
        """Return the answer to each example, or why there is none.

        `on_token` gets each token of the examples that ask for a stream, as it is made.
        """

        def answer(batch: EncodedBatch, kept: Sequence[int]) -> list[Answer]:
            def tell(owner: int, event: TokenEvent) -> None:
                if on_token is not None:
                    on_token(kept[owner], event)

            return self.task.answer(batch, tell)

        return self.run(examples, answer)

    def explain(self, examples: Sequence[Example]) -> list[Explanation | RequestError]:
        """Return the explanation of each example, or why there is none."""
        return self.run(examples, lambda batch, _: self.explain_batch(batch))

    def explain_batch(self, batch: EncodedBatch) -> list[Explanation | RequestError]:
        """Return the explanation of each example of a batch, or why there is none."""
        if self._explainer is None:
            raise ValueError("Expected captum_explanation: true in the settings of the model.")
        return self._explainer.explain(batch)

    def run(self, examples: Sequence[Example], run: Runner) -> list[Any]:
        """Return what `run` makes of the examples, or why there is nothing.

        It gets those that have windows and are not too much work.
        """
        task = self.task
        found = run_admitted(task.cut_all, examples, list(map(task.measure_reading, examples)))
        kept = [i for i, each in enumerate(found) if not isinstance(each, RequestError)]
        works = [task.measure_work(examples[index], found[index]) for index in kept]

        def run_kept(kept: Sequence[int]) -> Sequence[Any]:
            batch = task.join([examples[each] for each in kept], [found[each] for each in kept])
            return run(batch, kept)

        for index, outcome in zip(kept, run_admitted(run_kept, kept, works), strict=True):
            found[index] = outcome
        return found
