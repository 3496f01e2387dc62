"""TorchServe handler for Hugging Face text models: the YAML's `mode` chooses the task."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from batches import answer_requests
from continuous_batching import goes_on, make_continuous_batching
from device_io import Row, prepare_worker
from load_errors import check_files_and_explain
from speechtext.errors import RequestError
from speechtext.host_memory import keep_loaded
from speechtext.settings import read_settings
from speechtext.text.loading import CompileSettings
from speechtext.text.predictor import TextPredictor
from speechtext.text.settings import TextSettings
from speechtext.text.windows import EncodedBatch
from text_requests import (
    EncodedPair,
    Pair,
    TextRequest,
    answer_by_kind,
    describe_predictor,
    read_request,
    send_token,
    write_answer,
    write_explanation,
)
from torchserve_base import BaseHandler


class TransformersSeqClassifierHandler(BaseHandler):  # type: ignore[misc]
    """Answers and explains with a Hugging Face text model."""

    def __init__(self) -> None:
        super().__init__()
        self.initialized = False
        self.setup_config: dict[str, Any] = {}
        self.model: Any = None
        self._description: dict[str, Any] = {}

    @check_files_and_explain("config.json")
    def initialize(self, context: Any) -> None:
        """Load the tokenizer, the model and its labels from the archive.

        Raises `LoadError`, which stops the load, for a mistake in the YAML or a missing file.
        """
        config = context.model_yaml_config
        settings = read_settings(TextSettings, config, "handler")
        compile_settings = read_settings(CompileSettings, config, "pt2.compile")
        self.setup_config = asdict(settings)
        self.context, self.manifest = context, context.manifest
        folder, self.device = prepare_worker(context, settings.threads)
        file = self.manifest["model"].get("serializedFile", "")
        self.predictor = TextPredictor.load(folder, settings, self.device, compile_settings, file)
        loaded = self.predictor.task.model
        self.model, self.tokenizer, self.mapping = loaded.network, loaded.tokenizer, loaded.labels
        self._description = describe_predictor(self.predictor, settings)
        self._continuous = make_continuous_batching(self.predictor, self._explain, config or {})
        keep_loaded()
        self.initialized = True

    def handle(self, data: Sequence[Row], context: Any) -> list[Any]:
        """Return the answer to each row, in order, or what is sent of it now."""

        def parse(index: int, row: Row) -> TextRequest:
            return read_request(self.predictor, row, context, index)

        if self._continuous and goes_on(context):
            return self._continuous.answer(data, context, parse, self._description)
        return answer_requests(data, context, parse, self._answer, self._description)

    def preprocess(self, requests: Sequence[Row]) -> Pair:
        """Return `(input_ids, attention_mask)` of the rows, each of shape (windows, tokens).

        A long text may be several windows. Raises `RequestError` for the first request that cannot
        be answered.
        """
        examples = [read_request(self.predictor, row).example for row in requests]
        return EncodedPair(self.predictor.task.encode(examples))

    def inference(self, batch: Pair) -> list[Any]:
        """Return the answer to each request of `(input_ids, attention_mask)`."""
        return [each.content for each in self.predictor.task.answer(self._adopt(batch))]

    def postprocess(self, answers: list[Any]) -> list[Any]:
        """Return the answers as they are: they are ready to be sent."""
        return answers

    def get_insights(
        self, input_batch: Pair, text: str | None, target: int | str | None
    ) -> list[dict[str, Any]]:
        """Return the explanation of each request of a batch, for a target or else what it predicts.

        Raises `RequestError` for a target that does not exist.
        """
        batch, task = self._adopt(input_batch), self.predictor.task
        how = task.explanation({})
        asked = [
            replace(each, target=task.read_target(target), explanation=each.explanation or how)
            for each in batch.examples
        ]
        contents = []
        for each in self.predictor.explain_batch(replace(batch, examples=asked)):
            if isinstance(each, RequestError):
                raise each
            contents.append(each.content())
        return contents

    def _adopt(self, batch: Pair) -> EncodedBatch:
        return batch.batch if isinstance(batch, EncodedPair) else self.predictor.task.adopt(*batch)

    def _answer(self, requests: Sequence[TextRequest]) -> list[Any]:
        return answer_by_kind(requests, self._predict, self._explain)

    def _predict(self, requests: Sequence[TextRequest]) -> list[Any]:
        examples = [request.example for request in requests]
        found = self.predictor.answer(examples, partial(send_token, requests))
        return self.postprocess(list(map(write_answer, requests, found)))

    def _explain(self, requests: Sequence[TextRequest]) -> list[Any]:
        found = self.predictor.explain([request.example for request in requests])
        return list(map(write_explanation, requests, found))
