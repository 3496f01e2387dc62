"""A predictor: what it loads, and which examples it answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.eval_frame import OptimizedModule
from transformers import BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

from speechtext.allowance import allow
from speechtext.errors import RequestError, RequestTooLargeError
from speechtext.text.base import TextCosts
from speechtext.text.loading import CompileSettings
from speechtext.text.payloads import Example
from speechtext.text.predictor import TextPredictor
from speechtext.text.sampling import TokenEvent
from speechtext.text.settings import TextSettings
from speechtext.text.windows import EncodedBatch
from support.known_texts import (
    CLASSES,
    LOGITS,
    TEXT,
    VOCABULARY,
    answers,
    ask,
    classifier,
    close,
    finder,
    make_bert,
    make_predictor,
    pieces,
    table,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny model of classes, beside it the same as a TorchScript file."""
    path = tmp_path_factory.mktemp("model")
    # Its configuration names no token to pad with.
    model = make_bert(BertForSequenceClassification, id2label=CLASSES, pad_token_id=None)
    model.save_pretrained(path)
    pieces().save_pretrained(path)

    class Scripted(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = table(LOGITS, [0.0] * 3)

        def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor]:
            return (self.logits[input_ids[:, 1]],)

    torch.jit.script(Scripted()).save(path / "own.pt")
    return path


def class_logits(text: str) -> torch.Tensor:
    model = make_bert(BertForSequenceClassification, id2label=CLASSES)
    logits: torch.Tensor = model(**pieces()(text, return_tensors="pt")).logits[0].detach()
    return logits


def test_a_folder_is_loaded_for_its_task(folder: Path) -> None:
    predictor = TextPredictor.load(str(folder))
    texts = [TEXT, "Bob works .", "who lives in Paris ?"]
    payloads = [
        {"inputs": text, "parameters": {"top_k": None, "function_to_apply": "none"}}
        for text in texts
    ]
    for text, found in zip(texts, answers(predictor, *payloads), strict=True):
        scores = {each["label"]: each["score"] for each in found}
        assert scores == {CLASSES[i]: close(float(x)) for i, x in enumerate(class_logits(text))}
    costs = predictor.task.costs
    assert costs.character_s > 0
    assert costs.token_s > 0


def test_a_torchscript_file_is_loaded_by_its_name(folder: Path) -> None:
    settings = TextSettings(save_mode="torchscript")
    predictor = TextPredictor.load(folder, settings, file="own.pt")
    assert answers(predictor, "Ann works", "Bob works") == ["good", "bad"]


def test_a_model_is_compiled_as_the_settings_say(folder: Path) -> None:
    settings = CompileSettings(enable=True, backend="eager")
    # What is compiled runs as it was, without the time that tracing takes.
    with torch.compiler.set_stance("force_eager"):
        predictor = TextPredictor.load(folder, compile_settings=settings)
        assert isinstance(predictor.task.model.network, OptimizedModule)
        assert answers(predictor, TEXT) == [CLASSES[int(class_logits(TEXT).argmax())]]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_explanations_are_complete(dtype: Any, folder: Path) -> None:
    predictor = TextPredictor.load(folder, TextSettings(captum_explanation=True, dtype=dtype))
    payload = {"text": TEXT, "parameters": {"n_steps": 100}}
    (found,) = predictor.explain([predictor.read(payload, explain=True)])
    assert not isinstance(found, RequestError)
    content = found.content()
    logits = class_logits(TEXT)
    index = int(logits.argmax())
    assert content["target"] == CLASSES[index]
    inputs = pieces()(TEXT, return_tensors="pt")
    inputs["input_ids"][0, 1:-1] = 0
    model = make_bert(BertForSequenceClassification, id2label=CLASSES)
    change = float(logits[index] - model(**inputs).logits[0, index].detach())
    rounding = 1e-3 if dtype == "float32" else 0.05 * abs(change) + 0.02
    assert sum(content["importances"]) == pytest.approx(
        change, abs=rounding + abs(content["delta"])
    )
    assert abs(content["delta"]) < 0.05 * abs(change) + rounding


def test_an_explanation_that_takes_too_long_is_refused(folder: Path) -> None:
    """What a step takes was measured when the model was loaded."""
    settings = TextSettings(captum_explanation=True, max_explanation_steps=10**6)
    predictor = TextPredictor.load(folder, settings)
    payload = {"text": TEXT, "parameters": {"n_steps": 10**6}}
    with allow(20.0):
        (found,) = predictor.explain([predictor.read(payload, explain=True)])
    assert isinstance(found, RequestTooLargeError)
    assert found.kind == "TooMuchWork"
    assert "steps to explain 1 targets of 10 tokens together" in found.message


def test_a_model_without_explanations_gives_none() -> None:
    predictor = classifier()
    example = predictor.read("Ann", explain=True)
    batch = predictor.task.encode([example])
    with pytest.raises(ValueError, match=r"^Expected captum_explanation: true in the settings"):
        predictor.explain_batch(batch)


def test_texts_that_cost_too_much_are_refused_before_they_are_read_or_answered() -> None:
    predictor = classifier()
    texts = ["Ann " * 30, "Bob", "good " * 20, "Ann"]
    examples = [predictor.read(text) for text in texts]
    # Half of the four seconds may be spent: on 100 characters, and on 20 tokens with their frame.
    predictor.task.costs = TextCosts(character_s=0.02, token_s=0.0)
    with allow(4.0):
        found = predictor.answer(examples[:2])
    assert isinstance(found[0], RequestTooLargeError)
    assert found[0].kind == "TooMuchWork"
    assert "at most 100 characters of text" in found[0].message
    assert "got 120" in found[0].message
    assert not isinstance(found[1], RequestError)
    assert (found[1].content, found[1].tokens_in) == ("bad", 3)
    predictor.task.costs = TextCosts(token_s=0.1)
    with allow(4.0):
        found = predictor.answer([examples[2], examples[3], examples[1]])
    assert isinstance(found[0], RequestTooLargeError)
    assert "at most 20 tokens" in found[0].message
    assert "got 22" in found[0].message
    contents = [each.content for each in found[1:] if not isinstance(each, RequestError)]
    assert contents == ["good", "bad"]


def test_examples_that_cannot_be_cut_leave_the_others_their_answers() -> None:
    predictor = finder(max_length=16)
    payloads = [ask(), ask("a " * 9), ask(context="Bob")]
    examples = [predictor.read(each) for each in payloads]
    first, second, third = predictor.answer(examples)
    assert not isinstance(first, RequestError)
    assert isinstance(second, RequestTooLargeError)
    assert not isinstance(third, RequestError)
    assert (first.content, third.content) == ("Ljubljana", "Bob")
    # Each gets its own windows.
    seen: list[tuple[list[int], Sequence[int], list[Example]]] = []

    def look(batch: EncodedBatch, kept: Sequence[int]) -> list[str]:
        owners = [window.owner for window in batch.windows]
        seen.append((owners, kept, list(batch.examples)))
        return ["one", "two"]

    found = predictor.run(examples, look)
    assert (found[0], found[2]) == ("one", "two")
    assert isinstance(found[1], RequestTooLargeError)
    assert seen == [([0, 1], [0, 2], [examples[0], examples[2]])]


@pytest.fixture(scope="module")
def continuing() -> TextPredictor:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(VOCABULARY),
        n_embd=8,
        n_layer=1,
        n_head=1,
        n_positions=24,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    network = GPT2LMHeadModel(config).eval()
    return make_predictor("text_generation", network, {}, config, 24, truncation=False)


def test_tokens_of_a_stream_are_told_with_the_number_of_their_example(
    continuing: TextPredictor,
) -> None:
    parameters = {"max_new_tokens": 3, "do_sample": False}
    texts = ["a " * 40, "Ann lives", "Bob works in"]
    examples = [
        continuing.read({"inputs": text, "parameters": parameters, "stream": text == texts[2]})
        for text in texts
    ]
    told: list[tuple[int, TokenEvent]] = []
    found = continuing.answer(examples, lambda owner, event: told.append((owner, event)))
    assert isinstance(found[0], RequestTooLargeError)
    contents = [each.content for each in found[1:] if not isinstance(each, RequestError)]
    assert len(contents) == 2
    streamed = {owner: [event for each, event in told if each == owner] for owner, _ in told}
    assert [event.index for event in streamed[2]] == [1, 2, 3]
    added = "".join(event.token.text for event in streamed[2])
    assert contents[1] == [{"generated_text": texts[2] + added}]
    assert streamed.keys() == {2}
    again = continuing.answer(examples)
    assert [each.content for each in again[1:] if not isinstance(each, RequestError)] == contents
