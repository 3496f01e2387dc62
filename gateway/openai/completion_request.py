"""What a request for completions may say, and what the engine is asked for each choice."""

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from gateway.engine import Description, MalformedRequestError, Request
from gateway.json_size import parse_json
from gateway.openai.fields import read_fields, refusal, show

JSON = "application/json"
# Choices of a request that are made, and those of a stream, whose connections are all open.
MOST_CHOICES, MOST_STREAMED = 128, 16
MOST_BEST_OF = 20
# Below it the engine does not divide: the most probable token is as good as certain.
LEAST_TEMPERATURE = 1e-6
SEEDS = 2**63


def _absent(given: Any) -> Any:
    """Refuse what the engine has not, unless it changes nothing."""
    if given:
        raise ValueError("Expected 0 or none, which is all there is here")
    return None


def _texts(given: Any) -> Any:
    """Return prompts as a list; lists of token ids are refused by name."""
    if isinstance(given, str):
        return [given]
    if isinstance(given, list) and given and all(isinstance(each, str) for each in given):
        return given
    raise ValueError("Expected text or a list of texts, not token ids")


Unsupported = Annotated[None, BeforeValidator(_absent)]
StopText = Annotated[str, Field(min_length=1, max_length=100)]
StreamOptions = dict[Literal["include_usage", "include_obfuscation"], bool]


class CompletionRequest(BaseModel):
    """A request, with OpenAI's defaults; docs/openai.md says what the fields do."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    model: str
    prompt: Annotated[list[str], BeforeValidator(_texts)]
    max_tokens: Annotated[int, Field(ge=1)] = 16
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] = 1
    best_of: Annotated[int, Field(ge=1, le=MOST_BEST_OF)] | None = None
    stop: Annotated[
        list[StopText],
        BeforeValidator(lambda given: [given] if isinstance(given, str) else given),
        Field(max_length=16),
    ] = []
    seed: Annotated[int, Field(ge=-SEEDS, lt=SEEDS)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: bool = False
    stream: bool = False
    stream_options: StreamOptions = {}
    # Who asks, which changes nothing.
    user: str | None = None
    frequency_penalty: Unsupported = None
    presence_penalty: Unsupported = None
    logit_bias: Unsupported = None
    suffix: Unsupported = None

    @property
    def made(self) -> int:
        """Return how many completions of each prompt are made."""
        return self.best_of or self.n

    @property
    def tells_usage(self) -> bool:
        """Tell whether a stream ends with what it took."""
        return self.stream_options.get("include_usage", False)


def read_request(body: bytes) -> CompletionRequest:
    """Return a request, a null as if it were absent; raises `EngineError`."""
    try:
        content = parse_json(body)
    except (ValueError, RecursionError) as error:
        raise MalformedRequestError("MalformedJson", "Expected JSON in UTF-8 as body.") from error
    if not isinstance(content, dict):
        raise MalformedRequestError("UnexpectedJson", "Expected a JSON object as body.")
    given = {name: value for name, value in content.items() if value is not None}
    request = read_fields(CompletionRequest, given)
    if not all(request.prompt):
        # The engine would name a field of its own.
        message = "Expected text in prompt, got none."
        raise MalformedRequestError("MissingField", message, field="prompt")
    _check_together(request)
    return request


def _check_together(request: CompletionRequest) -> None:
    """Raise for fields of which one makes the other impossible, and for too many choices."""
    if request.best_of and request.best_of < request.n:
        raise refusal("best_of", f"at least n, {request.n}", str(request.best_of))
    if request.stream and request.made > request.n:
        raise refusal("best_of", "n for a stream", str(request.best_of))
    if request.echo and request.logprobs is not None:
        raise refusal("logprobs", "absent with echo: prompts are not scored", "a number")
    if request.stream_options and not request.stream:
        raise refusal("stream_options", "absent without stream", "some")
    most = MOST_STREAMED if request.stream else MOST_CHOICES
    if (made := len(request.prompt) * request.made) > most:
        field = "n" if request.made > 1 else "prompt"
        raise refusal(field, f"of {most} choices in all at most", str(made))


def check_limits(request: CompletionRequest, about: Description) -> None:
    """Raise for more new tokens than the model gives, where it tells."""
    most = about.limits.get("max_new_tokens")
    if most is not None and request.max_tokens > most:
        raise refusal("max_tokens", f"at most {most:g}", show(request.max_tokens))


class Call(NamedTuple):
    """What the engine is asked: the `number`th completion of all, of the prompt `owner`."""

    number: int
    owner: int
    prompt: str
    request: Request


def plan_calls(request: CompletionRequest) -> Iterator[Call]:
    """Yield what the engine is asked, prompt by prompt."""
    for owner, prompt in enumerate(request.prompt):
        for copy in range(request.made):
            parameters = {**_parameters(request), **_seed(request, copy)}
            content = {"inputs": prompt, "parameters": parameters, "stream": request.stream}
            call = Request(json.dumps(content).encode(), JSON, JSON)
            yield Call(owner * request.made + copy, owner, prompt, call)


def _parameters(request: CompletionRequest) -> dict[str, Any]:
    samples = request.temperature >= LEAST_TEMPERATURE
    # OpenAI has no top_k: its models draw from all tokens.
    drawn = {"temperature": request.temperature, "top_p": request.top_p, "top_k": 0}
    return {
        "max_new_tokens": request.max_tokens,
        "do_sample": samples,
        **(drawn if samples else {}),
        **({"stop": request.stop} if request.stop else {}),
        **({"top_n_tokens": request.logprobs} if request.logprobs else {}),
        "return_full_text": False,
        "details": True,
    }


def _seed(request: CompletionRequest, copy: int) -> dict[str, int]:
    """Return the seed of the completions of a prompt, each its own; the engine has none below 0."""
    return {} if request.seed is None else {"seed": (request.seed + copy) % SEEDS}
