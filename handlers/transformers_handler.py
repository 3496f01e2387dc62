"""TorchServe handler for Hugging Face text models: the YAML's `mode` chooses the task."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from ts.torch_handler.base_handler import BaseHandler

from device_io import (
    Row,
    answer_requests,
    choose_device,
    limit_threads,
    read_settings,
    request_body,
    request_header,
    wants_explanation,
)
from text_attribution import attribute, build_baseline, describe, find_embeddings
from text_loading import CompileSettings, compile_model, load_labels, load_model, load_tokenizer
from text_tasks import TASKS, EncodedBatch, Example, Target, TextSettings

logger = logging.getLogger(__name__)

Pair = tuple[torch.Tensor, torch.Tensor]


class TransformersSeqClassifierHandler(BaseHandler):  # type: ignore[misc]
    """Answers and explains with a Hugging Face text model."""

    def __init__(self) -> None:
        super().__init__()
        self.initialized = False
        self.setup_config: dict[str, Any] = {}
        self.model: Any = None

    def initialize(self, context: Any) -> None:
        """Load the tokenizer, the model and its labels from the archive.

        Raises `ValueError` or `OSError`, which stop the load, for a mistake in the YAML or a
        missing file.
        """
        config = context.model_yaml_config
        self.settings = read_settings(TextSettings, config, "handler")
        self.setup_config = asdict(self.settings)
        limit_threads(self.settings.threads, config)
        self.context, self.manifest = context, context.manifest
        self.device = choose_device(context.system_properties.get("gpu_id"))
        self._load(Path(context.system_properties["model_dir"]))
        compile_settings = read_settings(CompileSettings, config, "pt2.compile")
        self.model = compile_model(self.model, compile_settings)
        self.initialized = True

    def _load(self, folder: Path) -> None:
        if self.settings.BetterTransformer:
            logger.warning("BetterTransformer is deprecated: fused attention is always on.")
        self.tokenizer = load_tokenizer(folder, self.settings)
        serialized_file = self.manifest["model"].get("serializedFile", "")
        self.model = load_model(folder, serialized_file, self.settings, self.device)
        self.mapping = load_labels(folder, self.model)
        self.task = TASKS[self.settings.mode](self.tokenizer, self.settings, self.mapping)
        if self.settings.captum_explanation and self.task.explains:
            # Explanations need the gradients of the embeddings, not of the weights.
            self._eager_model = self.model.requires_grad_(False)
            self._embeddings = find_embeddings(self.model, self.settings.embedding_name)

    def handle(self, data: Sequence[Row], context: Any) -> list[Any]:
        """Return one answer for each row of the batch, in order, predictions and explanations."""
        return answer_requests(
            data, context, lambda index, row: self._parse(row, context, index), self._answer
        )

    def preprocess(self, requests: Sequence[Row]) -> EncodedBatch:
        """Return `(input_ids, attention_mask)` of the rows, each of shape (rows, tokens).

        Raises `RequestError` for the first row that cannot be answered.
        """
        return self.task.encode([self._parse(row) for row in requests])

    @torch.inference_mode()
    def inference(self, batch: Pair) -> list[Any]:
        """Return the plain answer of each row of `(input_ids, attention_mask)`."""
        encoded = self._adopt(batch)
        return self.task.decode(self.task.run(self.model, encoded, self.device), encoded)

    def postprocess(self, answers: list[Any]) -> list[Any]:
        """Return the answers as they are: they are plain already."""
        return answers

    def get_insights(
        self, input_batch: Pair, text: str | None, target: int | str | None
    ) -> list[dict[str, Any]]:
        """Return the explanation of a batch's only row, for a label or else the predicted one.

        Raises `RequestError` 422 for a target that does not exist.
        """
        encoded = self._adopt(input_batch)
        with torch.inference_mode():
            heads = self.task.run(self.model, encoded, self.device)
        inputs = encoded.inputs(self.device)
        baseline = build_baseline(inputs[0], self.task.boundary_ids(), self.tokenizer.pad_token_id)
        explained = [
            (each, *self._attribute(inputs, baseline, each))
            for each in self.task.attribution_targets(target, heads, encoded)
        ]
        return [describe(self.tokenizer.convert_ids_to_tokens(inputs[0][0].tolist()), explained)]

    def _attribute(
        self, inputs: tuple[torch.Tensor, ...], baseline: torch.Tensor, target: Target
    ) -> tuple[list[float], float]:
        n_steps = self.settings.n_steps
        return attribute(self._eager_model, self._embeddings, inputs, baseline, target, n_steps)

    def _adopt(self, batch: Pair) -> EncodedBatch:
        return batch if isinstance(batch, EncodedBatch) else self.task.adopt(*batch)

    def _parse(self, row: Row, context: Any = None, index: int = 0) -> Example:
        content_type = request_header(context, index, "content-type") or ""
        return self.task.parse(
            request_body(row),
            declared_json=content_type.startswith("application/json"),
            explain=wants_explanation(context, index),
        )

    def _answer(self, examples: Sequence[Example]) -> list[Any]:
        plain = [example for example in examples if not example.explain]
        predictions = iter(self._predict(plain) if plain else [])
        return [
            self._explain(example) if example.explain else next(predictions) for example in examples
        ]

    def _predict(self, examples: Sequence[Example]) -> list[Any]:
        return self.postprocess(self.inference(self.task.encode(examples)))

    def _explain(self, example: Example) -> dict[str, Any]:
        return self.get_insights(self.task.encode([example]), example.text, example.target)[0]
