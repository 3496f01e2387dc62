"""Texts in bulk."""

import json

from bulk.outputs import ANNOTATIONS, Row
from bulk.steps import GroupStep, Input
from cluster.requests import JSON, WorkerRequest
from gateway.engine import Kind


class TextStep(GroupStep):
    """Answers, or explains, the texts of a group."""

    schema = ANNOTATIONS
    kinds = frozenset(
        {
            Kind.SEQUENCE_CLASSIFICATION,
            Kind.TOKEN_CLASSIFICATION,
            Kind.QUESTION_ANSWERING,
            Kind.TEXT_GENERATION,
        }
    )

    def read(self, given: Input) -> WorkerRequest:
        """Return the request of a table's row."""
        fields = json.loads(given["fields"])
        inputs = fields["text"] if fields.keys() == {"text"} else fields
        answers = self.job.answers
        body = {"inputs": inputs, "parameters": dict(answers.parameters)}
        headers = [("Content-Type", JSON), ("Accept", JSON), ("explain", str(answers.explain))]
        return WorkerRequest(headers, json.dumps(body).encode())

    def write(self, given: Input, content: bytes) -> Row:
        """Return the answer, which is JSON."""
        return {"answer": content.decode()}
