"""Requests within every other limit that would take a worker longer than its server waits."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from archives.own_configs import demo_configs
from repository import ROOT
from serving.local import LocalModel, Reply, build_with_settings, load_archive
from speechtext.errors import MalformedRequestError
from speechtext.payloads import LONGEST_LITERAL, as_fields
from speechtext.speech.costs import PROBE_S, SpeechCost
from speechtext.text.base import CHARACTERS_PER_TOKEN, MOST_CHARACTERS, TextCosts
from support.common import EXAMPLES, LoadModel, pipeline_rows

EXPLAIN = {"explain": "True"}
ENTITIES = "Maria Rossi works for Acme in Rome. " * 6
SPEECH = (EXAMPLES / "turn_on_the_kitchen_lights.wav").read_bytes()


def load_with_timeout(name: str, timeout_s: float, workspace: Path, **settings: Any) -> LocalModel:
    """Return a demo model whose server waits so long for an answer."""
    config = demo_configs()[name]
    source = ROOT / "demo_models" / Path(config.source).name
    keys = {"responseTimeout": timeout_s}
    return load_archive(build_with_settings(config, source, workspace, keys, **settings))


def set_costs(
    model: LocalModel, step_s: float = 0.0, token_s: float = 0.0, new_token_s: float = 0.0
) -> None:
    """Let a model's work take what a slower machine would have measured."""
    predictor = model.handler.predictor
    predictor.task.costs = TextCosts(token_s=token_s, new_token_s=new_token_s)
    if predictor._explainer:
        predictor._explainer.step_s = step_s


def explain(model: LocalModel, text: str, **parameters: Any) -> Reply:
    (reply,) = model.answer(pipeline_rows([text], **parameters), [EXPLAIN])
    return reply


def most_of(reply: Reply) -> int:
    """Return the limit that a refusal tells."""
    assert (reply.status, reply.answer["type"]) == (413, "TooMuchWork")
    return int(reply.answer["message"].split("at most ")[1].split()[0])


def count_runs(model: LocalModel) -> list[int]:
    """Return a list to which each call of the network adds its tokens."""
    runs: list[int] = []
    model.handler.model.register_forward_pre_hook(
        lambda _, args, inputs: runs.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    return runs


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    return load_with_timeout("bert_token_classification", 120, tmp_path_factory.mktemp("tagger"))


def test_each_load_measures_what_answers_take(load_model: LoadModel) -> None:
    for name in ("bert_seq_classification", "bert_question_answering", "gpt2_text_generation"):
        predictor = load_model(name).handler.predictor
        costs = predictor.task.costs
        assert costs.character_s > 0
        assert costs.token_s > 0
        assert costs.new_token_s > 0
        assert predictor._explainer.step_s > 0
    for name in ("wav2vec2", "emformer_asr", "emformer_asr_live"):
        assert load_model(name).handler.recognizer.cost.probe_cost_s > 0


def test_explanation_of_many_steps_is_refused_before_it_is_begun(tagger: LocalModel) -> None:
    set_costs(tagger, step_s=3e-3)
    runs = count_runs(tagger)
    assert explain(tagger, ENTITIES, n_steps=2).status == 200
    begun = len(runs)
    most = most_of(explain(tagger, ENTITIES, n_steps=500))
    # The entities were found, in one run, and nothing was explained.
    assert len(runs) == begun + 1
    assert explain(tagger, ENTITIES, n_steps=most - 3).status == 200
    assert explain(tagger, ENTITIES, n_steps=most - 2).status == 413


@pytest.mark.parametrize("method", ["occlusion", "layer_gradient_x_activation"])
def test_other_methods_have_a_cost_too(tagger: LocalModel, method: str) -> None:
    set_costs(tagger, step_s=1.0)
    most_of(explain(tagger, ENTITIES, method=method))
    set_costs(tagger, step_s=1e-9)
    assert explain(tagger, ENTITIES, method=method).status == 200


def test_tolerance_is_sought_as_long_as_there_is_time(tagger: LocalModel) -> None:
    set_costs(tagger, step_s=0.0)
    exact = explain(tagger, "Maria Rossi works.", n_steps=2, tolerance=1e-6)
    set_costs(tagger, step_s=0.4)
    cut = explain(tagger, "Maria Rossi works.", n_steps=2, tolerance=1e-6)
    found, fewer = (each.answer["entities"][0]["n_steps"] for each in (exact, cut))
    assert (exact.status, cut.status) == (200, 200)
    assert 2 <= fewer < found


def test_text_of_many_windows_is_refused_before_it_is_read(tagger: LocalModel) -> None:
    set_costs(tagger, token_s=3e-2)
    runs = count_runs(tagger)
    rows = pipeline_rows(["Rome " * 4000, "Maria Rossi"], aggregation_strategy="simple")
    large, small = tagger.answer(rows)
    most = most_of(large)
    assert [small.status, small.answer[0]["word"]] == [200, "Maria Rossi"]
    assert sum(runs) < 20
    assert most == 2000


def test_batch_shares_its_time(tagger: LocalModel) -> None:
    set_costs(tagger, token_s=3e-2)
    context = tagger.service.context
    rows = pipeline_rows(["Rome " * count for count in (900, 3, 900, 900)])
    replies = tagger.answer(rows)
    assert sorted(each.status for each in replies) == [200, 200, 503, 503]
    assert replies[1].status == 200
    waiting = [index for index, each in enumerate(replies) if each.status == 503]
    assert {replies[index].answer["type"] for index in waiting} == {"WorkerBusy"}
    assert all(int(context.get_response_headers(each)["Retry-After"]) > 0 for each in waiting)
    for index in waiting:
        # Alone it is answered.
        assert tagger.answer([rows[index]])[0].status == 200


def test_work_that_takes_longer_than_it_was_measured_is_given_up(tmp_path: Path) -> None:
    model = load_with_timeout("bert_token_classification", 1, tmp_path)
    set_costs(model)
    rows = pipeline_rows([ENTITIES, "Maria Rossi"], n_steps=500)
    replies = model.answer(rows, [EXPLAIN, EXPLAIN])
    assert [each.status for each in replies] == [503, 503]
    assert {each.answer["type"] for each in replies} == {"TookTooLong"}
    assert model.answer([{"body": "Maria Rossi"}])[0].status == 200


def test_continuation_is_refused_by_its_new_tokens(tmp_path: Path) -> None:
    model = load_with_timeout("gpt2_text_generation", 120, tmp_path)
    set_costs(model, new_token_s=3.0)
    over, fits = (
        model.answer(pipeline_rows(["Once"], max_new_tokens=count))[0] for count in (21, 20)
    )
    assert most_of(over) == 20
    assert fits.status == 200


def test_stream_goes_to_whom_it_belongs_where_another_is_refused(tmp_path: Path) -> None:
    model = load_with_timeout("gpt2_text_generation", 120, tmp_path)
    set_costs(model, new_token_s=3.0)
    rows = [
        {"body": {"inputs": "Once", "parameters": {"max_new_tokens": count, "stream": stream}}}
        for count, stream in ((30, False), (3, True), (30, True), (2, True))
    ]
    replies = model.answer(rows)
    assert [each.status for each in replies] == [413, 200, 413, 200]
    for reply, count in ((replies[1], 3), (replies[3], 2)):
        events = [json.loads(line[5:]) for line in reply.answer.split("\n\n") if line]
        assert [event["index"] for event in events] == list(range(1, count + 1))


def test_characters_are_counted_before_they_are_tokenised(load_model: LoadModel) -> None:
    model = load_model("bert_seq_classification")
    most = CHARACTERS_PER_TOKEN * 150
    fits, longer = (model.answer([{"body": "a" * count}])[0] for count in (most, most + 1))
    assert fits.status == 200
    assert (longer.status, longer.answer["type"]) == (413, "TextTooLong")
    assert f"at most {most} characters" in longer.answer["message"]


def test_text_that_is_read_whole_has_a_limit_too(load_model: LoadModel) -> None:
    context = {"question": "Who works?", "context": "1," * (MOST_CHARACTERS // 2)}
    for name, payload in (
        ("bert_token_classification", "{" + "1," * (MOST_CHARACTERS // 2)),
        ("bert_question_answering", context),
    ):
        (reply,) = load_model(name).answer([{"body": payload}])
        assert (reply.status, reply.answer["type"]) == (413, "TextTooLong")


def test_answers_to_a_question_are_bounded(load_model: LoadModel) -> None:
    model = load_model("bert_question_answering")
    content = {"question": "Who works?", "context": "Maria Rossi works for Acme. " * 80}
    many, most = (
        model.answer(pipeline_rows([content], top_k=top_k, max_answer_len=100_000))[0]
        for top_k in (101, 100)
    )
    assert (many.status, many.answer["type"]) == (422, "InvalidParameter")
    assert most.status == 200
    assert 1 < len(most.answer) <= 100


@pytest.mark.parametrize("declared", [True, False])
def test_long_object_that_is_no_json_is_not_parsed_as_python(declared: bool) -> None:
    content = {"text": "x" * LONGEST_LITERAL}
    with pytest.raises(MalformedRequestError) as caught:
        as_fields(repr(content).encode(), declared)
    assert caught.value.kind == "MalformedJson"
    assert "xxx" not in caught.value.message
    assert as_fields(json.dumps(content).encode(), declared) == content
    short: Mapping[str, str] = {"text": "it's"}
    assert as_fields(repr(short).encode(), declared) == short


def test_long_text_that_begins_with_a_brace_is_a_text() -> None:
    text = "{note} " * 20_000
    assert as_fields(text.encode(), False) == text


@pytest.mark.parametrize("name", ["wav2vec2", "emformer_asr"])
def test_recordings_of_a_batch_share_its_time(name: str, tmp_path: Path) -> None:
    model = load_with_timeout(name, 120, tmp_path)
    duration_s = len(SPEECH[44:]) / 2 / model.handler.recognizer.sample_rate_hz
    # Two of them fit into a minute.
    model.handler.recognizer.cost = SpeechCost(28 * PROBE_S / duration_s)
    replies = model.answer([{"body": SPEECH}] * 3)
    assert [each.status for each in replies] == [200, 200, 503]
    assert {each.answer.lower() for each in replies[:2]} == {"turn on the kitchen lights"}
    assert replies[2].answer["type"] == "WorkerBusy"


def test_live_chunk_that_is_not_recognised_ends_its_session(tmp_path: Path) -> None:
    model = load_with_timeout("emformer_asr_live", 3, tmp_path)
    model.handler.recognizer.cost = SpeechCost(probe_cost_s=100 * PROBE_S)
    headers = {"ts_request_sequence_id": "a", "ts_request_sequence_start": "true"}
    (refused,) = model.answer([{"body": SPEECH}], [headers])
    assert (refused.status, refused.answer["type"]) == (413, "TooMuchWork")
    (gone,) = model.answer([{"body": b""}], [{"ts_request_sequence_id": "a"}])
    assert gone.status == 410


def test_warning_says_that_recordings_are_shorter_than_the_settings(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    model = load_with_timeout("wav2vec2", 1, tmp_path)
    assert "not of max_audio_seconds (3600)" in caplog.text
    long = (
        b"RIFF"
        + b"\xff\xff\xff\xffWAVEfmt "
        + SPEECH[16:40]
        + b"\xff\xff\xff\xff"
        + bytes(20_000_000)
    )
    (reply,) = model.answer([{"body": long}])
    assert (reply.status, reply.answer["type"]) == (413, "AudioTooLong")
