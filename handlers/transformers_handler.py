"""TorchServe handler for Hugging Face text models: the YAML's `mode` chooses the task."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.torch_handler.base_handler import BaseHandler

from device_io import (
    Parts,
    Row,
    answer_requests,
    choose_device,
    explanation_unsupported,
    limit_threads,
    read_settings,
    request_body,
    request_header,
    wants_explanation,
)
from text_attribution import attribute, build_baseline, describe, find_embeddings
from text_examples import Envelope, Example
from text_loading import CompileSettings, compile_model, load_text_model
from text_settings import TextSettings
from text_task import EVENT_STREAM, Target, UnderstandingTask
from text_tasks import find_task
from text_windows import EncodedBatch

Pair = tuple[torch.Tensor, torch.Tensor]
# How `huggingface_hub.InferenceClient` begins the name that it gives itself, after the library's.
HUB_CLIENT = "hf_hub/"


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
        compile_settings = read_settings(CompileSettings, config, "pt2.compile")
        self.setup_config = asdict(self.settings)
        limit_threads(self.settings.threads, config)
        self.context, self.manifest = context, context.manifest
        self.device = choose_device(context.system_properties.get("gpu_id"))
        self._load(Path(context.system_properties["model_dir"]), compile_settings)
        self.initialized = True

    def _load(self, folder: Path, compile_settings: CompileSettings) -> None:
        serialized_file = self.manifest["model"].get("serializedFile", "")
        loaded = load_text_model(folder, serialized_file, self.settings, self.device)
        self.tokenizer, self.mapping = loaded.tokenizer, loaded.labels
        self.model = compile_model(loaded.network, compile_settings)
        self.task = find_task(self.settings.mode)(
            replace(loaded, network=self.model), self.settings
        )
        if self.settings.captum_explanation and self.task.explains:
            # Explanations need the gradients of the embeddings, not of the weights.
            self._eager_model = loaded.network.requires_grad_(False)
            self._embeddings = find_embeddings(self._eager_model, self.settings.embedding_name)

    def handle(self, data: Sequence[Row], context: Any) -> list[Any]:
        """Return one answer for each row of the batch, in order, predictions and explanations."""
        return answer_requests(
            data, context, lambda index, row: self._parse(row, context, index), self._answer
        )

    def preprocess(self, requests: Sequence[Row]) -> EncodedBatch:
        """Return `(input_ids, attention_mask)` of the rows, each of shape (rows, tokens).

        A long text may be several rows. Raises `RequestError` for the first request that cannot be
        answered.
        """
        return self.task.encode([self._parse(row) for row in requests])

    def inference(self, batch: Pair) -> list[Any]:
        """Return the answer to each request of `(input_ids, attention_mask)`."""
        return self.task.answer(self._adopt(batch))

    def postprocess(self, answers: list[Any]) -> list[Any]:
        """Return the answers as they are: they are ready to be sent."""
        return answers

    def get_insights(
        self, input_batch: Pair, text: str | None, target: int | str | None
    ) -> list[dict[str, Any]]:
        """Return the explanation of a batch's only row, for a label or else the predicted one.

        Raises `RequestError` 422 for a target that does not exist.
        """
        if not isinstance(self.task, UnderstandingTask):
            raise explanation_unsupported()
        batch = self._adopt(input_batch)
        scored = self.task.score(batch)[0]
        inputs = batch.inputs(self.task.model.input_names, self.device)
        first = {name: each[:1, : len(scored.row)] for name, each in inputs.items()}
        special = [each is None for each in scored.row.pick(scored.row.tokens.sequences)]
        baseline = build_baseline(
            first["input_ids"], torch.tensor([special]), self.tokenizer.pad_token_id
        )
        explained = [
            (each, *self._attribute(first, baseline, each))
            for each in self.task.attribution_targets(target, batch.examples[0], scored)
        ]
        words = self.tokenizer.convert_ids_to_tokens(scored.row.pick(scored.row.tokens.ids))
        return [describe(words, explained)]

    def _attribute(
        self, inputs: dict[str, torch.Tensor], baseline: torch.Tensor, target: Target
    ) -> tuple[list[float], float]:
        n_steps = self.settings.n_steps
        return attribute(self._eager_model, self._embeddings, inputs, baseline, target, n_steps)

    def _adopt(self, batch: Pair) -> EncodedBatch:
        return batch if isinstance(batch, EncodedBatch) else self.task.adopt(*batch)

    def _parse(self, row: Row, context: Any = None, index: int = 0) -> Example:
        content_type = request_header(context, index, "content-type") or ""
        user_agent = request_header(context, index, "user-agent") or ""
        send = None
        if context is not None and context.request_ids:
            send = Parts(send_intermediate_predict_response, context, index, EVENT_STREAM).tell
        envelope = Envelope(
            declared_json=content_type.startswith("application/json"),
            explain=wants_explanation(context, index),
            hub_client=HUB_CLIENT in user_agent,
            send=send,
        )
        return self.task.parse(request_body(row), envelope)

    def _answer(self, examples: Sequence[Example]) -> list[Any]:
        plain = [example for example in examples if not example.envelope.explain]
        predictions = iter(self._predict(plain) if plain else [])
        return [
            self._explain(example) if example.envelope.explain else next(predictions)
            for example in examples
        ]

    def _predict(self, examples: Sequence[Example]) -> list[Any]:
        return self.postprocess(self.inference(self.task.encode(examples)))

    def _explain(self, example: Example) -> dict[str, Any]:
        return self.get_insights(self.task.encode([example]), example.text, example.target)[0]
