"""Explains a text model's answers: several texts in one call, each as far as it asks for."""

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from speechtext.allowance import Work, admit, spend
from speechtext.batching import plan_groups
from speechtext.errors import RequestError
from speechtext.failures import run_smaller
from speechtext.finite import check_finite
from speechtext.measurements import stage
from speechtext.text.base import TextTask
from speechtext.text.explanation.attribution import (
    METHODS,
    RUNS,
    Attribution,
    Question,
    value_of_masked,
)
from speechtext.text.explanation.embeddings import find_embeddings
from speechtext.text.explanation.explanation import Explanation
from speechtext.text.explanation.targets import (
    Explained,
    ExplanationParameters,
    Target,
    sum_spans,
    token_spans,
    word_spans,
)
from speechtext.text.payloads import Example
from speechtext.text.settings import TextSettings
from speechtext.text.tokens import Window, adopt_tokens
from speechtext.text.windows import EncodedBatch, pad_batch, pad_rows

logger = logging.getLogger(__name__)

# Tokens in the model at once: each step of an integral is a row of its own.
CPU_TOKENS, GPU_TOKENS = 1024, 65_536
# The share of a text's words that count most, for the metrics of an explanation.
TOP_WORDS = 0.2
# What an explanation runs beside its steps, for its convergence delta and its metrics, as steps.
FURTHER_STEPS = 3
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
        self._value = task.value_of(network, self._others)
        # The seconds that a token takes in a step, once that is measured.
        self.step_s = 0.0

    def explain(self, batch: EncodedBatch) -> list[Explanation | RequestError]:
        """Return the explanation of each example of a batch, or the error of one without."""
        targets = self._admit(batch.examples, self._task.find_targets(batch))
        jobs = [
            Job(owner, target)
            for owner, each in enumerate(targets)
            if not isinstance(each, RequestError)
            for target in each
        ]
        explained: list[list[Explained]] = [[] for _ in targets]
        for job, found in zip(jobs, self._explain_jobs(batch.examples, jobs), strict=True):
            numbers = [*found.importances, found.delta, *found.metrics.values()]
            check_finite(torch.tensor(numbers).abs())
            explained[job.owner].append(found)
        return [
            each if isinstance(each, RequestError) else self._gather(batch, owner, explained[owner])
            for owner, each in enumerate(targets)
        ]

    def _admit(
        self, examples: Sequence[Example], found: Sequence[list[Target] | RequestError]
    ) -> list[list[Target] | RequestError]:
        """Return the targets of each example whose explanation is not too much work."""
        works = [
            self._measure_work(example.explanation, [] if isinstance(each, RequestError) else each)
            for example, each in zip(examples, found, strict=True)
        ]
        return [refusal or each for refusal, each in zip(admit(works), found, strict=True)]

    def _measure_work(self, parameters: ExplanationParameters, targets: Sequence[Target]) -> Work:
        steps = max((round(count_runs(parameters, [each])) for each in targets), default=0)
        tokens = sum(len(each.window) for each in targets)
        unit = f"steps to explain {len(targets)} targets of {tokens} tokens together"
        return Work(steps, unit, count_tokens(parameters, targets) * self.step_s)

    def _explain_jobs(self, examples: Sequence[Example], jobs: Sequence[Job]) -> list[Explained]:
        """Explain the targets of texts together that have as many, and are asked for alike."""
        alike: dict[tuple[ExplanationParameters, int], list[list[int]]] = defaultdict(list)
        for text in find_texts([job.target for job in jobs]):
            alike[examples[jobs[text[0]].owner].explanation, len(text)].append(text)
        found: dict[int, Explained] = {}
        for (parameters, _), texts in alike.items():
            lengths = [len(jobs[text[0]].target.window) for text in texts]
            for group in plan_groups(lengths, self._most_tokens, call_tokens=0):
                indices = [index for place in group for index in texts[place]]
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
        results = self._refine_steps(parameters, targets)
        if not parameters.metrics:
            return results
        return [each._replace(metrics=self._measure(each)) for each in results]

    def _refine_steps(
        self, parameters: ExplanationParameters, targets: Sequence[Target]
    ) -> list[Explained]:
        """Attribute to each target; with a tolerance in twice the steps, until it is kept.

        Or until the batch has no time left for more.
        """
        question, most = self._ask(targets), self._settings.max_explanation_steps
        found: dict[int, Explained] = {}
        pending, n_steps = list(range(len(targets))), parameters.n_steps
        while pending:
            given = self._run(parameters.method, question.pick(pending), n_steps)
            for row, index in enumerate(pending):
                found[index] = _explained(targets[index], given, row)
            # A method without steps is as exact as it gets.
            if parameters.tolerance is None or n_steps >= most or given.n_steps != n_steps:
                break
            kept = _within(given, parameters.tolerance)
            pending = [index for index, sure in zip(pending, kept, strict=True) if not sure]
            n_steps = min(most, n_steps * 2)
            tokens = sum(len(targets[index].window) for index in pending)
            if not spend(n_steps * tokens * self.step_s):
                break
        return [found[index] for index in range(len(targets))]

    def _run(self, method: str, question: Question, n_steps: int) -> Attribution:
        most_rows = max(1, self._most_tokens // question.input_ids.shape[1])
        explain = partial(METHODS[method], self._value, self._embeddings, question, n_steps)
        with self._attention(), stage("attribution"):
            return run_smaller(explain, most_rows)

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
        """Return the windows of targets as tensors, padded to the longest."""
        device, pad_id = self._task.model.device, self._task.tokenizer.pad_token_id
        windows = [target.window for target in targets]
        batch = pad_batch(windows, [], pad_id)
        explained = pad_rows([target.explained for target in targets], False).to(device)
        input_ids = batch.input_ids.to(device)
        return Question(
            input_ids,
            torch.where(explained, pad_id, input_ids),
            pad_rows([_number_words(window) for window in windows], 0).to(device),
            batch.inputs(self._others, device),
            torch.tensor([target.head for target in targets], device=device),
            torch.tensor([target.logit_index for target in targets], device=device),
        )

    @torch.inference_mode()
    def _measure(self, explained: Explained) -> dict[str, float]:
        """Return what the words that count most do by themselves.

        DeYoung et al. 2020, "ERASER", of the number itself: what it loses without these words, and
        what it lacks with no others.
        """
        question = self._ask([explained.target])
        top = torch.zeros_like(question.input_ids, dtype=torch.bool)
        top[0, _find_top_positions(explained)] = True
        masked = value_of_masked(self._value, self._embeddings)
        whole, without, alone = (
            float(masked(seen_ids, question.input_ids, *question.arguments()))
            for seen_ids in (
                question.input_ids,
                torch.where(top, question.baseline, question.input_ids),
                torch.where(top, question.input_ids, question.baseline),
            )
        )
        return {"comprehensiveness": whole - without, "sufficiency": whole - alone}

    def _gather(
        self, batch: EncodedBatch, owner: int, explained: Sequence[Explained]
    ) -> Explanation:
        """Return the explanation of an example from those of its targets."""
        example = batch.examples[owner]
        own = next(window for window in batch.windows if window.owner == owner)
        window = _crop_window(explained[0].target) if explained else own
        names = self._task.tokenizer.convert_ids_to_tokens(window.pick(window.tokens.ids))
        texts = [example.text] if example.second is None else [example.text, example.second]
        return Explanation(
            texts=texts,
            tokens=token_spans(window, names),
            words=word_spans(window, names, texts),
            explained=explained,
            parameters=example.explanation,
            as_matrix=self._task.as_matrix,
            describe=partial(self._task.describe, example),
            dropped_tokens=own.dropped_tokens,
        )


def count_tokens(parameters: ExplanationParameters, targets: Sequence[Target]) -> float:
    """Return how many tokens go through the model and back to explain targets, in all steps."""
    texts = [[targets[index] for index in text] for text in find_texts(targets)]
    return sum(count_runs(parameters, own) * len(own[0].window) for own in texts)


def count_runs(parameters: ExplanationParameters, targets: Sequence[Target]) -> float:
    """Return how often a window goes through the model for its targets, without a tolerance."""
    runs, count = RUNS[parameters.method], len(targets)
    own = runs(parameters.n_steps, len(targets[0].window), count)
    return own + FURTHER_STEPS * runs(1, 1, count)


def find_texts(targets: Sequence[Target]) -> list[list[int]]:
    """Return which targets are of one window each, and so share its way through the model."""
    texts: dict[int, list[int]] = defaultdict(list)
    for index, target in enumerate(targets):
        texts[id(target.window)].append(index)
    return list(texts.values())


def _explained(target: Target, given: Attribution, row: int) -> Explained:
    importances = given.importances[row, : len(target.window)].tolist()
    return Explained(target, importances, float(given.deltas[row]), given.n_steps)


def _within(given: Attribution, tolerance: float) -> list[bool]:
    """Tell of each row whether what is unexplained is at most that share of the change."""
    kept: list[bool] = (given.deltas.abs() <= given.changes.abs() * tolerance).tolist()
    return kept


def _crop_window(target: Target) -> Window:
    """Return what is told of a target's window."""
    window = target.window
    if target.shown is None:
        return window
    return replace(window, positions=window.positions[: target.shown])


def _find_top_positions(explained: Explained) -> list[int]:
    """Return the positions of the tokens of the words that count most."""
    window = explained.target.window
    spans = word_spans(window, [""] * len(window), ["", ""])
    sums = sum_spans(explained.importances, spans)
    count = max(1, round(TOP_WORDS * len(spans)))
    order = sorted(range(len(spans)), key=lambda each: -sums[each])[:count]
    return [position for each in order for position in spans[each].positions]


def _number_words(window: Window) -> list[int]:
    """Return a number for each token that the tokens of a word have in common."""
    numbers = [-1 - position for position in range(len(window))]
    names = [""] * len(window)
    for number, span in enumerate(word_spans(window, names, ["", ""])):
        for position in span.positions:
            numbers[position] = number
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
    ids = _draw_tokens(task)
    fast, right = (_probe(task, settings, each, ids) for each in (network, exact))
    cosine = float(torch.cosine_similarity(fast, right, dim=0))
    if cosine >= LEAST_COSINE:
        return network
    logger.warning("Explanations are computed in float32: bfloat16 has a cosine of %.4f.", cosine)
    return exact


def _draw_tokens(task: TextTask) -> list[int]:
    """Return random tokens, and at the end the one that ends texts, at which BART and T5 pool."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(len(task.tokenizer), (PROBE_TOKENS,), generator=generator).tolist()
    end = task.tokenizer.eos_token_id
    return ids if end is None else [*ids[:-1], end]


def _probe(
    task: TextTask, settings: TextSettings, network: Any, ids: Sequence[int]
) -> torch.Tensor:
    explainer = Explainer(task, network, settings)
    tokens = adopt_tokens(ids, (), None)
    window = Window(tokens, range(PROBE_TOKENS), 0)
    target = Target(window, 0, 0, "", [True] * PROBE_TOKENS)
    (found,) = explainer._attribute(ExplanationParameters(n_steps=PROBE_STEPS), [target])
    return torch.tensor(found.importances)
