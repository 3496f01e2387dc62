"""Continuations: the same in any batch, each with its own parameters, whole or as a stream."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from benchmarks.random_text_models import write_random_model
from demo_models.catalogue import TEXT_MODELS
from serving.local import LocalModel
from support.common import LoadModel, answers, lines, load_text_model, pipeline_rows

ARCHIVE = "gpt2_text_generation"


def prompts(count: int) -> list[str]:
    held_out = TEXT_MODELS[ARCHIVE].held_out(count, seed=3)
    return [str(example.payload) for example in held_out]


def ask(prompt: str, **parameters: Any) -> dict[str, Any]:
    return {"body": {"inputs": prompt, "parameters": parameters}}


def texts(model: LocalModel, rows: list[dict[str, Any]]) -> list[str]:
    return [answer[0]["generated_text"] for answer in answers(model, rows)]


@pytest.fixture(scope="module")
def decided(tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalModel, Path]:
    """Return a tiny model of random weights, which never ends by itself, and its folder."""
    workspace = tmp_path_factory.mktemp("generation")
    folder = write_random_model(workspace / "model", "gpt2", "text_generation")
    return load_text_model(folder, workspace, mode="text_generation", do_sample=False), folder


PARAMETERS: list[dict[str, Any]] = [
    {},
    {"max_new_tokens": 3},
    {"do_sample": True, "seed": 5},
    {"do_sample": True, "seed": 6, "temperature": 0.7, "top_k": 5},
    {"temperature": 1.5, "top_p": 0.8, "seed": 7, "max_new_tokens": 20},
    {"repetition_penalty": 1.8},
    {"stop": ["e", "zzz"]},
    {"return_full_text": False, "max_new_tokens": 1},
]


def test_each_of_a_batch_gets_what_it_gets_alone(load_model: LoadModel) -> None:
    """Whatever the others ask for; prompts are of unlike length."""
    model = load_model(ARCHIVE)
    rows = [
        ask(prompt, **PARAMETERS[index % len(PARAMETERS)])
        for index, prompt in enumerate(prompts(40))
    ]
    together = texts(model, rows)
    assert together == [texts(model, [row])[0] for row in rows]
    assert texts(model, rows[::-1]) == together[::-1]


def test_random_weights_give_each_of_a_batch_what_it_gets_alone(
    decided: tuple[LocalModel, Path],
) -> None:
    model, _ = decided
    rows = [
        ask(prompt, **PARAMETERS[index % len(PARAMETERS)])
        for index, prompt in enumerate(lines(32, 15))
    ]
    assert texts(model, rows) == [texts(model, [row])[0] for row in rows]


def test_greedy_continuations_are_the_pipelines(
    decided: tuple[LocalModel, Path], load_model: LoadModel
) -> None:
    model, folder = decided
    reference: Any = pipeline("text-generation", str(folder))
    for parameters in ({}, {"repetition_penalty": 1.3}, {"return_full_text": False}):
        found = answers(model, [ask(text, max_new_tokens=9, **parameters) for text in lines(30)])
        expected = [
            reference(text, max_new_tokens=9, do_sample=False, **parameters) for text in lines(30)
        ]
        assert found == expected


def test_samples_follow_the_distribution_of_the_model(decided: tuple[LocalModel, Path]) -> None:
    """Of a thousand first tokens, each comes about as often as transformers says it should."""
    model, folder = decided
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    network: Any = AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer("kalo miren", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        logits = network(ids).logits[0, -1] / 2.0
    best = logits.topk(4)
    expected = best.values.softmax(dim=0)
    wanted = {"temperature": 2.0, "top_k": 4, "top_p": 1.0, "max_new_tokens": 1}
    rows = [ask("kalo miren", seed=seed, return_full_text=False, **wanted) for seed in range(1000)]
    counts = Counter(texts(model, rows))
    for token, share in zip(best.indices.tolist(), expected.tolist(), strict=True):
        deviation = (share * (1 - share) / len(rows)) ** 0.5
        assert abs(counts.pop(tokenizer.decode([token])) / len(rows) - share) < 4 * deviation
    assert not counts


def test_seeds_repeat_and_their_absence_does_not(decided: tuple[LocalModel, Path]) -> None:
    model, _ = decided
    wanted = {"do_sample": True, "top_p": 1.0, "top_k": 0, "temperature": 3.0}
    seeded = [ask("kalo", seed=9, **wanted)] * 3
    assert len(set(texts(model, seeded))) == 1
    assert len(set(texts(model, [ask("kalo", **wanted)] * 5))) == 5


def test_text_ends_with_what_stops_it(decided: tuple[LocalModel, Path]) -> None:
    model, _ = decided
    whole = texts(model, [ask(line, return_full_text=False) for line in lines(20)])
    for line, text in zip(lines(20), whole, strict=True):
        stops = [text[10:13], text[4:6]]
        found = texts(model, [ask(line, return_full_text=False, stop=stops)])[0]
        ends = [text.find(stop) + len(stop) for stop in stops]
        assert found == text[: min(ends)]


def test_end_of_text_ends_a_row_and_not_its_neighbours(tmp_path: Path) -> None:
    folder = write_random_model(tmp_path / "model", "gpt2", "text_generation")
    free = load_text_model(folder, tmp_path, mode="text_generation", do_sample=False)
    rows = [ask(line, return_full_text=False, max_new_tokens=30) for line in lines(16)]
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    whole = texts(free, rows)
    often = Counter(token for text in whole for token in set(tokenizer(text)["input_ids"]))
    path = folder / "generation_config.json"
    end_id = often.most_common(1)[0][0]
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": [0, end_id]}))
    ending = load_text_model(folder, tmp_path, mode="text_generation", do_sample=False)
    lengths = []
    for row, text in zip(rows, texts(ending, rows), strict=True):
        assert text == texts(ending, [row])[0]
        lengths.append(len(text))
    assert len(set(lengths)) > 3
    assert all(
        whole[index].startswith(text.rstrip()) for index, text in enumerate(texts(ending, rows))
    )


def events(answer: str) -> list[dict[str, Any]]:
    lines_of_answer = answer.split("\n\n")
    assert lines_of_answer.pop() == ""
    return [json.loads(line.removeprefix("data:")) for line in lines_of_answer]


def test_stream_tells_the_same_text_token_by_token(decided: tuple[LocalModel, Path]) -> None:
    model, folder = decided
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    for parameters in ({}, {"stop": ["o"]}, {"do_sample": True, "seed": 3}, {"max_new_tokens": 1}):
        row = ask("kalo miren 🙂", return_full_text=False, **parameters)
        whole = texts(model, [row])[0]
        told = events(answers(model, [ask("kalo miren 🙂", stream=True, **parameters)])[0])
        assert "".join(event["token"]["text"] for event in told) == whole
        assert [event["index"] for event in told] == list(range(1, len(told) + 1))
        assert all(event["generated_text"] is None for event in told[:-1])
        assert told[-1]["generated_text"] == whole
        details = told[-1]["details"]
        assert details["generated_tokens"] == len(told)
        assert details["finish_reason"] == ("stop_sequence" if "stop" in parameters else "length")
        assert all(event["token"]["logprob"] <= 0 for event in told)
        ids = [event["token"]["id"] for event in told]
        assert tokenizer.decode(ids).startswith(whole)


def test_characters_of_several_tokens_are_told_whole(tmp_path: Path) -> None:
    """No event ends in the middle of a character."""
    folder = write_random_model(tmp_path / "model", "gpt2", "text_generation", seed=4)
    model = load_text_model(folder, tmp_path, mode="text_generation", do_sample=False)
    wanted = {"stream": True, "temperature": 50.0, "top_k": 0, "top_p": 1.0, "seed": 1}
    rows = [ask(f"{index} ", **{**wanted, "seed": index}) for index in range(20)]
    for answer in answers(model, rows):
        told = events(answer)
        pieces = "".join(event["token"]["text"] for event in told)
        assert pieces == told[-1]["generated_text"]
        assert len(pieces) > 5


def test_prompts_longer_than_the_model_are_cut_or_refused(tmp_path: Path) -> None:
    folder = write_random_model(tmp_path / "model", "gpt2", "text_generation")
    options: dict[str, Any] = {"mode": "text_generation", "do_sample": False, "max_length": 64}
    cutting = load_text_model(folder, tmp_path, **options)
    refusing = load_text_model(folder, tmp_path, truncation=False, **options)
    long = " ".join(lines(20))
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tail = str(tokenizer.decode(tokenizer(long)["input_ids"][-64:]))
    rows = [ask(long, max_new_tokens=5), ask("kalo", max_new_tokens=5)]
    found = texts(cutting, rows)
    expected = texts(cutting, [ask(tail, max_new_tokens=5, return_full_text=False)])[0]
    assert found[0] == long + expected
    dropped = len(tokenizer(long)["input_ids"]) - 64
    cutting.answer(rows)
    header = cutting.service.context.get_response_headers(0).get("X-Truncated-Tokens")
    assert header == str(dropped)
    assert "X-Truncated-Tokens" not in cutting.service.context.get_response_headers(1)
    cutting.answer([ask(long, max_new_tokens=5, stream=True)])
    header = cutting.service.context.get_response_headers(0).get("X-Truncated-Tokens")
    assert header == str(dropped)
    replies = refusing.answer(rows)
    assert [reply.status for reply in replies] == [413, 200]
    assert f"at most 64 tokens in the text, got {dropped + 64}" in replies[0].answer["message"]
    assert refusing.answer([ask("kalo", max_new_tokens=128)])[0].status == 422
    assert refusing.answer([ask("kalo", max_new_tokens=127)])[0].status == 200


def test_rows_of_pipeline_and_plain_form_mix(decided: tuple[LocalModel, Path]) -> None:
    model, _ = decided
    plain = {"body": {"text": "kalo", "parameters": {"max_new_tokens": 4}}}
    found = answers(model, [plain, *pipeline_rows(["kalo"], max_new_tokens=4)])
    assert found[1] == [{"generated_text": found[0]}]


def test_a_checkpoints_own_sampling_does_not_choose_tokens(
    decided: tuple[LocalModel, Path], tmp_path: Path
) -> None:
    model, folder = decided
    other = shutil.copytree(folder, tmp_path / "model")
    path = other / "generation_config.json"
    defaults = {"repetition_penalty": 9.0, "do_sample": True, "temperature": 3.0, "top_k": 3}
    path.write_text(json.dumps({**json.loads(path.read_text()), **defaults}))
    changed = load_text_model(other, tmp_path, mode="text_generation", do_sample=False)
    rows = [ask(line, max_new_tokens=15) for line in lines(10)]
    assert texts(changed, rows) == texts(model, rows)


def test_details_tell_the_tokens_of_one_row_alone(decided: tuple[LocalModel, Path]) -> None:
    model, _ = decided
    rows = [ask("kalo", max_new_tokens=count, details=True) for count in (3, 9)]
    for answer, count in zip(answers(model, rows), (3, 9), strict=True):
        details = answer[0]["details"]
        assert details["generated_tokens"] == len(details["tokens"]) == count
        pieces = "".join(token["text"] for token in details["tokens"])
        assert answer[0]["generated_text"] == "kalo" + pieces


def test_most_probable_tokens_are_told_beside_each(decided: tuple[LocalModel, Path]) -> None:
    """Those of transformers, of the logits that a plain forward pass has at each position."""
    model, folder = decided
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    network: Any = AutoModelForCausalLM.from_pretrained(folder)
    asked: dict[str, Any] = {"max_new_tokens": 6, "top_n_tokens": 3, "return_full_text": False}
    rows = [ask("kalo", details=True, **asked), ask("miren kalo", stream=True, **asked)]
    (whole,), streamed = answers(model, rows)
    details, told = whole["details"], events(streamed)
    for prompt, tokens, tops, length in (
        ("kalo", details["tokens"], details["top_tokens"], details["input_length"]),
        (
            "miren kalo",
            [each["token"] for each in told],
            [each["top_tokens"] for each in told],
            told[-1]["details"]["input_length"],
        ),
    ):
        ids = tokenizer(prompt)["input_ids"]
        assert length == len(ids)
        added = [each["id"] for each in tokens]
        logits = network(torch.tensor([ids + added])).logits[0, len(ids) - 1 : -1]
        values, best = logits.log_softmax(dim=-1).topk(3)
        assert [[each["id"] for each in top] for top in tops] == best.tolist()
        assert [each["logprob"] for top in tops for each in top] == pytest.approx(
            values.flatten().tolist(), abs=1e-4
        )
        assert added == best[:, 0].tolist()


def test_alternatives_that_cannot_be_drawn_are_not_told(
    decided: tuple[LocalModel, Path],
) -> None:
    model, _ = decided
    asked: dict[str, Any] = {"do_sample": True, "top_k": 2, "top_p": 1.0, "seed": 1}
    row = ask("kalo", details=True, top_n_tokens=5, max_new_tokens=4, **asked)
    ((answer,),) = answers(model, [row])
    assert [len(top) for top in answer["details"]["top_tokens"]] == [2] * 4
    assert model.answer([ask("kalo", top_n_tokens=6)])[0].status == 422
