"""Completions by OpenAI's protocol, asked by its official client: the engine's own texts."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai import AsyncOpenAI, OpenAI
from openai.types import Completion
from openai.types.completion_usage import CompletionUsage
from transformers import AutoTokenizer

from gateway.engine import (
    Description,
    ImpossibleRequestError,
    InternalError,
    MalformedRequestError,
    RequestTooLargeError,
)
from gateway.json_size import MOST_VALUES
from gateway.openai.choices import read_continuation, write_choice
from gateway.openai.completion_request import check_limits, plan_calls, read_request
from gateway.openai.completion_streams import ChoiceStream, MergedParts, Taken
from repository import ROOT
from support.waiting import until
from trials.gateways import RunningGateway
from trials.good_traffic import alike

MODEL = "gpt2_text_generation"
TOKENIZER: Any = AutoTokenizer.from_pretrained(ROOT / "demo_models" / MODEL)
PROMPTS = ["Once upon a time", "The little dog", "Lily saw a big red ball. She"]
FINISH_REASONS = {"length": "length", "eos_token": "stop", "stop_sequence": "stop"}
Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def ask_engine(inference_url: str) -> Ask:
    """Return a function to the engine's own continuation of a prompt."""

    def ask(prompt: str, **parameters: Any) -> dict[str, Any]:
        asked = {"return_full_text": False, "details": True, **parameters}
        reply = httpx2.post(
            f"{inference_url}/predictions/{MODEL}",
            json={"inputs": prompt, "parameters": asked},
            timeout=120,
        )
        assert reply.status_code == 200
        (found,) = reply.json()
        return dict(found)

    return ask


def engine_parameters(options: dict[str, Any]) -> dict[str, Any]:
    """Return what the engine calls the options of OpenAI."""
    samples = options["temperature"] > 0
    drawn = {name: options[name] for name in ("temperature", "top_p")} | {"top_k": 0}
    return {
        "max_new_tokens": options["max_tokens"],
        "do_sample": samples,
        **(drawn if samples else {}),
        **({"stop": options["stop"]} if options["stop"] else {}),
        "seed": options["seed"],
    }


def without_stop(found: dict[str, Any], stops: Sequence[str]) -> str:
    """Return the engine's text up to what stopped it, which OpenAI's does not contain."""
    text = str(found["generated_text"])
    return text[: min((text.index(stop) for stop in stops if stop in text), default=len(text))]


DRAWN = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
OPTIONS = st.fixed_dictionaries(
    {
        "max_tokens": st.integers(1, 24),
        "temperature": st.sampled_from([0, 0.5, 1, 1.7]),
        "top_p": st.sampled_from([0.3, 0.9, 1]),
        "stop": st.lists(st.sampled_from([".", " the", "and", "\n", " a"]), max_size=3),
        "seed": st.integers(0, 2**40),
    }
)
GENERATED = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@GENERATED
@given(prompt=st.sampled_from(PROMPTS), options=OPTIONS)
def test_any_request_is_answered_as_the_engine_answers(
    prompt: str, options: dict[str, Any], openai_client: OpenAI, ask_engine: Ask
) -> None:
    engine = ask_engine(prompt, **engine_parameters(options))
    found = openai_client.completions.create(model=MODEL, prompt=prompt, logprobs=0, **options)
    Completion.model_validate(found.model_dump(), strict=True)
    (choice,) = found.choices
    assert choice.text == without_stop(engine, options["stop"])
    assert choice.finish_reason == FINISH_REASONS[engine["details"]["finish_reason"]]
    assert choice.logprobs is not None
    tokens = choice.logprobs.tokens or []
    assert "".join(tokens).startswith(choice.text)
    assert choice.logprobs.text_offset == [
        len("".join(tokens[:index])) for index in range(len(tokens))
    ]
    own = [each["logprob"] for each in engine["details"]["tokens"]]
    assert choice.logprobs.token_logprobs == own[: len(tokens)]
    assert found.usage is not None
    prompt_tokens = len(TOKENIZER(prompt)["input_ids"])
    made = engine["details"]["generated_tokens"]
    assert found.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": made,
        "total_tokens": prompt_tokens + made,
    }


@GENERATED
@given(
    prompts=st.lists(st.sampled_from(PROMPTS), min_size=1, max_size=2),
    options=OPTIONS,
    n=st.integers(1, 3),
    logprobs=st.sampled_from([None, 0, 2]),
)
def test_stream_tells_what_the_whole_answer_tells(
    prompts: list[str],
    options: dict[str, Any],
    n: int,
    logprobs: int | None,
    openai_client: OpenAI,
) -> None:
    asked: dict[str, Any] = {"model": MODEL, "prompt": prompts, "n": n, **options}
    if logprobs is not None:
        asked["logprobs"] = logprobs
    whole = openai_client.completions.create(**asked)
    stream = openai_client.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)
    assert (last.choices, last.usage) == ([], whole.usage)
    for expected in whole.choices:
        own = [each.choices[0] for each in chunks if each.choices[0].index == expected.index]
        assert "".join(each.text for each in own) == expected.text
        assert [each.finish_reason for each in own[:-1]] == [None] * (len(own) - 1)
        assert own[-1].finish_reason == expected.finish_reason
        if expected.logprobs is None:
            assert {each.logprobs for each in own} == {None}
            continue
        told = [each.logprobs.model_dump() for each in own if each.logprobs is not None]
        for name, values in expected.logprobs.model_dump().items():
            joined = [one for each in told for one in each[name] or ()]
            # Two runs of a model may round otherwise.
            assert alike(joined, values or [])


def test_choices_are_prompt_by_prompt_with_seeds_of_their_own(
    openai_client: OpenAI, ask_engine: Ask
) -> None:
    found = openai_client.completions.create(
        model=MODEL, prompt=PROMPTS[:2], n=3, seed=7, temperature=1, max_tokens=8
    )
    assert [each.index for each in found.choices] == list(range(6))
    engine = [
        ask_engine(prompt, seed=seed, max_new_tokens=8, **DRAWN)
        for prompt in PROMPTS[:2]
        for seed in (7, 8, 9)
    ]
    assert [each.text for each in found.choices] == [each["generated_text"] for each in engine]
    prompts = sum(len(TOKENIZER(prompt)["input_ids"]) for prompt in PROMPTS[:2])
    made = sum(each["details"]["generated_tokens"] for each in engine)
    assert found.usage == CompletionUsage(
        prompt_tokens=prompts, completion_tokens=made, total_tokens=prompts + made
    )


def test_defaults_are_those_of_openai(openai_client: OpenAI, ask_engine: Ask) -> None:
    found = openai_client.completions.create(model=MODEL, prompt=PROMPTS[0], seed=3)
    engine = ask_engine(PROMPTS[0], seed=3, max_new_tokens=16, **DRAWN)
    assert found.choices[0].text == engine["generated_text"]
    assert found.choices[0].logprobs is None


def test_best_of_returns_the_most_probable(openai_client: OpenAI, ask_engine: Ask) -> None:
    found = openai_client.completions.create(
        model=MODEL, prompt=PROMPTS[0], seed=1, best_of=4, n=2, max_tokens=6
    )

    def mean(engine: dict[str, Any]) -> float:
        logprobs = [each["logprob"] for each in engine["details"]["tokens"]]
        return float(sum(logprobs) / len(logprobs))

    made = [ask_engine(PROMPTS[0], seed=seed, max_new_tokens=6, **DRAWN) for seed in range(1, 5)]
    best = sorted(made, key=mean, reverse=True)[:2]
    assert [each.text for each in found.choices] == [each["generated_text"] for each in best]
    assert found.usage is not None
    assert found.usage.completion_tokens == sum(
        each["details"]["generated_tokens"] for each in made
    )


def test_most_probable_tokens_are_told(openai_client: OpenAI) -> None:
    found = openai_client.completions.create(
        model=MODEL, prompt=PROMPTS[0], temperature=0, max_tokens=5, logprobs=3
    )
    logprobs = found.choices[0].logprobs
    assert logprobs is not None
    told = zip(
        logprobs.tokens or (),
        logprobs.token_logprobs or (),
        logprobs.top_logprobs or (),
        strict=True,
    )
    for token, value, top in told:
        assert len(top) == 3
        # Without chance, the token is the most probable one.
        assert max(top.values()) == top[token] == value


def test_echo_has_the_prompt_in_front(openai_client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "prompt": PROMPTS[0], "temperature": 0}
    plain = openai_client.completions.create(**asked).choices[0].text
    echoed = openai_client.completions.create(**asked, echo=True).choices[0].text
    chunks = list(openai_client.completions.create(**asked, echo=True, stream=True))
    assert echoed == PROMPTS[0] + plain
    assert "".join(each.choices[0].text for each in chunks) == echoed


def test_stop_sequence_over_several_tokens_is_never_sent(openai_client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "prompt": PROMPTS[0], "temperature": 0}
    whole = openai_client.completions.create(**asked, max_tokens=12).choices[0].text
    stop = whole[10:22]
    assert len(TOKENIZER(stop)["input_ids"]) > 2
    chunks = list(openai_client.completions.create(**asked, max_tokens=12, stop=stop, stream=True))
    assert "".join(each.choices[0].text for each in chunks) == whole[: whole.index(stop)]
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_async_client_at_once(gateway_url: str, openai_client: OpenAI) -> None:
    async def ask() -> list[str]:
        async with AsyncOpenAI(base_url=f"{gateway_url}/v1", api_key="none") as client:

            async def one(seed: int) -> str:
                stream = await client.completions.create(
                    model=MODEL, prompt=PROMPTS[0], seed=seed, max_tokens=6, stream=True
                )
                return "".join([each.choices[0].text async for each in stream])

            return await asyncio.gather(*map(one, range(8)))

    expected = [
        openai_client.completions.create(model=MODEL, prompt=PROMPTS[0], seed=seed, max_tokens=6)
        for seed in range(8)
    ]
    assert asyncio.run(ask()) == [each.choices[0].text for each in expected]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"prompt": [1, 2, 3]}, "prompt"),
    ({"prompt": [[1, 2], [3]]}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 100_000}, "max_tokens"),
    ({"temperature": 2.5}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"n": 129}, "n"),
    ({"n": 20, "stream": True}, "n"),
    ({"best_of": 2, "n": 3}, "best_of"),
    ({"best_of": 2, "stream": True}, "best_of"),
    ({"logprobs": 6}, "logprobs"),
    ({"logprobs": 1, "echo": True}, "logprobs"),
    ({"stop": [""]}, "stop"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"frequency_penalty": 0.5}, "frequency_penalty"),
    ({"presence_penalty": -1}, "presence_penalty"),
    ({"logit_bias": {"50256": -100}}, "logit_bias"),
    ({"suffix": "the end"}, "suffix"),
    ({"model": "emformer_asr"}, "model"),
    ({"extra_body": {"top_k": 5}}, "top_k"),
]


@pytest.mark.parametrize(("options", "param"), REFUSED)
def test_what_cannot_be_is_refused_by_its_field(
    options: dict[str, Any], param: str, openai_client: OpenAI
) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        openai_client.completions.create(**({"model": MODEL, "prompt": PROMPTS[0]} | options))
    assert (caught.value.param, caught.value.type) == (param, "invalid_request_error")
    assert caught.value.code == "invalid_parameter"


def test_what_changes_nothing_is_taken(openai_client: OpenAI) -> None:
    found = openai_client.completions.create(
        model=MODEL,
        prompt=PROMPTS[0],
        user="someone",
        frequency_penalty=0,
        presence_penalty=0,
        logit_bias={},
        best_of=1,
        stop=None,
        suffix=None,
        seed=-5,
    )
    assert found.choices[0].text


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b'{"model": ', None),
        (b"[" * 50_000, None),
        (b"[]", None),
        (b"{}", "model"),
        (json.dumps({"model": MODEL}).encode(), "prompt"),
        (json.dumps({"model": MODEL, "prompt": ""}).encode(), "prompt"),
        (json.dumps({"model": MODEL, "prompt": "a", "\ud800": 1}).encode(), None),
        (json.dumps({"model": MODEL, "prompt": "\ud800"}).encode(), "prompt"),
    ],
)
def test_malformed_bodies(body: bytes, param: str | None, gateway_url: str) -> None:
    reply = httpx2.post(f"{gateway_url}/v1/completions", content=body, timeout=60)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param
    assert reply.json()["error"]["type"] == "invalid_request_error"


def test_body_of_too_many_values_is_not_parsed(gateway_url: str) -> None:
    body = b'{"model": "m", "prompt": "x", "user": [' + b"[]," * MOST_VALUES + b"[]]}"
    reply = httpx2.post(f"{gateway_url}/v1/completions", content=body, timeout=60)
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "too_many_values")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_values_are_not_hidden_by_an_encoding(encoding: str) -> None:
    # Read as UTF-8, what stands behind the quotation mark would be the inside of a string.
    text = '{"model": "m", "prompt": "\\"", "user": [' + "[]," * MOST_VALUES + "[]]}"
    with pytest.raises(MalformedRequestError, match=r"Expected JSON in UTF-8 as body\."):
        read_request(text.encode(encoding))
    with pytest.raises(RequestTooLargeError):
        read_request(text.encode())
    assert read_request(b'\xef\xbb\xbf{"model": "m", "prompt": "x"}').prompt == ["x"]


def test_errors_name_fields_of_the_protocol_and_no_long_numbers() -> None:
    for prompt in ("", ["a", ""]):
        with pytest.raises(MalformedRequestError, match=r"Expected text in prompt, got none\."):
            read_request(json.dumps({"model": "m", "prompt": prompt}).encode())
    asked = read_request(b'{"model": "m", "prompt": "x", "max_tokens": 1%s}' % (b"0" * 4000))
    with pytest.raises(ImpossibleRequestError, match=r"at most 300, got more\."):
        check_limits(asked, Description(limits={"max_new_tokens": 300}))


@pytest.mark.parametrize("logprobs", [0, 2])
def test_likely_tokens_are_told_by_their_texts(logprobs: int) -> None:
    """Whole and in a stream: of those that end inside a character, the token's own or the best."""
    named = [("a", -0.5), ("", -0.7), ("\u65e5", -0.2)]
    others = [[("", -1.0), ("", -2.0)], [("a", -0.6), ("", -0.9)], [("", -1.5), ("b", -2.5)]]
    tokens = [{"text": text, "logprob": value} for text, value in named]
    tops = [[{"text": text, "logprob": value} for text, value in each] for each in others]
    tops = tops if logprobs else [[]] * 3
    body = {"model": "m", "prompt": "x", "logprobs": logprobs}
    request = read_request(json.dumps(body).encode())
    details = {"finish_reason": "length", "generated_tokens": 3, "input_length": 1}
    told = {"top_tokens": tops} if logprobs else {}
    content = [{"generated_text": "a\u65e5", "details": {**details, "tokens": tokens, **told}}]
    whole = write_choice(0, read_continuation("x", content, []), request)["logprobs"]

    async def events() -> AsyncIterator[bytes]:
        for index, (token, top) in enumerate(zip(tokens, tops, strict=True)):
            event = {"token": token, "details": details if index == 2 else None}
            yield f"data:{json.dumps(event | ({'top_tokens': top} if top else {}))}\n\n".encode()

    async def read() -> list[Any]:
        stream: Any = ChoiceStream(next(iter(plan_calls(request))), request, Taken())
        return [part["logprobs"] async for part in stream.parts(events())]

    streamed = [top for part in asyncio.run(read()) for top in part["top_logprobs"]]
    assert whole["top_logprobs"] == streamed
    own = [{text: value} for text, value in named]
    others_kept = [{"": -1.0}, {"a": -0.6}, {"": -1.5, "b": -2.5}]
    expected = [
        each | (kept if logprobs else {}) for each, kept in zip(own, others_kept, strict=True)
    ]
    assert whole["top_logprobs"] == expected


def test_stream_of_an_engine_with_other_events_ends_with_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    written = "what somebody wrote"

    async def other() -> AsyncIterator[dict[str, Any]]:
        yield {"index": 0}
        raise KeyError(written)

    async def read() -> list[dict[str, Any]]:
        parts, found = MergedParts([other()], []), []
        with pytest.raises(InternalError):
            async for part in parts:
                found.append(part)
        await parts.aclose()
        return found

    assert asyncio.run(asyncio.wait_for(read(), 10)) == [{"index": 0}]
    assert "KeyError" in caplog.text
    assert "somebody" not in caplog.text


def test_client_tries_again_only_what_may_succeed(
    gateway: RunningGateway, openai_client: OpenAI
) -> None:
    client = openai_client.with_options(max_retries=2)
    headers = {"x-request-id": "tried-once"}
    with pytest.raises(openai.UnprocessableEntityError):
        client.completions.create(
            model=MODEL, prompt=PROMPTS[0], max_tokens=100_000, extra_headers=headers
        )
    until(lambda: "tried-once" in gateway.log())
    # Lines of the log come a little after answers.
    time.sleep(0.5)
    assert gateway.log().count("tried-once") == 1


def test_prompts_are_in_no_log(gateway: RunningGateway) -> None:
    canary = "zxqv-prompt"
    for options in ({}, {"n": 500}, {"temperature": canary}):
        body = {"model": MODEL, "prompt": canary, "user": canary, canary: 1, **options}
        reply = httpx2.post(f"{gateway.url}/v1/completions", json=body)
        assert reply.status_code == 422
        assert canary not in reply.text
    assert canary not in gateway.log()
