"""TorchServe handler for Hugging Face text models: the YAML's `mode` chooses the task."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.torch_handler.base_handler import BaseHandler

from batches import Parts, answer_requests
from device_io import Row, preferred_media_type, request_body, request_header, wants_explanation
from load_errors import check_files_and_explain
from speechtext.devices import choose_device, limit_threads
from speechtext.errors import RequestError
from speechtext.host_memory import keep_loaded
from speechtext.settings import read_settings
from speechtext.text.base import EVENT_STREAM
from speechtext.text.explanation.explainer import Explainer, choose_network
from speechtext.text.explanation.pages import PICTURES
from speechtext.text.loading import CompileSettings, compile_model, load_network, load_text_model
from speechtext.text.payloads import Envelope, Example
from speechtext.text.settings import TextSettings
from speechtext.text.tasks import find_task
from speechtext.text.windows import EncodedBatch

Pair = tuple[torch.Tensor, torch.Tensor]
# How `huggingface_hub.InferenceClient` begins the name that it gives itself, after the library's.
HUB_CLIENT = "hf_hub/"
EXPLANATION_MEDIA_TYPES = ("application/json", *PICTURES)


class TransformersSeqClassifierHandler(BaseHandler):  # type: ignore[misc]
    """Answers and explains with a Hugging Face text model."""

    def __init__(self) -> None:
        super().__init__()
        self.initialized = False
        self.setup_config: dict[str, Any] = {}
        self.model: Any = None

    @check_files_and_explain("config.json")
    def initialize(self, context: Any) -> None:
        """Load the tokenizer, the model and its labels from the archive.

        Raises `LoadError`, which stops the load, for a mistake in the YAML or a missing file.
        """
        config = context.model_yaml_config
        self.settings = read_settings(TextSettings, config, "handler")
        compile_settings = read_settings(CompileSettings, config, "pt2.compile")
        self.setup_config = asdict(self.settings)
        limit_threads(self.settings.threads, config)
        self.context, self.manifest = context, context.manifest
        self.device = choose_device(context.system_properties.get("gpu_id"))
        self._load(Path(context.system_properties["model_dir"]), compile_settings)
        keep_loaded()
        self.initialized = True

    def _load(self, folder: Path, compile_settings: CompileSettings) -> None:
        serialized_file = self.manifest["model"].get("serializedFile", "")
        loaded = load_text_model(folder, serialized_file, self.settings, self.device)
        self.tokenizer, self.mapping = loaded.tokenizer, loaded.labels
        self.model = compile_model(loaded.network, compile_settings)
        self.task = find_task(self.settings.mode)(
            replace(loaded, network=self.model), self.settings
        )
        if self.settings.captum_explanation:
            exact = partial(load_network, folder, loaded.tokenizer, self.settings, self.device)
            network = choose_network(
                self.task, loaded.network, self.settings, partial(exact, "float32")
            )
            self._explainer = Explainer(self.task, network, self.settings)

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
        """Return the explanation of each request of a batch, for a target or else what it predicts.

        Raises `RequestError` 422 for a target that does not exist.
        """
        batch = self._adopt(input_batch)
        explanation = self.task.explanation({})
        batch.examples = [
            replace(each, target=target, explanation=each.explanation or explanation)
            for each in batch.examples
        ]
        explained = self._explainer.explain(batch)
        for each in explained:
            if isinstance(each, RequestError):
                raise each
        return explained

    def _adopt(self, batch: Pair) -> EncodedBatch:
        return batch if isinstance(batch, EncodedBatch) else self.task.adopt(*batch)

    def _parse(self, row: Row, context: Any = None, index: int = 0) -> Example:
        content_type = request_header(context, index, "content-type") or ""
        user_agent = request_header(context, index, "user-agent") or ""
        send = None
        if context is not None and context.request_ids:
            send = Parts(send_intermediate_predict_response, context, index, EVENT_STREAM).tell
        envelope = Envelope(
            place=index,
            declared_json=content_type.startswith("application/json"),
            explain=wants_explanation(context, index),
            hub_client=HUB_CLIENT in user_agent,
            send=send,
            media_type=preferred_media_type(
                request_header(context, index, "accept") or "", EXPLANATION_MEDIA_TYPES
            ),
        )
        return self.task.parse(request_body(row), envelope)

    def _answer(self, examples: Sequence[Example]) -> list[Any]:
        plain = [each for each in examples if not each.envelope.explain]
        asked = [each for each in examples if each.envelope.explain]
        predictions = iter(self._predict(plain) if plain else [])
        explanations = iter(self._explainer.explain(self.task.encode(asked)) if asked else [])
        return [next(explanations if each.envelope.explain else predictions) for each in examples]

    def _predict(self, examples: Sequence[Example]) -> list[Any]:
        return self.postprocess(self.inference(self.task.encode(examples)))
