"""Tensors of KServe's protocol v2, against bytes written by numpy, and instances in order."""

import asyncio
import base64
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.engine import (
    Answer,
    EngineError,
    ImpossibleRequestError,
    Kind,
    MalformedRequestError,
    Request,
    RequestTooLargeError,
    UnavailableError,
)
from gateway.json_size import MOST_VALUES, count_values
from gateway.kserve.bodies import read_json
from gateway.kserve.inference import build_requests, write_answers
from gateway.kserve.instances import AT_ONCE, MAX_INSTANCES, answer_all
from gateway.kserve.shapes import INFER_REQUEST
from gateway.kserve.tensors import read_tensors, split_body
from gateway.kserve.v1 import read_instance, write_outcome
from support.kserve import packed, unpacked_tensor

Content = dict[str, Any]


def tensor(name: str, count: int, **others: Any) -> Content:
    return {"name": name, "shape": [count], "datatype": "BYTES", **others}


def binary_tensor(name: str, elements: Sequence[bytes]) -> Content:
    size = len(packed(elements))
    return tensor(name, len(elements), parameters={"binary_data_size": size})


def read(content: Content, binary: bytes = b"") -> list[list[Any]]:
    head = json.dumps(content).encode()
    found, rest = split_body(head + binary, str(len(head)) if binary else None)
    return [list(each) for each in read_tensors(read_json(INFER_REQUEST, found), rest)]


some_bytes = st.lists(st.binary(max_size=40), min_size=1, max_size=9)


@given(some_bytes, some_bytes)
def test_binary_tensors_of_numpy_are_read(first: list[bytes], second: list[bytes]) -> None:
    content = {"inputs": [binary_tensor("a", first), binary_tensor("b", second)]}
    assert read(content, packed(first) + packed(second)) == [first, second]


@given(st.lists(st.text(max_size=20), min_size=1, max_size=9), st.booleans())
def test_tensors_of_json_are_read_flat_and_nested(texts: list[str], nested: bool) -> None:
    texts = [each.encode("utf-8", "replace").decode() for each in texts]
    data = [[each] for each in texts] if nested else texts
    shape = [len(texts), 1] if nested else [len(texts)]
    content = {"inputs": [{"name": "a", "shape": shape, "datatype": "BYTES", "data": data}]}
    assert read(content) == [texts]


def test_binary_and_json_tensors_stand_beside_each_other() -> None:
    content = {
        "inputs": [
            tensor("a", 2, data=["x", "y"]),
            binary_tensor("b", [b"", b"\xff\x00"]),
        ]
    }
    assert read(content, packed([b"", b"\xff\x00"])) == [["x", "y"], [b"", b"\xff\x00"]]


def asked(content: Content) -> Any:
    return read_json(INFER_REQUEST, json.dumps(content).encode())


@given(some_bytes)
def test_answers_come_back_out_of_a_binary_tensor(bodies: list[bytes]) -> None:
    request = asked(
        {"id": "7", "inputs": [tensor("a", 1)], "parameters": {"binary_data_output": True}}
    )
    answers = [Answer(200, {"content-type": "text/plain; charset=utf-8"}, each) for each in bodies]
    response = write_answers(request, answers, "model", "1.0")
    length = int(response.headers["inference-header-content-length"])
    body = bytes(response.body)
    assert response.headers["content-type"] == "application/octet-stream"
    assert int(response.headers["content-length"]) == len(body)
    head = json.loads(body[:length])
    (output,) = head.pop("outputs")
    assert head == {"model_name": "model", "model_version": "1.0", "id": "7"}
    assert output["parameters"]["binary_data_size"] == len(body) - length
    assert output["shape"] == [len(bodies)]
    assert unpacked_tensor(body[length:]) == bodies


def test_answers_that_are_no_text_are_base64_in_json() -> None:
    answers = [Answer(200, {"content-type": "image/png"}, each) for each in (b"\x89PNG", b"text")]
    response = write_answers(asked({"inputs": [tensor("a", 1)]}), answers, "model", "1.0")
    (output,) = json.loads(bytes(response.body))["outputs"]
    assert output["parameters"] == {"content_type": "base64"}
    assert [base64.b64decode(each) for each in output["data"]] == [b"\x89PNG", b"text"]
    assert write_outcome(answers[0]) == {"b64": base64.b64encode(b"\x89PNG").decode()}
    assert write_outcome(answers[1]) == "text"


@given(st.binary(max_size=60), st.integers(0, 70), st.integers(0, 5), st.integers(-70, 70))
def test_any_bytes_are_read_or_refused(rest: bytes, length: int, count: int, size: int) -> None:
    content = {"inputs": [tensor("a", count, parameters={"binary_data_size": size})]}
    head = json.dumps(content).encode()
    try:
        found, binary = split_body(head + rest, str(len(head)))
        (elements,) = read_tensors(read_json(INFER_REQUEST, found), binary)
    except MalformedRequestError as error:
        assert error.kind in ("InvalidTensor", "MissingPayload")
    else:
        assert packed([bytes(each) for each in elements if isinstance(each, bytes)]) == rest
        assert len(elements) == count
    try:
        found, binary = split_body(rest, str(length))
    except MalformedRequestError:
        assert length == 0 or length > len(rest)
    else:
        assert (bytes(found), bytes(binary)) == (rest[:length], rest[length:])


SIZE = "binary_data_size"
HOLED = packed([b"abc"])[:-1]


@pytest.mark.parametrize(
    ("inputs", "binary", "said"),
    [
        ([tensor("a", 1)], b"", "inputs.0.data: expected a list, or binary_data_size"),
        ([tensor("a", 1, data=["a"], parameters={SIZE: 0})], b"", "expected no list beside"),
        ([tensor("a", 1, parameters={SIZE: 5})], b"", "of the 0 bytes behind the JSON, got 5"),
        ([tensor("a", 1, data=["a"])], b"123", "of the 3 bytes behind the JSON, got 0"),
        ([tensor("a", 1, parameters={SIZE: -4})], b"1234", "a number of bytes, got a negative"),
        ([tensor("a", 1, parameters={SIZE: "4"})], b"1234", "a number of bytes, got something"),
        ([tensor("a", 1, parameters={SIZE: True})], b"1", "a number of bytes, got something"),
        ([tensor("a", 1, parameters={SIZE: 2**63 - 1})], b"1", "got 9223372036854775807"),
        ([tensor("a", 1, parameters={SIZE: 10**4000})], b"1", "a number of bytes, got something"),
        ([tensor("a", 1, parameters={SIZE: 6})], HOLED, "element 0: expected 3 bytes, got 2"),
        ([tensor("a", 2, parameters={SIZE: 4})], b"\0\0\0\0", "element 1: expected a length"),
        ([tensor("a", 1, parameters={SIZE: 8})], bytes(8), "got 4 bytes behind them"),
        (
            [tensor("a", 1, parameters={SIZE: 4})],
            b"\xff\xff\xff\xff",
            "element 0: expected 4294967295 bytes, got 0",
        ),
        ([tensor("a", 2, data=["a"])], b"", "expected 2 elements by its shape, got 1"),
        ([tensor("a", 1, data=[3])], b"", "inputs.0.data.0: expected a string, got int"),
        ([tensor("a", 1, data=[["a"]])], b"", "inputs.0.data.0: expected a string, got list"),
        ([tensor("a", 0, data=[])], b"", "Expected instances, got none."),
        ([tensor("a", -1, data=["a"])], b"", "expected [N] or [N, 1], got [-1]"),
        ([tensor("a", -(10**4000), data=["a"])], b"", "inputs.0.shape.0: input should be"),
        ([{**tensor("a", 1, data=["a"]), "shape": []}], b"", "expected [N] or [N, 1], got []"),
        ([{**tensor("a", 1, data=["a"]), "shape": [1, 2]}], b"", "got [1, 2]"),
        ([{**tensor("a", 1, data=["a"]), "shape": [1.5]}], b"", "inputs.0.shape.0: input should"),
        ([{**tensor("a", 1, data=["a"]), "datatype": "FP32"}], b"", "expected BYTES, got FP32"),
        ([{**tensor("a", 1, data=["a"]), "datatype": "xyz"}], b"", "expected BYTES, got another"),
        ([{"name": "a"}], b"", "inputs.0.shape: field required."),
        ([], b"", "inputs: list should have at least 1 item"),
        ([tensor("a", 1, data=["a"])] * 9, b"", "inputs: list should have at most 8 items"),
    ],
)
def test_malformed_tensors_say_what_was_expected_and_arrived(
    inputs: list[Content], binary: bytes, said: str
) -> None:
    with pytest.raises(MalformedRequestError) as caught:
        read({"inputs": inputs}, binary)
    assert said in caught.value.message


@pytest.mark.parametrize("header", ["", "-1", "1e3", "٣", "9" * 30, "0", "4"])
def test_malformed_length_of_the_json_is_refused(header: str) -> None:
    with pytest.raises(MalformedRequestError, match="Inference-Header-Content-Length: expected"):
        split_body(b"{}\0", header)


@pytest.mark.parametrize("count", [MAX_INSTANCES + 1, 2**63 - 1])
def test_more_instances_than_allowed_are_refused_before_they_are_read(count: int) -> None:
    with pytest.raises(RequestTooLargeError, match=f"at most {MAX_INSTANCES}"):
        read({"inputs": [tensor("a", count, data=["a"])]})
    with pytest.raises(RequestTooLargeError):
        read({"inputs": [tensor("a", count, parameters={SIZE: 4})]}, bytes(4))


def test_deep_and_long_json_is_refused_in_a_sentence() -> None:
    for body in (b"[" * 90_000, b"1" * 100_000, b'{"inputs": ' + b"[[" * 300, b"\xff"):
        with pytest.raises(MalformedRequestError) as caught:
            read_json(INFER_REQUEST, body)
        assert len(caught.value.message) < 200


json_values = st.recursive(
    st.none() | st.integers() | st.text(alphabet='a",[{\\\\é', max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=30,
)


def count_all(value: Any) -> int:
    """Return how many values there are, and one for each empty list, which has a mark, too."""
    if not isinstance(value, dict | list):
        return 1
    inside = list(value.values() if isinstance(value, dict) else value)
    return 1 + sum(map(count_all, inside)) + (not inside)


@settings(deadline=None)
@given(json_values)
def test_values_are_counted_without_what_is_in_strings(value: Any) -> None:
    # So many commas that the strings have to be left out.
    content = [value, "," * MOST_VALUES]
    assert count_values(json.dumps(content, ensure_ascii=False).encode()) == count_all(content)


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs": [' + b"[]," * MOST_VALUES + b"[]]}",
        b'{"inputs": [' + b'"",' * (3 * MOST_VALUES) + b'""]}',
        b'{"a": "\\\\", "inputs": [' + b"{}," * MOST_VALUES,
    ],
)
def test_json_of_too_many_values_is_refused_before_it_is_parsed(body: bytes) -> None:
    with pytest.raises(RequestTooLargeError, match=f"at most {MOST_VALUES} values"):
        read_json(INFER_REQUEST, body)


def test_long_strings_are_no_values() -> None:
    text = json.dumps('[",\\' * 300_000)
    content = (
        f'{{"inputs": [{{"name": "a", "shape": [1], "datatype": "BYTES", "data": [{text}]}}]}}'
    )
    for encoding in ("utf-8", "utf-8-sig"):
        request = read_json(INFER_REQUEST, content.encode(encoding))
        assert request.inputs[0].data == [json.loads(text)]


def requests_of(content: Content, kind: Kind | None, binary: bytes = b"") -> list[Request]:
    head = json.dumps(content).encode()
    found, rest = split_body(head + binary, str(len(head)))
    request = read_json(INFER_REQUEST, found)
    return build_requests(request, read_tensors(request, rest), kind)


def content_of(request: Request) -> bytes:
    """Return the body of a request, which is whole."""
    assert isinstance(request.body, bytes)
    return request.body


def test_each_kind_of_model_gets_what_its_handler_takes() -> None:
    def bodies(kind: Kind, inputs: Sequence[Content], **parameters: Any) -> list[Any]:
        found = requests_of({"inputs": inputs, "parameters": parameters}, kind)
        return [json.loads(content_of(each)) for each in found]

    text = [tensor("any name", 2, data=["a", "b"])]
    assert bodies(Kind.TEXT_GENERATION, text) == [{"text": "a"}, {"text": "b"}]
    assert bodies(Kind.TEXT_GENERATION, text, seed=1)[1] == {
        "inputs": "b",
        "parameters": {"seed": 1},
    }
    both = [tensor("context", 1, data=["c"]), tensor("question", 1, data=["q"])]
    assert bodies(Kind.QUESTION_ANSWERING, both) == [{"question": "q", "context": "c"}]
    assert bodies(Kind.QUESTION_ANSWERING, both, top_k=2) == [
        {"inputs": {"question": "q", "context": "c"}, "parameters": {"top_k": 2}}
    ]
    pair = [tensor("text", 1, data=["a"]), tensor("text_pair", 1, data=["b"])]
    assert bodies(Kind.SEQUENCE_CLASSIFICATION, pair) == [{"text": "a", "text_pair": "b"}]
    own = [tensor("text", 1, data=["a"], parameters={"top_k": 3, "content_type": "str"})]
    assert bodies(Kind.SEQUENCE_CLASSIFICATION, own) == [
        {"inputs": "a", "parameters": {"top_k": 3}}
    ]
    coded = [tensor("text", 1, data=["w6k="], parameters={"content_type": "base64"})]
    assert bodies(Kind.TOKEN_CLASSIFICATION, coded) == [{"text": "é"}]
    # What the request says, holds for inputs that say nothing.
    coded = [tensor("text", 1, data=["w6k="])]
    assert bodies(Kind.TOKEN_CLASSIFICATION, coded, content_type="base64") == [{"text": "é"}]
    plain = [tensor("text", 1, data=["w6k="], parameters={"content_type": "str"})]
    assert bodies(Kind.TOKEN_CLASSIFICATION, plain, content_type="base64") == [{"text": "w6k="}]


def test_recordings_are_the_bodies_of_requests() -> None:
    raw = b"\x00\xffRIFF"
    coded = base64.b64encode(raw).decode()
    inputs = [tensor("audio", 1, data=[coded], parameters={"content_type": "audio/L16; rate=8000"})]
    outputs = [{"name": "output", "parameters": {"content_type": "text/vtt"}}]
    (request,) = requests_of({"inputs": inputs, "outputs": outputs}, Kind.SPEECH_RECOGNITION)
    assert request == Request(raw, "audio/L16; rate=8000", "text/vtt")
    (request,) = requests_of(
        {"inputs": [binary_tensor("audio", [raw])]}, Kind.SPEECH_RECOGNITION, packed([raw])
    )
    assert request == Request(raw)
    (request,) = requests_of(
        {"inputs": [tensor("audio", 1, data=[coded])], "parameters": {"response_format": "srt"}},
        Kind.SPEECH_RECOGNITION,
    )
    assert json.loads(content_of(request)) == {"data": coded, "response_format": "srt"}
    (request,) = requests_of({"inputs": [tensor("audio", 1, data=[coded])]}, Kind.LIVE_SPEECH)
    objects = ({"b64": coded}, {"data": coded}, {"data": coded, "response_format": "json"}, 5)
    for each in (request, *(read_instance(each, Kind.LIVE_SPEECH, 0) for each in objects)):
        assert isinstance(each, Request)
        assert each.headers["ts_request_sequence_start"] == "true"
        assert each.headers["ts_request_sequence_end"] == "true"
    whole = read_instance({"data": coded}, Kind.SPEECH_RECOGNITION, 0)
    assert isinstance(whole, Request)
    assert whole.headers == {}


@pytest.mark.parametrize(
    ("content", "kind", "error_class", "said"),
    [
        (
            {"inputs": [tensor("question", 1, data=["q"])]},
            Kind.QUESTION_ANSWERING,
            MalformedRequestError,
            "inputs: expected question and context, got question.",
        ),
        (
            {"inputs": [tensor("text", 1, data=["q"]), tensor("canary", 1, data=["q"])]},
            Kind.SEQUENCE_CLASSIFICATION,
            MalformedRequestError,
            "inputs: expected text, and maybe text_pair, got text and another.",
        ),
        (
            {"inputs": [tensor("question", 1, data=["q"]), tensor("context", 2, data=["a", "b"])]},
            Kind.QUESTION_ANSWERING,
            MalformedRequestError,
            "inputs: expected tensors of one length, got [1, 2].",
        ),
        (
            {"inputs": [tensor("audio", 2, data=["AAAA", "no base64!"])]},
            Kind.SPEECH_RECOGNITION,
            MalformedRequestError,
            "Expected base64 in inputs.0.data.1, got something else.",
        ),
        (
            {"inputs": [tensor("text", 1, data=["a"])], "parameters": {"stream": True}},
            Kind.TEXT_GENERATION,
            ImpossibleRequestError,
            "Expected no stream",
        ),
        (
            {"inputs": [tensor("text", 1, data=["a"], parameters={"content_type": "a\r\nb: c"})]},
            Kind.SPEECH_RECOGNITION,
            MalformedRequestError,
            "inputs.0.parameters.content_type: expected a media type",
        ),
        (
            {"inputs": [tensor("text", 1, data=["a"])], "parameters": {"content_type": 5}},
            Kind.TEXT_GENERATION,
            MalformedRequestError,
            "parameters.content_type: expected a media type",
        ),
    ],
)
def test_inputs_that_a_model_does_not_take(
    content: Content, kind: Kind, error_class: type[EngineError], said: str
) -> None:
    with pytest.raises(error_class) as caught:
        requests_of(content, kind)
    assert said in str(caught.value)


def test_text_that_is_not_utf_8_is_refused() -> None:
    elements = [b"a", b"\xff"]
    with pytest.raises(MalformedRequestError, match=r"inputs.0.data.1: expected text in UTF-8"):
        requests_of(
            {"inputs": [binary_tensor("text", elements)]}, Kind.TEXT_GENERATION, packed(elements)
        )


def test_instances_are_asked_for_some_at_a_time_and_come_back_in_order() -> None:
    running = most = 0

    async def ask(request: Request) -> Answer:
        nonlocal running, most
        running += 1
        most = max(most, running)
        # The later one begins, the sooner it ends.
        for _ in range(50 - int(content_of(request)) % 50):
            await asyncio.sleep(0)
        running -= 1
        return Answer(200, {}, content_of(request))

    bodies = [b"%d" % number for number in range(100)]
    found = asyncio.run(answer_all(ask, [Request(each) for each in bodies]))
    assert [each.body for each in found if isinstance(each, Answer)] == bodies
    assert most == AT_ONCE


@pytest.mark.parametrize(("stop", "expected"), [(True, AT_ONCE), (False, 100)])
def test_error_ends_the_others_where_asked(stop: bool, expected: int) -> None:
    begun = 0

    async def ask(request: Request) -> Answer:
        nonlocal begun
        begun += 1
        await asyncio.sleep(0)
        if request.body == b"3":
            raise UnavailableError("Busy", "Expected room.")
        await asyncio.sleep(0)
        return Answer(200, {}, content_of(request))

    requests = [Request(b"%d" % number) for number in range(100)]
    found = asyncio.run(answer_all(ask, requests, stop))
    assert begun == expected
    assert isinstance(found[3], UnavailableError)
    assert sum(isinstance(each, Answer) for each in found) == expected - 1
