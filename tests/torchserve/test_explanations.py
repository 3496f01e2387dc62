"""Explanations beside direct calls of Captum, for every task, in batches; their pages."""

import html
import json
import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from captum.attr import LayerIntegratedGradients
from transformers import BertForSequenceClassification

from benchmarks.random_text_models import write_random_model
from demo_models.catalogue import TEXT_MODELS
from repository import ROOT
from serving.local import LocalModel, Reply
from support.common import EXAMPLES, LoadModel, load_text_model

EXPLAIN = {"explain": "True"}
SEQUENCE, TOKENS = "bert_seq_classification", "bert_token_classification"
QUESTIONS, GENERATION = "bert_question_answering", "gpt2_text_generation"
QUESTION = json.loads((EXAMPLES / "question.json").read_text())


def explain(model: LocalModel, *payloads: Any) -> list[Any]:
    replies = ask(model, *payloads)
    assert {reply.status for reply in replies} == {200}
    return [reply.answer for reply in replies]


def ask(model: LocalModel, *payloads: Any) -> list[Reply]:
    return model.answer([{"body": each} for each in payloads], [EXPLAIN] * len(payloads))


def held_out(archive: str, count: int) -> list[Any]:
    return [example.payload for example in TEXT_MODELS[archive].held_out(count, seed=11)]


def direct(
    model: LocalModel, texts: tuple[str, ...], head: int, place: tuple[int, ...], steps: int = 50
) -> torch.Tensor:
    """Return what Captum says of one text or pair, called as its tutorials do."""
    network, tokenizer = model.handler.model, model.handler.tokenizer
    inputs = tokenizer(*texts, return_tensors="pt", return_special_tokens_mask=True)
    special = inputs.pop("special_tokens_mask").bool()
    baseline = torch.where(special, inputs["input_ids"], tokenizer.pad_token_id)
    others = {name: each for name, each in inputs.items() if name != "input_ids"}

    def number(ids: torch.Tensor) -> torch.Tensor:
        rows = {name: each.expand(len(ids), -1) for name, each in others.items()}
        output: torch.Tensor = network(input_ids=ids, **rows)[head]
        for each in place:
            output = output[:, each]
        return output

    method = LayerIntegratedGradients(number, network.get_input_embeddings())
    found = method.attribute(inputs["input_ids"], baseline, n_steps=steps)
    return torch.as_tensor(found).sum(dim=-1)[0]


def assert_close(found: list[float], expected: torch.Tensor) -> None:
    torch.testing.assert_close(torch.tensor(found), expected.float().cpu(), atol=1e-4, rtol=0)


def test_classes_of_a_batch_are_captums(load_model: LoadModel) -> None:
    model = load_model(SEQUENCE)
    texts = held_out(SEQUENCE, 12)
    labels = {name: index for index, name in model.handler.mapping.items()}
    for text, answer in zip(texts, explain(model, *texts), strict=True):
        place = (labels[answer["target"]],)
        assert_close(answer["importances"], direct(model, (text,), 0, place))
        assert answer["target"] == model.answer([{"body": text}])[0].answer
        assert answer["probability"] >= 0.5
        change = sum(answer["importances"]) - answer["delta"]
        assert abs(answer["delta"]) < 0.2 * abs(change)


def test_entities_of_a_batch_are_captums(load_model: LoadModel) -> None:
    model = load_model(TOKENS)
    texts = held_out(TOKENS, 5)
    labels = {name: index for index, name in model.handler.mapping.items()}
    rows = [
        {"body": {"inputs": text, "parameters": {"aggregation_strategy": "simple"}}}
        for text in texts
    ]
    for text, answer, reply in zip(texts, explain(model, *texts), model.answer(rows), strict=True):
        found = [(each["word"], each["start"], each["end"]) for each in answer["entities"]]
        assert found == [(each["word"], each["start"], each["end"]) for each in reply.answer]
        offsets = model.handler.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        for each in answer["entities"][:2]:
            token = next(
                place
                for place, (start, end) in enumerate(offsets)
                if start == each["start"] and end > start
            )
            place = (token, labels[each["target"]])
            assert_close(each["importances"], direct(model, (text,), 0, place))


def test_answers_of_a_batch_are_captums(load_model: LoadModel) -> None:
    model = load_model(QUESTIONS)
    asked = held_out(QUESTIONS, 5)
    for payload, answer in zip(asked, explain(model, *asked), strict=True):
        texts = (payload["question"], payload["context"])
        encoding = model.handler.tokenizer(*texts)
        first = encoding.char_to_token(answer["start"], sequence_index=1)
        last = encoding.char_to_token(answer["end"] - 1, sequence_index=1)
        assert answer["answer"] == payload["context"][answer["start"] : answer["end"]]
        assert_close(answer["importances_answer_start"], direct(model, texts, 0, (first,)))
        assert_close(answer["importances_answer_end"], direct(model, texts, 1, (last,)))


def test_added_tokens_are_explained_by_the_prompt(load_model: LoadModel) -> None:
    model = load_model(GENERATION)
    prompt = "Once upon a time, a man"
    asked = {"do_sample": False, "n_steps": 50}
    payload = {"text": prompt, "parameters": {"max_new_tokens": 3, **asked}}
    short = {"text": "Once", "parameters": {"max_new_tokens": 2, **asked}}
    (answer, _) = explain(model, payload, short)
    tokenizer, network = model.handler.tokenizer, model.handler.model
    ids = tokenizer(prompt)["input_ids"]
    added = tokenizer.convert_tokens_to_ids(answer["generated"])
    plain = {"text": prompt, "parameters": {"max_new_tokens": 3, "do_sample": False}}
    assert model.answer([{"body": plain}])[0].answer == prompt + tokenizer.decode(added)
    assert answer["words"] == tokenizer.convert_ids_to_tokens(ids)
    for index, (token_id, row) in enumerate(zip(added, answer["importances"], strict=True)):
        whole = torch.tensor([[*ids, *added[:index]]])
        baseline = whole.clone()
        baseline[0, : len(ids)] = tokenizer.pad_token_id
        found = LayerIntegratedGradients(
            lambda rows, token_id=token_id: network(rows).logits[:, -1, token_id],
            network.get_input_embeddings(),
        ).attribute(whole, baseline, n_steps=50)
        assert_close(row, torch.as_tensor(found).sum(dim=-1)[0, : len(ids)])


@pytest.mark.parametrize("prompt", ["Great", "The old man", "9" * 60, "<script>alert(1)</script>"])
def test_steps_of_the_demo_archive_are_enough(prompt: str, load_model: LoadModel) -> None:
    asked: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}
    many = {"text": prompt, "parameters": {**asked, "n_steps": 50}}
    (shipped,) = explain(load_model(GENERATION), {"text": prompt, "parameters": asked})
    (exact,) = explain(load_model(GENERATION), many)
    assert (shipped["n_steps"], exact["n_steps"]) == (10, 50)
    found, right = torch.tensor(shipped["importances"]), torch.tensor(exact["importances"])
    most = right.abs().amax(dim=1)
    assert ((found - right).abs().amax(dim=1) < 5e-3 * most).all()
    assert ((found - right).abs().amax(dim=1) < 1e-3 * most).float().mean() > 0.8
    assert all(abs(delta) < 0.02 for delta in shipped["delta"])


def test_targets_by_name_index_word_pair_and_place(load_model: LoadModel) -> None:
    review = (EXAMPLES / "review_accepted.txt").read_text()
    model = load_model(SEQUENCE)
    by_name, by_index, by_text = explain(
        model, *({"text": review, "target": each} for each in ("Not Accepted", 0, "0"))
    )
    assert by_name == by_index == by_text
    assert (by_name["target"], by_name["prediction"]) == ("Not Accepted", "Accepted")
    assert "predicts Accepted" in show(model, {"text": review, "target": 0}, "text/html")
    model = load_model(TOKENS)
    text = "Maria Rossi works in Paris."
    word, pair = explain(
        model, {"text": text, "target": "Paris"}, {"text": text, "target": ["Mar", "B-LOC"]}
    )
    assert (word["target"], word["start"], word["end"]) == ("B-LOC", 21, 24)
    assert (pair["target"], pair["start"], pair["probability"] < 0.5) == ("B-LOC", 0, True)
    model = load_model(QUESTIONS)
    start = QUESTION["context"].index("Paris")
    (answer,) = explain(model, {**QUESTION, "target": {"start": start, "end": start + 5}})
    assert answer["answer"] == "Paris"


@pytest.mark.parametrize(
    ("problem", "labels"), [("multi_label_classification", 4), ("regression", 1)]
)
def test_heads_of_other_kinds_are_explained(problem: str, labels: int, tmp_path: Path) -> None:
    folder = write_random_model(
        tmp_path / "model",
        "roberta",
        "sequence_classification",
        num_labels=labels,
        problem_type=problem,
    )
    model = load_text_model(folder, tmp_path, captum_explanation=True)
    pair = {"text": "kalo miren", "text_pair": "stoba vitu ler."}
    best, last = explain(model, pair, {**pair, "target": f"LABEL_{labels - 1}"})
    texts = (pair["text"], pair["text_pair"])
    assert_close(last["importances"], direct(model, texts, 0, (labels - 1,)))
    place = int(best["target"].removeprefix("LABEL_"))
    assert_close(best["importances"], direct(model, texts, 0, (place,)))
    assert ("probability" in best) == (problem != "regression")


@pytest.mark.parametrize(
    ("archive", "payload", "target", "said"),
    [
        (SEQUENCE, {"text": "good"}, "Nonsense", "Not Accepted"),
        (SEQUENCE, {"text": "good"}, 2, "Not Accepted"),
        (SEQUENCE, {"text": "good"}, [1], "Not Accepted"),
        (TOKENS, {"text": "Ann works."}, "Bob", "B-PER"),
        (TOKENS, {"text": "Ann works."}, ["Ann", "B-NEW"], "B-PER"),
        (QUESTIONS, QUESTION, {"start": 5, "end": 5000}, "start and end"),
        (QUESTIONS, QUESTION, "Paris", "start and end"),
        (GENERATION, {"text": "Once"}, "upon", "absent"),
    ],
)
def test_bad_target_fails_alone_and_tells_which_there_are(
    archive: str, payload: Any, target: Any, said: str, load_model: LoadModel
) -> None:
    model = load_model(archive)
    small = {"parameters": {"n_steps": 2}}
    good = {**payload, **small}
    replies = ask(model, good, {**good, "target": target}, good)
    assert [reply.status for reply in replies] == [200, 422, 200]
    assert said in replies[1].answer["message"]
    assert replies[0] == replies[2]


def test_predictions_are_untouched_by_explanations(load_model: LoadModel) -> None:
    for archive in TEXT_MODELS:
        model = load_model(archive)
        payloads = held_out(archive, 2)
        rows = [{"body": each} for each in payloads]
        before = model.answer(rows)
        mixed = model.answer(rows * 2, [{}] * 2 + [EXPLAIN] * 2)
        assert mixed[:2] == before
        assert {reply.status for reply in mixed} == {200}
        assert model.answer(rows) == before
        for module in model.handler.model.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks
            assert not module._backward_hooks
        for weight in model.handler.model.parameters():
            assert weight.grad is None
            assert not weight.requires_grad


def test_steps_are_doubled_until_the_delta_is_small(tmp_path: Path) -> None:
    folder = write_random_model(tmp_path / "model", "bert", "sequence_classification")
    model = load_text_model(folder, tmp_path, captum_explanation=True, max_explanation_steps=256)
    text = "kalo miren stoba vitu"
    rough, sure, impossible = explain(
        model,
        {"text": text, "parameters": {"n_steps": 4}},
        {"text": text, "parameters": {"n_steps": 4, "tolerance": 0.01}},
        {"text": text, "parameters": {"n_steps": 4, "tolerance": 1e-9}},
    )
    change = sum(sure["importances"]) - sure["delta"]
    assert rough["n_steps"] == 4
    assert abs(rough["delta"]) > 0.01 * abs(change) >= abs(sure["delta"])
    assert 4 < sure["n_steps"] < impossible["n_steps"] == 256


def test_words_are_merged_and_measured(load_model: LoadModel) -> None:
    model = load_model(TOKENS)
    text = "Maria Rossi works for Acme in Paris."
    parameters = {"granularity": "word", "metrics": True}
    words, tokens = explain(
        model,
        {"text": text, "target": "Maria", "parameters": parameters},
        {"text": text, "target": "Maria"},
    )
    assert words["words"] == ["Maria", "Rossi", "works", "for", "Acme", "in", "Paris", "."]
    assert [text[start:end] for start, end in words["offsets"]] == words["words"]
    assert sum(words["importances"]) == pytest.approx(sum(tokens["importances"]), abs=1e-4)
    # Without its own words the entity is none, and with no others it is as sure as ever.
    change = sum(words["importances"]) - words["delta"]
    assert words["comprehensiveness"] > 0.5 * change > words["sufficiency"]


def test_explanations_are_bounded(tmp_path: Path) -> None:
    folder = ROOT / "demo_models" / SEQUENCE
    model = load_text_model(
        folder, tmp_path, captum_explanation=True, max_explanation_tokens=20, n_steps=5
    )
    replies = ask(model, "good " * 30, "good", {"text": "good", "parameters": {"n_steps": 501}})
    assert [reply.status for reply in replies] == [413, 200, 422]
    assert "at most 20 tokens in a text to explain, got 32" in replies[0].answer["message"]


@pytest.mark.parametrize(("archive", "word"), [(SEQUENCE, "good "), (GENERATION, "once ")])
def test_explanation_of_a_text_that_is_cut_says_so(
    archive: str, word: str, load_model: LoadModel
) -> None:
    model = load_model(archive)
    few = {"max_new_tokens": 1} if archive == GENERATION else {}
    long, short = ({"text": word * count, "parameters": few} for count in (400, 2))
    dropped = []
    for row in (long, short):
        for headers in ({}, EXPLAIN):
            (reply,) = model.answer([{"body": row}], [headers])
            assert reply.status == 200
            told = model.service.context.get_response_headers(0)
            dropped.append(int(told.get("X-Truncated-Tokens", 0)))
    assert dropped[0] == dropped[1] > 0
    assert dropped[2:] == [0, 0]


def test_scripted_models_refuse_explanations(tmp_path: Path) -> None:
    folder = ROOT / "demo_models" / SEQUENCE
    model = load_text_model(folder, tmp_path, save_mode="torchscript")
    reply = ask(model, "good")[0]
    assert (reply.status, reply.answer["type"]) == (422, "ExplanationUnsupported")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_attributions_in_bfloat16_point_the_same_way(dtype: str, tmp_path: Path) -> None:
    folder = ROOT / "demo_models" / SEQUENCE
    options = {"captum_explanation": True}
    exact = load_text_model(folder, tmp_path, **options)
    model = load_text_model(folder, tmp_path, dtype=dtype, **options)
    texts = held_out(SEQUENCE, 5)
    for one, other in zip(explain(model, *texts), explain(exact, *texts), strict=True):
        first, second = (torch.tensor(each["importances"]) for each in (one, other))
        assert float(torch.cosine_similarity(first, second, dim=0)) >= 0.995


def test_explanations_stay_in_float32_where_bfloat16_is_far_off(tmp_path: Path) -> None:
    """Embeddings that differ little, far from zero, are all the same in bfloat16."""
    folder = write_random_model(tmp_path / "model", "bert", "sequence_classification")
    network: Any = BertForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        network.bert.embeddings.word_embeddings.weight.add_(100)
    network.save_pretrained(folder)
    model = load_text_model(folder, tmp_path, dtype="bfloat16", captum_explanation=True)
    exact = load_text_model(folder, tmp_path, captum_explanation=True)
    assert next(model.handler.model.parameters()).dtype == torch.bfloat16
    texts = ["kalo miren", "stoba vitu ler"]
    for one, other in zip(explain(model, *texts), explain(exact, *texts), strict=True):
        if one["target"] == other["target"]:
            assert_close(one["importances"], torch.tensor(other["importances"]))
    assert next(model.handler.predictor._explainer._network.parameters()).dtype == torch.float32


def show(model: LocalModel, payload: Any, media_type: str) -> Any:
    (reply,) = model.answer([{"body": payload}], [{**EXPLAIN, "Accept": media_type}])
    assert reply.status == 200
    assert model.service.context.get_response_content_type(0) == media_type
    return reply.answer


def open_page(page: str, folder: Path) -> str:
    """Return the document that a browser makes of a page, scripts and all."""
    path = folder / "page.html"
    path.write_text(page)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    options += ["--virtual-time-budget=2000", f"--user-data-dir={folder / 'profile'}"]
    result = subprocess.run(
        ["chromium", *options, path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return result.stdout


def words_of(document: str) -> list[str]:
    """Return the words that a document shades, in their order."""
    shaded = re.findall(r'<span class="word" title=[^>]*>(.*?)</span>', document, re.DOTALL)
    return [html.unescape(word) for word in shaded]


needs_chromium = pytest.mark.skipif(
    shutil.which("chromium") is None, reason="chromium is not there, and could not be installed"
)
HOSTILE = (
    "The food was <script>document.title='owned'</script> good & \"nice\""
    "<img src=x onerror=\"document.title='owned'\"> $x$ שלום."
)


@needs_chromium
def test_page_shows_the_words_and_runs_nothing(load_model: LoadModel, tmp_path: Path) -> None:
    model = load_model(SEQUENCE)
    page = show(model, {"text": HOSTILE}, "text/html")
    (words,) = explain(model, {"text": HOSTILE, "parameters": {"granularity": "word"}})
    # Also where a browser does not know the policy that forbids scripts.
    without_policy = re.sub(r"<meta http-equiv[^>]*>", "", page)
    assert without_policy != page
    for each in (page, without_policy):
        document = open_page(each, tmp_path)
        assert "<title>Explanation</title>" in document
        assert words_of(document) == words["words"]
        text = html.unescape(re.sub(r"<[^>]*>", "", document.split("</h2>")[1]))
        assert HOSTILE in text
    assert "probability" in page
    assert words["target"] in page


@needs_chromium
def test_what_is_not_shaded_runs_nothing_either(load_model: LoadModel, tmp_path: Path) -> None:
    """The end of a text that is too long stands there as it is."""
    page = show(load_model(SEQUENCE), "good " * 200 + HOSTILE, "text/html")
    document = open_page(re.sub(r"<meta http-equiv[^>]*>", "", page), tmp_path)
    assert "<title>Explanation</title>" in document
    assert "&lt;script&gt;" in document
    assert "<script" not in document


@needs_chromium
def test_page_has_a_row_for_each_target(load_model: LoadModel, tmp_path: Path) -> None:
    page = open_page(show(load_model(QUESTIONS), QUESTION, "text/html"), tmp_path)
    assert page.count("<h2") == 2
    words = words_of(page)
    assert words[: len(words) // 2] == words[len(words) // 2 :]
    assert " ".join(words).count("Maria Rossi works for Acme") == 2
    page = open_page(show(load_model(TOKENS), "Maria Rossi works in Paris.", "text/html"), tmp_path)
    assert re.findall(r"<h2[^>]*>([^<]*)", page) == ["B-PER", "B-LOC"]
    payload = {"text": "Once upon a time", "parameters": {"max_new_tokens": 3}}
    model = load_model(GENERATION)
    page = open_page(show(model, payload, "text/html"), tmp_path)
    (answer,) = explain(model, {**payload, "parameters": {"max_new_tokens": 3}})
    assert len(re.findall(r"<tr>", page)) == 1 + len(answer["generated"])
    assert len(re.findall(r"<td", page)) == 3 * (len(answer["words"]) + 1)


def test_text_without_entities_has_a_page_too(load_model: LoadModel) -> None:
    model = load_model(TOKENS)
    (answer,) = explain(model, "The soup was cold.")
    assert answer["entities"] == []
    assert "finds no entity" in show(model, "The soup was cold.", "text/html")


@pytest.mark.parametrize("archive", TEXT_MODELS)
def test_chart_is_a_picture_of_the_words(archive: str, load_model: LoadModel) -> None:
    payload = held_out(archive, 1)[0]
    picture = show(load_model(archive), payload, "image/png")
    assert picture.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", picture[16:24])
    assert min(width, height) > 100


def test_explanation_is_of_the_answer_that_the_request_would_get(load_model: LoadModel) -> None:
    """With its own longest answer; and in one piece, whatever it says of streams."""
    model = load_model(QUESTIONS)
    wanted = {"inputs": QUESTION, "parameters": {"max_answer_len": 1}}
    (explained,) = explain(model, wanted)
    answer = model.answer([{"body": wanted}])[0].answer
    assert (explained["answer"], explained["start"]) == (answer["answer"], answer["start"])
    assert explained["answer"] != "Maria Rossi"
    model = load_model(GENERATION)
    whole, streamed = (
        explain(model, {"text": "Once", "parameters": {"max_new_tokens": 2, **more}})[0]
        for more in ({}, {"stream": True})
    )
    assert whole == streamed
