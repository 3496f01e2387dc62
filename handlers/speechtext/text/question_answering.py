"""The span of a context that answers a question."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from pydantic.dataclasses import dataclass
from transformers import AutoModelForQuestionAnswering

from speechtext.errors import MalformedRequestError
from speechtext.ranges import MOST_ANSWERS, AnswerCount, Count, PositiveCount, WindowTokens
from speechtext.settings import STRICT
from speechtext.text.answer_spans import (
    ContextScores,
    Span,
    find_spans,
    rank_answers,
    score_context,
    whole_words,
)
from speechtext.text.base import own_tokens, too_long, write_words
from speechtext.text.explanation.targets import Explained, Target
from speechtext.text.payloads import AnswerForm, Content, Example, text_of, unknown_target
from speechtext.text.tokens import Tokens, Window, cut_windows
from speechtext.text.understanding import UnderstandingTask
from speechtext.text.windows import Scored

LONGEST_STRIDE = 128


@dataclass(frozen=True, config=STRICT)
class QuestionParameters:
    """What a request may ask for, as `transformers.pipeline` names it."""

    top_k: AnswerCount = 1
    doc_stride: Count | None = None
    max_answer_len: PositiveCount = 15
    max_seq_len: WindowTokens | None = None
    max_question_len: PositiveCount | None = None
    handle_impossible_answer: bool = False
    align_to_words: bool = True


class ScoredContext(NamedTuple):
    """A window, and the probabilities of its tokens to begin and to end the answer."""

    window: Window
    chances: ContextScores


class Candidate(NamedTuple):
    """A span of a window that may be the answer, and its characters in the context."""

    scored: ScoredContext
    span: Span
    start: int
    end: int


class QuestionAnswering(UnderstandingTask):
    """The span of a context that answers a question; of nothing, where the YAML allows that."""

    auto_model = AutoModelForQuestionAnswering
    parameters = QuestionParameters
    per_token = True
    reads_whole = True

    def read_texts(self, content: Content) -> tuple[str, str | None]:
        """Return the question and its context."""
        return text_of(content, "question"), text_of(content, "context")

    def sample(self, words: int) -> dict[str, Any]:
        """Return a question about a context of so many words, and as many answers as may be."""
        content = {"question": write_words(1), "context": write_words(words)}
        return {"inputs": content, "parameters": {"top_k": MOST_ANSWERS}}

    def read_target(self, target: Any) -> Any:
        """Return the target, but for a number: it never meant anything of an answer."""
        return None if type(target) is int else target

    def default_parameters(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the parameters that the YAML sets."""
        return {
            "max_answer_len": self.settings.max_answer_len,
            "handle_impossible_answer": self.settings.handle_impossible_answer,
        }

    def cut(self, owner: int, tokens: Tokens, example: Example) -> list[Window]:
        """Return the windows over a context, each with the whole question.

        Raises `MalformedRequestError` for a context without words and `RequestTooLargeError` for a
        question that leaves no room for it.
        """
        wanted = example.parameters
        most = min(self.max_tokens, wanted.max_seq_len or self.max_tokens)
        # Beside the question there is room for a token of the context, at least.
        room_for_both = most - tokens.count(None)
        longest = min(most // 2, room_for_both - 1, wanted.max_question_len or most)
        if tokens.count(0) > longest:
            raise too_long(f"question, in windows of {most}", longest, tokens.count(0))
        if not tokens.count(1):
            raise MalformedRequestError("EmptyContext", "Expected words in context, got none.")
        room = room_for_both - tokens.count(0)
        stride = self.choose_stride(wanted.doc_stride, min(most // 2, LONGEST_STRIDE), room)
        return [
            Window(tokens, positions, owner) for positions in cut_windows(tokens, 1, most, stride)
        ]

    def decode(self, example: Example, scored: Sequence[Scored]) -> Any:
        """Return the answer's text, or what the pipeline "question-answering" gave."""
        wanted, contexts = example.parameters, self._score_contexts(scored)
        if example.second is None:
            best = find_best(contexts, wanted.max_answer_len)
            return self._spell(best.scored.window, best.span)
        answers, _ = rank_spans(example, example.second, contexts)
        if example.form is AnswerForm.PLAIN:
            return answers[0]["answer"]
        return answers[0] if len(answers) == 1 else answers

    def _score_contexts(self, scored: Sequence[Scored]) -> list[ScoredContext]:
        classifier_id = self.tokenizer.cls_token_id
        return [score_context_of(each, classifier_id) for each in scored]

    def _spell(self, window: Window, span: Span) -> str:
        """Return the answer in a window that was encoded elsewhere, from its tokens alone."""
        text: str = self.tokenizer.decode(
            window.pick(window.tokens.ids)[span.first : span.last + 1]
        )
        return text

    def choose_targets(self, example: Example, scored: Sequence[Scored]) -> list[Target]:
        """Return the start and the end of the answer, or of the characters asked for."""
        (window, context), span, start, end = self._choose(example, self._score_contexts(scored))
        explained = own_tokens(window)
        about = {"start": start, "end": end}
        name = self._spell(window, span) if example.second is None else example.second[start:end]
        sides = (("start", span.first, context.starts), ("end", span.last, context.ends))
        return [
            Target(
                window,
                head,
                position,
                name,
                explained,
                probability_of(window, position, chances),
                about={**about, "side": side},
            )
            for head, (side, position, chances) in enumerate(sides)
        ]

    def _choose(self, example: Example, scored: Sequence[ScoredContext]) -> Candidate:
        if example.target is not None:
            return find_characters(example, scored)
        if example.second is None:
            return find_best(scored, example.parameters.max_answer_len)
        return find_answer(example, example.second, scored)

    def describe(self, example: Example, explained: Sequence[Explained]) -> dict[str, Any]:
        """Return what an answer tells about the start and about the end."""
        start, end = explained
        facts = {
            "answer": start.target.name,
            "start": start.target.about["start"],
            "end": start.target.about["end"],
            "probability_start": start.target.probability,
            "probability_end": end.target.probability,
            "n_steps": max(start.n_steps, end.n_steps),
        }
        for each, side in ((start, "start"), (end, "end")):
            facts |= {f"{name}_{side}": value for name, value in each.metrics.items()}
        return {
            "importances_answer_start": start.importances,
            "importances_answer_end": end.importances,
            "delta_start": start.delta,
            "delta_end": end.delta,
            **facts,
        }


def rank_spans(
    example: Example, context: str, scored: Sequence[ScoredContext]
) -> tuple[list[dict[str, Any]], list[Candidate]]:
    """Return the answers to an example, the best first, and the spans that they were made of."""
    wanted = example.parameters
    # Spans of the same words become one answer.
    count = wanted.top_k * 2 + 10 if wanted.align_to_words else wanted.top_k
    candidates = [
        Candidate(each, span, *locate(each.window, span, wanted.align_to_words))
        for each in scored
        for span in find_spans(each.chances, wanted.max_answer_len, count)
    ]
    spans = [(each.span.score, each.start, each.end) for each in candidates]
    none = min(each.chances.none for each in scored) if wanted.handle_impossible_answer else None
    return rank_answers(spans, context, none, wanted.top_k), candidates


def find_answer(example: Example, context: str, scored: Sequence[ScoredContext]) -> Candidate:
    """Return the most probable span of the answer that an example gets.

    To have no answer is the classifier token's, in the window that says so least.
    """
    (answer, *_), candidates = rank_spans(example, context, scored)
    place = answer["start"], answer["end"]
    same = [each for each in candidates if (each.start, each.end) == place]
    if same:
        return max(same, key=lambda each: each.span.score)
    least = min(scored, key=lambda each: each.chances.none)
    # A row without such a token gets here only where all its spans are too improbable for a number.
    position = least.chances.classifier or 0
    return Candidate(least, Span(answer["score"], position, position), *place)


def find_best(scored: Sequence[ScoredContext], most_tokens: int) -> Candidate:
    """Return the most probable span of windows that were encoded elsewhere."""
    found = (Candidate(each, find_spans(each.chances, most_tokens, 1)[0], 0, 0) for each in scored)
    return max(found, key=lambda each: each.span.score)


def find_characters(example: Example, scored: Sequence[ScoredContext]) -> Candidate:
    """Return the tokens of the characters that a target names, in the window with most of them.

    Raises `ImpossibleRequestError` where the context has no such words.
    """
    target, context = example.target, example.second or ""
    known = isinstance(target, Mapping) and all(type(each) is int for each in target.values())
    start, end = (target.get("start", 0), target.get("end", 0)) if known else (0, 0)
    if 0 <= start < end <= len(context):
        best = max(scored, key=lambda each: len(find_inside(each.window, start, end)))
        inside = find_inside(best.window, start, end)
        if inside:
            span = Span(1.0, inside[0], inside[-1])
            return Candidate(best, span, *locate(best.window, span, align_to_words=False))
    raise unknown_target(
        f"an object with start and end, characters of words within the context's {len(context)}"
    )


def find_inside(window: Window, start: int, end: int) -> list[int]:
    """Return which of a window's tokens have some of these characters of the context."""
    offsets = window.pick(window.tokens.offsets)
    return [
        position
        for position, here in enumerate(window.content(1))
        if here and offsets[position][0] < end and offsets[position][1] > start
    ]


def probability_of(window: Window, position: int, chances: torch.Tensor) -> float:
    """Return the probability of a token of the context, or of another, which has the rest."""
    return float(chances[position] if window.content(1)[position] else 1 - chances.sum())


def score_context_of(scored: Scored, classifier_id: int | None) -> ScoredContext:
    """Return the probabilities of a window's tokens; its classifier tokens have that id."""
    starts, ends = scored.heads[:2]
    window = scored.window
    classifiers = [each == classifier_id for each in window.pick(window.tokens.ids)]
    allowed = torch.tensor(window.content(1))
    return ScoredContext(window, score_context(starts, ends, allowed, torch.tensor(classifiers)))


def locate(window: Window, span: Span, align_to_words: bool) -> tuple[int, int]:
    """Return the characters of a span in the context, of whole words or of its tokens alone."""
    _, first, last = span
    if align_to_words:
        first, last = whole_words(window.pick(window.tokens.words), span)
    offsets = window.pick(window.tokens.offsets)
    return offsets[first][0], offsets[last][1]
