"""Explains a text model's answers: several texts in one call, each as far as it asks for."""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from device_io import Answer
from speechtext.batching import plan_groups
from speechtext.errors import RequestError
from speechtext.measurements import note_gauge, note_size, stage
from speechtext.text.base import TextTask
from speechtext.text.explanation.attribution import (
    METHODS,
    Attribution,
    Question,
    find_embeddings,
    value_of,
)
from speechtext.text.explanation.pages import PICTURES, View
from speechtext.text.explanation.targets import (
    Explained,
    ExplanationParameters,
    Target,
    describe_pieces,
    sum_pieces,
    token_pieces,
    word_pieces,
)
from speechtext.text.payloads import Example
from speechtext.text.settings import TextSettings
from speechtext.text.tokens import Row, adopt_tokens
from speechtext.text.windows import EncodedBatch, pad_rows

logger = logging.getLogger(__name__)

# Tokens in the model at once: each step of an integral is a row of its own.
CPU_TOKENS, GPU_TOKENS = 1024, 65_536
# The share of a text's words that count most, for the metrics of an explanation.
TOP_WORDS = 0.2
# How alike attributions in bfloat16 must be to those in float32, on a row of so many tokens.
LEAST_COSINE, PROBE_TOKENS, PROBE_STEPS = 0.995, 16, 20


class Job(NamedTuple):
    """A target of one of the examples."""

    owner: int
    target: Target


class Explainer:
    """Explains what a task's model answers; the model itself stays as it is.

    `network` is that of the task, or its copy in float32.
    """

    def __init__(self, task: TextTask, network: Any, settings: TextSettings) -> None:
        self._task = task
        self._settings = settings
        # Explanations need the gradients of the embeddings, not of the weights.
        self._network = network.requires_grad_(False)
        self._embeddings = find_embeddings(network, settings.embedding_name)
        self._others = [name for name in task.model.input_names if name != "input_ids"]
        self._value = value_of(network, self._others)

    def explain(self, batch: EncodedBatch) -> list[Any]:
        """Return the explanation of each example of a batch, or the error of one without."""
        targets = self._task.find_targets(batch)
        jobs = [
            Job(owner, target)
            for owner, each in enumerate(targets)
            if not isinstance(each, RequestError)
            for target in each
        ]
        explained: list[list[Explained]] = [[] for _ in targets]
        for job, found in zip(jobs, self._explain_jobs(batch.examples, jobs), strict=True):
            explained[job.owner].append(found)
        return [
            each
            if isinstance(each, RequestError)
            else self._describe(batch, owner, explained[owner])
            for owner, each in enumerate(targets)
        ]

    def _explain_jobs(self, examples: Sequence[Example], jobs: Sequence[Job]) -> list[Explained]:
        """Explain the targets of like length and of the same method together."""
        found: dict[int, Explained] = {}
        asked = [(examples[job.owner].explanation, job.target) for job in jobs]
        for parameters in dict.fromkeys(each for each, _ in asked):
            same = [index for index, (each, _) in enumerate(asked) if each == parameters]
            lengths = [len(asked[index][1].row) for index in same]
            for group in plan_groups(lengths, self._most_tokens, call_tokens=0):
                indices = [same[place] for place in group]
                targets = [jobs[index].target for index in indices]
                found.update(zip(indices, self._attribute(parameters, targets), strict=True))
        return [found[index] for index in range(len(jobs))]

    @property
    def _most_tokens(self) -> int:
        on_cpu = self._task.model.device.type == "cpu"
        return self._settings.max_batch_tokens or (CPU_TOKENS if on_cpu else GPU_TOKENS)

    def _attribute(
        self, parameters: ExplanationParameters, targets: Sequence[Target]
    ) -> list[Explained]:
        question = self._ask(targets)
        pending, n_steps = list(range(len(targets))), parameters.n_steps
        found: dict[int, Explained] = {}
        while pending:
            given = self._run(parameters.method, question.pick(pending), n_steps)
            most = self._settings.max_explanation_steps
            unsure = []
            for place, index in enumerate(pending):
                delta, change = float(given.deltas[place]), float(given.changes[place])
                width = len(targets[index].row)
                importances = given.importances[place, :width].tolist()
                found[index] = Explained(targets[index], importances, delta, given.n_steps)
                allowed = abs(change) * (parameters.tolerance or 1)
                if parameters.tolerance and abs(delta) > allowed and given.n_steps == n_steps:
                    unsure.append(index)
            pending = unsure if n_steps < most else []
            n_steps = min(most, n_steps * 2)
        results = [found[index] for index in range(len(targets))]
        if not parameters.metrics:
            return results
        return [each._replace(metrics=self._measure(each)) for each in results]

    def _run(self, method: str, question: Question, n_steps: int) -> Attribution:
        most_rows = max(1, self._most_tokens // question.input_ids.shape[1])
        with self._attention(), stage("attribution"):
            return METHODS[method](self._value, self._embeddings, question, n_steps, most_rows)

    def _attention(self) -> AbstractContextManager[None]:
        """Return which attention to use: not the fused one in bfloat16 on a CPU.

        Its gradient is slow there: BERT-base, 16 tokens, 50 steps on an Intel Xeon take 1.2 s with
        it and 0.85 s without; in float32 2.3 and 2.7 s.
        """
        weight = next(self._network.parameters())
        if weight.device.type == "cpu" and weight.dtype != torch.float32:
            kernel: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
            return kernel
        return nullcontext()

    def _ask(self, targets: Sequence[Target]) -> Question:
        """Return the rows of targets as tensors, padded to the longest."""
        device, pad_id = self._task.model.device, self._task.tokenizer.pad_token_id
        rows = [target.row for target in targets]
        batch = EncodedBatch(rows, [], pad_id, "right")
        explained = pad_rows([target.explained for target in targets], False).to(device)
        input_ids = batch[0].to(device)
        return Question(
            input_ids,
            torch.where(explained, pad_id, input_ids),
            pad_rows([_number_words(row) for row in rows], 0).to(device),
            batch.inputs(self._others, device),
            torch.tensor([target.head for target in targets], device=device),
            torch.tensor([target.place for target in targets], device=device),
        )

    @torch.inference_mode()
    def _measure(self, explained: Explained) -> dict[str, float]:
        """Return what the words that count most do by themselves.

        DeYoung et al. 2020, "ERASER", of the number itself: what it loses without these words, and
        what it lacks with no others.
        """
        question, row = self._ask([explained.target]), explained.target.row
        pieces = word_pieces(row, [""] * len(row), ["", ""])
        sums = sum_pieces(explained.importances, pieces)
        count = max(1, round(TOP_WORDS * len(pieces)))
        order = sorted(range(len(pieces)), key=lambda each: -sums[each])[:count]
        top = torch.zeros_like(question.input_ids, dtype=torch.bool)
        top[0, [place for each in order for place in pieces[each].places]] = True
        whole, without, alone = (
            float(self._value(input_ids, *question.arguments()))
            for input_ids in (
                question.input_ids,
                torch.where(top, question.baseline, question.input_ids),
                torch.where(top, question.input_ids, question.baseline),
            )
        )
        return {"comprehensiveness": whole - without, "sufficiency": whole - alone}

    def _describe(self, batch: EncodedBatch, owner: int, explained: Sequence[Explained]) -> Any:
        """Return the answer: the words of the text and what each adds to each target, or a picture.

        A picture is always of words.
        """
        example = batch.examples[owner]
        note_size(
            example.envelope.place, "explanation_steps", sum(each.n_steps for each in explained)
        )
        note_gauge("ExplanationDelta", max((abs(each.delta) for each in explained), default=0.0))
        parameters: ExplanationParameters = example.explanation
        own = next(row for row in batch.rows if row.owner == owner)
        row = explained[0].target.row if explained else own
        if explained and explained[0].target.shown is not None:
            row = replace(row, places=row.places[: explained[0].target.shown])
        names = self._task.tokenizer.convert_ids_to_tokens(row.pick(row.tokens.ids))
        texts = [example.text] if example.second is None else [example.text, example.second]
        draw = PICTURES.get(example.envelope.media_type)
        by_word = draw or parameters.granularity == "word"
        pieces = word_pieces(row, names, texts) if by_word else token_pieces(row, names)
        summed = [
            each._replace(importances=sum_pieces(each.importances, pieces)) for each in explained
        ]
        if draw:
            view = View(texts, pieces, summed, parameters.method, self._task.as_matrix)
            return Answer(draw(view), example.envelope.media_type)
        answer = dict(describe_pieces(pieces, parameters.granularity))
        return answer | self._task.describe(example, summed) | {"method": parameters.method}


def _number_words(row: Row) -> list[int]:
    """Return a number for each token that the tokens of a word have in common."""
    numbers = [-1 - place for place in range(len(row))]
    names = [""] * len(row)
    for number, piece in enumerate(word_pieces(row, names, ["", ""])):
        for place in piece.places:
            numbers[place] = number
    return numbers


def choose_network(
    task: TextTask, network: Any, settings: TextSettings, load_float32: Callable[[], Any]
) -> Any:
    """Return the network whose attributions are right: the task's own, or its copy in float32.

    In bfloat16 they are faster, and stay so where they point the same way as in float32.
    """
    if next(network.parameters()).dtype == torch.float32:
        return network
    exact = load_float32()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(len(task.tokenizer), (1, PROBE_TOKENS), generator=generator)
    fast, right = (_probe(task, settings, each, ids) for each in (network, exact))
    cosine = float(torch.cosine_similarity(fast, right, dim=0))
    if cosine >= LEAST_COSINE:
        return network
    logger.warning("Explanations are computed in float32: bfloat16 has a cosine of %.4f.", cosine)
    return exact


def _probe(task: TextTask, settings: TextSettings, network: Any, ids: torch.Tensor) -> torch.Tensor:
    explainer = Explainer(task, network, settings)
    tokens = adopt_tokens(ids[0].tolist(), (), None)
    row = Row(tokens, range(PROBE_TOKENS), 0)
    target = Target(row, 0, 0, "", [True] * PROBE_TOKENS)
    (found,) = explainer._attribute(ExplanationParameters(n_steps=PROBE_STEPS), [target])
    return torch.tensor(found.importances)
