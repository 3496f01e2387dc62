"""A text model that answers and explains, whatever its task."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch

from speechtext.devices import CPU
from speechtext.errors import RequestError
from speechtext.text.base import Answer, TextTask, TokenListener
from speechtext.text.explanation.explainer import Explainer, choose_network
from speechtext.text.explanation.explanation import Explanation
from speechtext.text.loading import (
    MODEL_FILE,
    CompileSettings,
    compile_model,
    load_network,
    load_text_model,
)
from speechtext.text.payloads import Example
from speechtext.text.settings import TextSettings
from speechtext.text.tasks import find_task
from speechtext.text.windows import EncodedBatch


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
        """Return the predictor of a folder with a model, its tokenizer and its labels.

        `file` is the TorchScript file where the settings say so. Raises `ValueError` with one
        sentence for what does not fit together.
        """
        settings, folder = settings or TextSettings(), Path(folder)
        loaded = load_text_model(folder, file, settings, device)
        network = compile_model(loaded.network, compile_settings or CompileSettings())
        task = find_task(settings.mode)(replace(loaded, network=network), settings)
        if not settings.captum_explanation:
            return cls(task, None)
        exact = partial(load_network, folder, loaded.tokenizer, settings, device, "float32")
        explained = choose_network(task, loaded.network, settings, exact)
        return cls(task, Explainer(task, explained, settings))

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
    ) -> list[Answer]:
        """Return the answer to each example; raises `RequestError` for one that has none.

        `on_token` gets each token of the examples that ask for a stream, as it is made.
        """
        return self.task.answer(self.task.encode(examples), on_token)

    def explain(self, examples: Sequence[Example]) -> list[Explanation | RequestError]:
        """Return the explanation of each example, or why there is none."""
        return self.explain_batch(self.task.encode(examples))

    def explain_batch(self, batch: EncodedBatch) -> list[Explanation | RequestError]:
        """Return the explanation of each example of a batch, or why there is none."""
        if self._explainer is None:
            raise ValueError("Expected captum_explanation: true in the settings of the model.")
        return self._explainer.explain(batch)
