"""The text handler, with its demo models, through TorchServe's own loader."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import pipeline

from archives.building import build_archive
from archives.configs import read_configs
from demo_models.catalogue import TEXT_MODELS
from serving.local import load_archive
from support.common import EXAMPLES, TRACED, LoadModel, answers, load_text_model, pipeline_rows

LABELS = {"Accepted", "Not Accepted"}
TEXT_ARCHIVES = list(TEXT_MODELS)


def payloads_of(archive: str, count: int) -> list[Any]:
    """Return held-out requests of an archive's own little world, of unlike length."""
    return [example.payload for example in TEXT_MODELS[archive].held_out(count, seed=5)]


def rows_of(payloads: list[Any]) -> list[dict[str, Any]]:
    return [{"body": payload} for payload in payloads]


@pytest.mark.parametrize("archive", TEXT_ARCHIVES)
@pytest.mark.parametrize("batch_size", [2, 16])
def test_answer_does_not_depend_on_the_batch(
    archive: str, batch_size: int, load_model: LoadModel
) -> None:
    model = load_model(archive)
    rows = rows_of(payloads_of(archive, batch_size))
    together = model.answer(rows)
    assert together == [model.answer([row])[0] for row in rows]
    assert {reply.status for reply in together} == {200}


@pytest.mark.parametrize("archive", TEXT_ARCHIVES)
def test_broken_rows_fail_alone(archive: str, load_model: LoadModel) -> None:
    model = load_model(archive)
    good = rows_of(payloads_of(archive, 1))[0]
    rows = [{}, good, {"body": b"\xff\xfe"}, {"body": {"other": 1}}, {"body": [1, 2]}, good]
    replies = model.answer(rows)
    assert [reply.status for reply in replies] == [400, 200, 400, 400, 400, 200]
    assert replies[1] == replies[5] == model.answer([good])[0]


def test_sequence_classification_equals_the_pipeline(
    load_model: LoadModel, unpacked: Callable[[str], Path]
) -> None:
    texts = payloads_of("bert_seq_classification", 100)
    reference = pipeline("text-classification", str(unpacked("bert_seq_classification")))
    replies = load_model("bert_seq_classification").answer(rows_of(texts))
    assert [reply.answer for reply in replies] == [each["label"] for each in reference(texts)]
    assert {reply.answer for reply in replies} == LABELS


def test_token_classification_equals_the_pipeline(
    load_model: LoadModel, unpacked: Callable[[str], Path]
) -> None:
    texts = payloads_of("bert_token_classification", 100)
    reference = pipeline(
        "token-classification", str(unpacked("bert_token_classification")), ignore_labels=[]
    )
    replies = load_model("bert_token_classification").answer(rows_of(texts))
    for reply, expected in zip(replies, reference(texts), strict=True):
        assert reply.answer == [[token["word"], token["entity"]] for token in expected]


def test_generation_equals_the_pipeline(
    load_model: LoadModel, unpacked: Callable[[str], Path]
) -> None:
    prompts = payloads_of("gpt2_text_generation", 16)
    model = load_model("gpt2_text_generation")
    reference = pipeline("text-generation", str(unpacked("gpt2_text_generation")))
    replies = model.answer(rows_of(prompts))
    for prompt, reply in zip(prompts, replies, strict=True):
        expected = reference(
            prompt,
            max_new_tokens=model.handler.predictor.task.settings.max_new_tokens,
            do_sample=False,
        )
        assert reply.answer == expected[0]["generated_text"]


def test_answers_are_substrings_of_their_contexts(load_model: LoadModel) -> None:
    questions = payloads_of("bert_question_answering", 100)
    for question, reply in zip(
        questions, load_model("bert_question_answering").answer(rows_of(questions)), strict=True
    ):
        assert reply.answer
        assert reply.answer in question["context"]


@pytest.mark.parametrize("archive", TEXT_ARCHIVES)
def test_contract_methods_give_the_same_answers(archive: str, load_model: LoadModel) -> None:
    model = load_model(archive)
    rows = rows_of(payloads_of(archive, 3))
    input_ids, attention_mask = model.handler.preprocess(rows)
    assert input_ids.ndim == attention_mask.ndim == 2
    answers = model.handler.inference(model.handler.preprocess(rows))
    assert model.handler.postprocess(answers) is answers
    assert answers == [reply.answer for reply in model.answer(rows)]
    assert len(model.handler.inference((input_ids, attention_mask))) == 3
    assert model.handler.initialized
    assert model.handler.setup_config["mode"] == model.handler.predictor.task.settings.mode


def test_predictions_and_explanations_mix(load_model: LoadModel) -> None:
    model = load_model("bert_seq_classification")
    text = (EXAMPLES / "review_accepted.txt").read_text()
    rows = rows_of([text, text, {"text": text, "target": "Nonsense"}, {"text": text, "target": 0}])
    headers: list[dict[str, str]] = [{}] + [{"explain": "True"}] * 3
    replies = model.answer(rows, headers)
    assert [reply.status for reply in replies] == [200, 200, 422, 200]
    assert replies[0].answer == "Accepted"
    assert "Not Accepted" in replies[2].answer["message"]
    explanation = replies[1].answer
    assert explanation.keys() > {"words", "importances", "delta"}
    assert explanation["target"] == "Accepted"
    assert len(explanation["words"]) == len(explanation["importances"])
    # The logit of the other label falls where that of the predicted one rises.
    assert sum(explanation["importances"]) > sum(replies[3].answer["importances"])


def test_question_answering_explains_start_and_end(load_model: LoadModel) -> None:
    body = json.loads((EXAMPLES / "question.json").read_text())
    model = load_model("bert_question_answering")
    answer = model.answer([{"body": body}], [{"explain": "True"}])[0].answer
    assert answer.keys() > {
        "words",
        "importances_answer_start",
        "importances_answer_end",
        "delta_start",
        "delta_end",
    }
    assert answer["answer"] == "Maria Rossi"


def test_get_insights_takes_rows_encoded_elsewhere(load_model: LoadModel) -> None:
    handler = load_model("bert_seq_classification").handler
    text = (EXAMPLES / "review_accepted.txt").read_text()
    batch = handler.preprocess([{"body": text}])
    ours = handler.get_insights(batch, text, 1)
    assert handler.get_insights((batch[0], batch[1]), text, 1) == ours
    assert ours[0].keys() > {"words", "importances", "delta"}


@pytest.mark.parametrize("archive", TEXT_ARCHIVES)
def test_explanation_that_is_not_configured_is_refused(
    archive: str, unpacked: Callable[[str], Path], tmp_path: Path
) -> None:
    mode = read_configs()[archive].handler_settings["mode"]
    model = load_text_model(unpacked(archive), tmp_path, mode=mode)
    row = {"body": payloads_of(archive, 1)[0]}
    reply = model.answer([row], [{"explain": "True"}])[0]
    assert (reply.status, reply.answer["type"]) == (422, "ExplanationUnsupported")


@pytest.mark.parametrize("archive", TEXT_ARCHIVES)
def test_text_of_any_length_and_script_has_an_answer(archive: str, load_model: LoadModel) -> None:
    texts = ["🙂" * 50, "שלום עולם", "a" * 100_000, "word " * 20_000]
    if archive == "bert_question_answering":
        rows = rows_of([{"question": "Who?", "context": text} for text in texts])
    else:
        rows = rows_of(texts)
    assert [reply.status for reply in load_model(archive).answer(rows)] == [200] * 4


@pytest.mark.parametrize("save_mode", TRACED)
@pytest.mark.parametrize("archive", TEXT_ARCHIVES[:3])
def test_traced_model_answers_like_pretrained(
    archive: str, save_mode: str, load_model: LoadModel, tmp_path: Path
) -> None:
    config = read_configs()[archive]
    path = tmp_path / f"{archive}.yaml"
    text = config.path.read_text().replace("save_mode: pretrained", f"save_mode: {save_mode}")
    path.write_text(text.replace("captum_explanation: true", "captum_explanation: false"))
    settings = {**config.handler_settings, "save_mode": save_mode, "captum_explanation": False}
    changed = replace(config, path=path, handler_settings=settings)
    traced = load_archive(build_archive(changed, tmp_path, archive_format="no-archive"))
    rows = rows_of(payloads_of(archive, 20))
    assert type(traced.handler.model).__name__ == TRACED[save_mode]
    assert traced.answer(rows) == load_model(archive).answer(rows)


def test_compiled_model_answers_and_explains_alike(
    load_model: LoadModel, unpacked: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "archive"
    shutil.copytree(unpacked("bert_seq_classification"), folder)
    with (folder / "bert_seq_classification.yaml").open("a") as config:
        # The backend that runs the captured graph as it is needs no compiler on the machine.
        config.write("pt2:\n  compile: {enable: true, backend: eager}\n")
    compiled = load_archive(folder)
    rows = rows_of(payloads_of("bert_seq_classification", 8))
    assert isinstance(compiled.handler.model, torch._dynamo.OptimizedModule)
    assert compiled.answer(rows) == load_model("bert_seq_classification").answer(rows)
    assert compiled.answer(rows[:1], [{"explain": "True"}])[0].status == 200


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"num_labels": 3}, "num_labels: expected 2"),
        ({"model_parallel": True}, "model_parallel"),
        ({"save_mode": "torchscript"}, "captum_explanation"),
        ({"embedding_name": "nothing"}, "embedding_name: expected one of bert"),
        ({"mode": "question_answering"}, "fine-tuned for question_answering"),
        ({"mode": "translation"}, "mode: expected one of sequence_classification"),
        ({"quantization": "int8_dynamic", "dtype": "bfloat16"}, "quantization: expected a CPU"),
        (
            {
                "quantization": "int8_dynamic",
                "captum_explanation": False,
                "prompt_lookup_num_tokens": 8,
            },
            "prompt_lookup_num_tokens: expected no quantization",
        ),
    ],
)
def test_options_that_do_not_fit_stop_the_load(
    keys: dict[str, Any], said: str, unpacked: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "archive"
    shutil.copytree(unpacked("bert_seq_classification"), folder)
    path = folder / "bert_seq_classification.yaml"
    config = yaml.safe_load(path.read_text())
    config["handler"] |= keys
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=said):
        load_archive(folder)


def test_truncated_texts_are_reported_or_refused(
    unpacked: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = unpacked("bert_seq_classification")
    rows = rows_of(["The room was clean. " * 10, "The room was clean."])
    cutting = load_text_model(folder, tmp_path, max_length=20)
    replies = cutting.answer(rows)
    assert {reply.status for reply in replies} == {200}
    tokens = len(cutting.handler.tokenizer(rows[0]["body"])["input_ids"])
    headers = [cutting.service.context.get_response_headers(index) for index in range(2)]
    dropped = [each.get("X-Truncated-Tokens") for each in headers]
    assert dropped == [str(tokens - 20), None]
    refusing = load_text_model(folder, tmp_path, max_length=20, truncation=False)
    replies = refusing.answer(rows)
    assert [reply.status for reply in replies] == [413, 200]
    assert f"at most 20 tokens in the text, got {tokens}" in replies[0].answer["message"]


def test_int8_answers_nearly_alike(unpacked: Callable[[str], Path], tmp_path: Path) -> None:
    archive = "bert_seq_classification"
    texts = payloads_of(archive, 200)
    rows = pipeline_rows(texts, top_k=None)
    folder = unpacked(archive)
    quantized = load_text_model(folder, tmp_path, quantization="int8_dynamic")
    expected = [each[0] for each in answers(load_text_model(folder, tmp_path), rows)]
    found = [each[0] for each in answers(quantized, rows)]
    assert type(quantized.handler.model.classifier) is not torch.nn.Linear
    agree = sum(one["label"] == other["label"] for one, other in zip(found, expected, strict=True))
    assert agree >= 0.99 * len(texts)


def test_better_transformer_is_sdpa_with_one_line(
    unpacked: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = unpacked("bert_seq_classification")
    model = load_text_model(folder, tmp_path, BetterTransformer=True)
    assert model.handler.model.config._attn_implementation == "sdpa"
    said = [record.message for record in caplog.records if "BetterTransformer" in record.message]
    assert len(said) == 1
    eager = load_text_model(folder, tmp_path, attn_implementation="eager")
    assert eager.handler.model.config._attn_implementation == "eager"
    rows = rows_of(payloads_of("bert_seq_classification", 20))
    assert answers(model, rows) == answers(eager, rows)
