"""What all text tasks share: from a payload to windows of tokens, and back from the model's heads.

A request's way: `read` makes an `Example` of a payload, `encode` cuts examples into windows,
`answer` runs the model on them and gives each example its `Answer`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, cast

import torch

from speechtext.allowance import Work
from speechtext.errors import RequestError, RequestTooLargeError, explanation_unsupported
from speechtext.parameters import impossible, read_parameters
from speechtext.text.explanation.attribution import Value, value_of
from speechtext.text.explanation.targets import (
    EXPLANATION_KEYS,
    Explained,
    ExplanationParameters,
    Target,
)
from speechtext.text.payloads import Content, Example, read_content, target_of, text_of
from speechtext.text.sampling import TokenEvent
from speechtext.text.settings import TextSettings
from speechtext.text.tokens import Tokens, Window, adopt_tokens, cut_end, tokenize
from speechtext.text.windows import EncodedBatch, pad_batch

# Windows over a text move on by this part of their room, or more.
LEAST_ADVANCE = 4
# Characters of a text that is cut for each token that is read, at most, and of one that is read
# whole. Tokenising takes up to 660 bytes for each.
CHARACTERS_PER_TOKEN, MOST_CHARACTERS = 1000, 250_000
# Gets the number of an example, and what was added to its text.
TokenListener = Callable[[int, TokenEvent], None]


@dataclass(frozen=True)
class LoadedModel:
    """A model of transformers, a TorchScript one or one of OpenVINO's, and what goes with it.

    `labels` name the model's outputs; `positions` is the longest window that it takes,
    `input_names` are those of the tokenizer's outputs that it takes.
    """

    network: Any
    tokenizer: Any
    config: Any
    labels: Mapping[int, str]
    device: torch.device
    positions: int
    input_names: Sequence[str]


@dataclass(frozen=True)
class Answer:
    """The answer to an example, in the form it asks for, and how many tokens it took.

    `dropped_tokens` of the text were too many for the model.
    """

    content: Any
    tokens_in: int
    tokens_out: int = 0
    dropped_tokens: int = 0


@dataclass(frozen=True)
class TextCosts:
    """The seconds of a character and of a token that is read, and of a token that is added.

    `window_tokens` are the tokens that a window costs beside its own.
    """

    character_s: float = 0.0
    token_s: float = 0.0
    new_token_s: float = 0.0
    window_tokens: int = 0


class TextTask(ABC):
    """What is special about a task is in its class; what is here, the tasks share."""

    auto_model: ClassVar[Any]
    parameters: ClassVar[type[Any]]
    has_labels: ClassVar[bool] = False
    # Whether a call of the model keeps nothing for the next, as TorchScript and calibration ask.
    single_call: ClassVar[bool] = False
    padding_side: ClassVar[str] = "right"
    # Whether a text is read to its end, in windows, and not cut to one.
    reads_whole: ClassVar[bool] = False
    # Whether what is explained follows one another, as the tokens of a continuation do.
    as_matrix: ClassVar[bool] = False

    def __init__(self, model: LoadedModel, settings: TextSettings) -> None:
        self.model = model
        self.tokenizer = model.tokenizer
        self.settings = settings
        self.costs = TextCosts()
        # Whether texts of unlike lengths may go together, padded, which some models do not bear.
        self.pads = True
        # Whether a text may be continued while another is: some models keep on themselves what they
        # have read of the last one.
        self.takes_turns = True

    def read(
        self, payload: str | Mapping[str, Any], explain: bool = False, hub_client: bool = False
    ) -> Example:
        """Return the example of a payload: a text, or the fields of an object.

        `hub_client` tells that it is of `huggingface_hub`. Raises `MalformedRequestError` for a
        missing field, `RequestTooLargeError` for a text that is too long to be tokenised, and
        `ImpossibleRequestError` for parameters that cannot be, and for an explanation that the
        settings do not allow.
        """
        content = read_content(payload, hub_client)
        text, second = self.read_texts(content)
        self._check_characters(len(text) + len(second or ""))
        asked = content.parameters
        if not explain:
            return Example(text, second, self._parameters(asked), content.form)
        own = {name: value for name, value in asked.items() if name not in EXPLANATION_KEYS}
        return Example(
            text,
            second,
            self._parameters(own),
            content.form,
            self.read_target(target_of(content)),
            self.explanation({name: asked[name] for name in asked if name in EXPLANATION_KEYS}),
        )

    def read_texts(self, content: Content) -> tuple[str, str | None]:
        """Return the text of a payload, and the one that goes with it."""
        return text_of(content), None

    def _check_characters(self, characters: int) -> None:
        if characters > self.most_characters:
            raise RequestTooLargeError(
                "TextTooLong",
                f"Expected at most {self.most_characters} characters of text, got {characters}.",
            )

    @property
    def most_characters(self) -> int:
        """Return the characters of the longest text that is tokenised."""
        if self.reads_whole:
            return MOST_CHARACTERS
        return min(MOST_CHARACTERS, CHARACTERS_PER_TOKEN * self.max_tokens)

    def sample(self, words: int) -> dict[str, Any]:
        """Return a payload of about so many tokens, to try the model with."""
        return {"text": write_words(words)}

    def read_target(self, target: Any) -> Any:
        """Return what a payload names as the target to explain, None where that means nothing."""
        return target

    def explanation(self, asked: Mapping[str, Any]) -> ExplanationParameters:
        """Return how to explain; raises `ImpossibleRequestError` where that is not allowed."""
        settings = self.settings
        if not settings.captum_explanation:
            raise explanation_unsupported()
        given = read_parameters(ExplanationParameters, asked, {"n_steps": settings.n_steps})
        if given.n_steps > settings.max_explanation_steps:
            most = f"at most {settings.max_explanation_steps}"
            raise impossible("parameters.n_steps", most, str(given.n_steps))
        return given

    def _parameters(self, given: Mapping[str, Any]) -> Any:
        return read_parameters(self.parameters, given, self.default_parameters(given))

    def default_parameters(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what the settings say for a request with the parameters `given`."""
        return {}

    def streams(self, example: Example) -> bool:
        """Tell whether an example is to be answered token by token."""
        return False

    @cached_property
    def max_tokens(self) -> int:
        """Return the longest window that the model is given, special tokens included."""
        return min(self.settings.max_length, self.model.positions)

    def encode(self, examples: Sequence[Example]) -> EncodedBatch:
        """Tokenise examples, in one call, and cut them into windows, padded to the longest.

        Raises the `RequestError` of the first example that cannot be cut.
        """
        found = self.cut_all(examples)
        for each in found:
            if isinstance(each, RequestError):
                raise each
        return self.join(examples, cast(list[list[Window]], found))

    def cut_all(self, examples: Sequence[Example]) -> list[list[Window] | RequestError]:
        """Tokenise examples, in one call; return the windows of each, or why it has none."""
        texts = [
            each.text if each.second is None else (each.text, each.second) for each in examples
        ]
        found: list[list[Window] | RequestError] = []
        for owner, tokens in enumerate(tokenize(self.tokenizer, texts)):
            try:
                found.append(self.cut(owner, tokens, examples[owner]))
            except RequestError as error:
                found.append(error)
        return found

    def join(
        self, examples: Sequence[Example], windows: Sequence[Sequence[Window]]
    ) -> EncodedBatch:
        """Return examples as a batch; `windows` are those of each, which it owns from now on."""
        owned = [
            replace(window, owner=owner) for owner, each in enumerate(windows) for window in each
        ]
        return self.pad(owned, examples)

    def measure_reading(self, example: Example) -> Work:
        """Return the work of tokenising an example."""
        characters = len(example.text) + len(example.second or "")
        return Work(characters, "characters of text", characters * self.costs.character_s)

    def measure_work(self, example: Example, windows: Sequence[Window]) -> Work:
        """Return the work of answering an example that was cut into these windows."""
        tokens = sum(map(len, windows)) + len(windows) * self.costs.window_tokens
        unit = f"tokens in all windows of a text, each with {self.costs.window_tokens} more"
        return Work(tokens, unit, tokens * self.costs.token_s)

    def pad(self, windows: Sequence[Window], examples: Sequence[Example]) -> EncodedBatch:
        """Return windows as tensors, padded to the longest on the side that suits the model."""
        return pad_batch(windows, examples, self.tokenizer.pad_token_id, self.padding_side)

    def cut(self, owner: int, tokens: Tokens, example: Example) -> list[Window]:
        """Return the windows of an example: one, without the end of a text that is too long.

        Raises `RequestTooLargeError` for such a text where the settings do not allow that.
        """
        return [self._cut_end(owner, tokens, self.max_tokens)]

    def _cut_end(self, owner: int, tokens: Tokens, most: int) -> Window:
        dropped = max(0, len(tokens.ids) - most)
        if not dropped:
            return Window(tokens, range(len(tokens.ids)), owner)
        if not self.settings.truncation:
            raise too_long("the text", most, len(tokens.ids))
        ends_stay = "left" in (self.padding_side, self.tokenizer.truncation_side)
        side = "left" if ends_stay else "right"
        return Window(tokens, cut_end(tokens, most, side), owner, dropped)

    def choose_stride(self, asked: int | None, default: int, room: int) -> int:
        """Return how many of the `room` tokens of a window it shares with the next.

        What the request asks for goes before the settings' and the task's own. Raises
        `ImpossibleRequestError` where windows would hardly move on.
        """
        most = room - max(1, room // LEAST_ADVANCE)
        if asked is not None and asked > most:
            raise impossible(
                "the stride", f"at most {most} of a window's {room} tokens", str(asked)
            )
        wanted = (asked, self.settings.stride, default)
        return min(most, next(each for each in wanted if each is not None))

    def adopt(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> EncodedBatch:
        """Return a batch of windows that were encoded elsewhere, shape (windows, tokens)."""
        windows = []
        for owner, (ids, used) in enumerate(
            zip(input_ids.tolist(), attention_mask.tolist(), strict=True)
        ):
            own = [token_id for token_id, here in zip(ids, used, strict=True) if here]
            tokens = adopt_tokens(own, self._special_ids(), self.tokenizer.sep_token_id)
            windows.append(Window(tokens, range(len(own)), owner))
        return self.pad(windows, [Example("", parameters=self._parameters({}))] * len(windows))

    def _special_ids(self) -> set[int]:
        """Return the ids that frame a text and carry none of it (the unknown token does)."""
        tokenizer = self.tokenizer
        frame = (
            tokenizer.cls_token_id,
            tokenizer.sep_token_id,
            tokenizer.bos_token_id,
            tokenizer.eos_token_id,
            tokenizer.pad_token_id,
        )
        return {token_id for token_id in frame if token_id is not None}

    @abstractmethod
    def compute_together(self, examples: Sequence[Example]) -> list[torch.Tensor]:
        """Return the model's numbers for each example, in one shape whoever is beside it.

        The examples are padded to the longest.
        """

    def compute_by_turns(self, examples: Sequence[Example]) -> list[torch.Tensor]:
        """Return the same of examples that take turns, of a task whose model is called again."""
        return [self.compute_together([each])[0] for each in examples]

    @abstractmethod
    def answer(self, batch: EncodedBatch, on_token: TokenListener | None = None) -> list[Answer]:
        """Return the answer to each example of a batch.

        `on_token` gets each token of those that are answered token by token, as it is made.
        """

    @abstractmethod
    def find_targets(self, batch: EncodedBatch) -> list[list[Target] | RequestError]:
        """Return what to explain of each example of a batch, or why that cannot be."""

    def try_targets(self, choose: Callable[[], list[Target]]) -> list[Target] | RequestError:
        """Return the targets chosen, or the error: also where a window would take too long."""
        most = self.settings.max_explanation_tokens
        try:
            targets = choose()
            for target in targets:
                if len(target.window) > most:
                    raise too_long("a text to explain", most, len(target.window))
        except RequestError as error:
            return error
        return targets

    def value_of(self, network: Any, names: Sequence[str]) -> Value:
        """Return the numbers to explain of a model, which may be the task's in another dtype."""
        return value_of(network, names)

    def describe(self, example: Example, explained: Sequence[Explained]) -> dict[str, Any]:
        """Return what an answer tells about its only target."""
        (only,) = explained
        return {"importances": only.importances, "delta": only.delta, **only.facts()}


def write_words(count: int) -> str:
    """Return a text of so many words, a token each for most tokenizers."""
    return " ".join(["a"] * count)


def too_long(field: str, most: int, tokens: int) -> RequestTooLargeError:
    """Return the error of a text with more tokens than the model takes."""
    return RequestTooLargeError(
        "TextTooLong", f"Expected at most {most} tokens in {field}, got {tokens}."
    )


def own_tokens(window: Window) -> list[bool]:
    """Return which tokens of a window are the texts' own, and not special ones."""
    return [sequence is not None for sequence in window.pick(window.tokens.sequences)]
