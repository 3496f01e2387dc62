"""Explanations of several texts in one call, by the library: steps, metrics and what is told."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from captum.attr import FeatureAblation, IntegratedGradients
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaTokenizer,
)

from benchmarks.random_text_models import (
    make_tokenizer,
    write_random_model,
    write_random_weights,
)
from repository import ROOT
from speechtext.errors import RequestError
from speechtext.text.explanation.explainer import TOP_WORDS
from speechtext.text.explanation.explanation import Explanation
from speechtext.text.explanation.targets import Explained, WordSpan
from speechtext.text.predictor import TextPredictor
from speechtext.text.settings import TextSettings
from support.llama import make_spaced_tokenizer
from support.text_models import BART_SIZES

DEMO = ROOT / "demo_models" / "bert_seq_classification"
MOST_STEPS = 64
TEXTS = (
    "The food was wonderful.",
    "I have never been so bored.",
    "Great",
    "It was neither good nor bad, and the room was cold and small.",
)


@pytest.fixture(scope="module")
def predictor() -> TextPredictor:
    settings = TextSettings(captum_explanation=True, max_explanation_steps=MOST_STEPS)
    return TextPredictor.load(DEMO, settings)


def explain(predictor: TextPredictor, *payloads: Any) -> list[Explanation]:
    found = predictor.explain([predictor.read(each, explain=True) for each in payloads])
    explanations = []
    for each in found:
        assert not isinstance(each, RequestError), each
        explanations.append(each)
    return explanations


def ask(text: str, **parameters: Any) -> dict[str, Any]:
    return {"text": text, "parameters": parameters}


def test_steps_are_doubled_for_those_that_need_more(predictor: TextPredictor) -> None:
    """Each text is explained in the fewest steps that keep its tolerance, as alone."""
    asked = [
        ask(text, n_steps=5, tolerance=tolerance)
        for text in TEXTS
        for tolerance in (0.5, 0.02, 0.002, 1e-9)
    ]
    together = explain(predictor, *asked)
    counts = set()
    for payload, found in zip(asked, together, strict=True):
        (alone,) = explain(predictor, payload)
        (told,) = found.explained
        assert told.n_steps == alone.n_steps
        assert told.importances == pytest.approx(alone.explained[0].importances, abs=1e-4)
        tolerance, steps = payload["parameters"]["tolerance"], 5
        while True:
            (plain,) = explain(predictor, ask(payload["text"], n_steps=steps))
            (given,) = plain.explained
            change = sum(given.importances) - given.delta
            if abs(given.delta) <= abs(change) * tolerance or steps == MOST_STEPS:
                break
            steps = min(2 * steps, MOST_STEPS)
        assert told.n_steps == steps
        assert told.delta == pytest.approx(given.delta, abs=1e-4)
        counts.add(steps)
    assert len(counts) > 2 and {5, MOST_STEPS} <= counts


def test_methods_without_steps_are_run_once(predictor: TextPredictor) -> None:
    for method in ("occlusion", "layer_gradient_x_activation"):
        payload = ask(TEXTS[0], method=method, tolerance=1e-9, n_steps=7)
        (found,) = explain(predictor, payload)
        assert found.n_steps != 7 * 2
        (plain,) = explain(predictor, ask(TEXTS[0], method=method))
        assert found.explained[0].importances == plain.explained[0].importances
        assert found.content()["method"] == method


@pytest.mark.parametrize("text", TEXTS)
def test_metrics_are_those_of_the_model_itself(predictor: TextPredictor, text: str) -> None:
    """ERASER's, computed with transformers: without the words that count most, and with them."""
    model = AutoModelForSequenceClassification.from_pretrained(DEMO).eval()
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    (found,) = explain(predictor, ask(text, metrics=True, granularity="word"))
    index, content = found.explained[0].target.logit_index, found.content()
    encoded = tokenizer(text, return_tensors="pt")
    sums = content["importances"]
    count = max(1, round(TOP_WORDS * len(sums)))
    top = set(sorted(range(len(sums)), key=lambda each: -sums[each])[:count])

    def logit(masked: set[int]) -> float:
        chosen = torch.tensor([[word in masked for word in encoded.word_ids()]])
        ids = encoded["input_ids"].masked_fill(chosen, tokenizer.pad_token_id)
        with torch.inference_mode():
            return float(model(**{**encoded, "input_ids": ids}).logits[0, index])

    whole, others = logit(set()), set(range(len(sums))) - top
    assert content["comprehensiveness"] == pytest.approx(whole - logit(top), abs=1e-4)
    assert content["sufficiency"] == pytest.approx(whole - logit(others), abs=1e-4)


def test_what_is_told_are_the_words_of_the_text(predictor: TextPredictor) -> None:
    words, tokens = explain(
        predictor, ask(TEXTS[3], granularity="word"), ask(TEXTS[3], granularity="token")
    )
    told = words.content()
    assert [TEXTS[3][start:end] for start, end in told["offsets"]] == told["words"]
    pieces = tokens.content()
    assert pieces["words"][0] == "[CLS]" and pieces["words"][-1] == "[SEP]"
    assert sum(told["importances"]) == pytest.approx(sum(pieces["importances"]), abs=1e-4)


def test_words_of_a_pair_are_those_of_either_text() -> None:
    settings = TextSettings(
        mode="question_answering", captum_explanation=True, max_explanation_steps=MOST_STEPS
    )
    predictor = TextPredictor.load(ROOT / "demo_models" / "bert_question_answering", settings)
    texts = ["Where does Ann live?", "Ann lives in Paris and Bob in Rome."]
    payload = {"question": texts[0], "context": texts[1]}
    (found,) = explain(predictor, {**payload, "parameters": {"granularity": "word", "n_steps": 5}})
    told = found.content()
    pieces = [
        texts[text][start:end]
        for text, (start, end) in zip(told["texts"], told["offsets"], strict=True)
    ]
    assert told["words"] == pieces
    assert pieces[:5] == ["Where", "does", "Ann", "live", "?"]
    assert pieces[5:] == ["Ann", "lives", "in", "Paris", "and", "Bob", "in", "Rome", "."]
    assert found.view().texts == texts


MODE = "sequence_classification"
T5_SIZES = {"d_model": 32, "d_kv": 8, "num_heads": 4, "num_layers": 2, "d_ff": 64}
LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}
WINDOWS = {"attention_window": [16, 16], "max_position_embeddings": 130}
# Models that look up a text twice, padded or in columns, or token types as if they were tokens;
# and whose tokenizer they have here. That of BERT has types.
LOOKING_UP: dict[str, tuple[str, dict[str, Any]]] = {
    "bart": ("roberta", {**BART_SIZES, "scale_embedding": True}),
    "mbart": ("roberta", {**BART_SIZES, "scale_embedding": True}),
    "t5": ("roberta", T5_SIZES),
    "umt5": ("roberta", T5_SIZES),
    "longformer": ("roberta", {**LAYERS, **WINDOWS}),
    "xlnet": ("bert", {"d_model": 32, "d_inner": 64, "n_layer": 2, "n_head": 4}),
    "xlm": ("bert", {"emb_dim": 32, "n_layers": 2, "n_heads": 4}),
    "gpt2": ("bert", {"n_embd": 32, "n_layer": 2, "n_head": 4}),
}


def write_family(folder: Path, family: str) -> Path:
    """Write a tiny model that looks up texts in a way of its own, of random weights."""
    kind, sizes = LOOKING_UP[family]
    tokenizer = make_tokenizer(kind, 128)
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.sep_token_id}
    if kind == "roberta":
        ids["decoder_start_token_id"] = tokenizer.pad_token_id
    sizes = {"vocab_size": len(tokenizer), "num_labels": 3, **sizes, **ids}
    return write_random_weights(folder, AutoConfig.for_model(family, **sizes), tokenizer, MODE)


class ByEmbeddings:
    """A model of one text, as a function of the embeddings of its words alone.

    Without ids, positions are counted, and a decoder pools at the last token. One with an encoder
    reads the words one place later, too.
    """

    def __init__(self, folder: Path, text: str, pad_id: int) -> None:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        self.model.config.pad_token_id = pad_id
        encoded = tokenizer(text, return_tensors="pt", return_special_tokens_mask=True)
        ids, special = encoded["input_ids"], encoded["special_tokens_mask"].bool()
        self.index = 0
        self.types = encoded.get("token_type_ids")
        embed = self.model.get_input_embeddings()
        with torch.no_grad():
            self.upper, self.lower = embed(ids), embed(ids.where(special, pad_id))
            if self.model.config.is_encoder_decoder:
                self.start = embed(torch.tensor([[self._first(ids)]]))

    def _first(self, ids: torch.Tensor) -> int:
        """Return what a decoder reads first: mBART's, the last token of the text."""
        config = self.model.config
        return int(ids[0, -1]) if config.model_type == "mbart" else config.decoder_start_token_id

    def __call__(self, embedded: torch.Tensor) -> torch.Tensor:
        return self._logits(embedded)[:, self.index]

    def _logits(self, embedded: torch.Tensor) -> torch.Tensor:
        given = {"attention_mask": torch.ones(embedded.shape[:2], dtype=torch.long)}
        if self.types is not None:
            given["token_type_ids"] = self.types.expand(len(embedded), -1)
        if self.model.config.model_type == "longformer":
            given["global_attention_mask"] = torch.zeros_like(given["attention_mask"])
            given["global_attention_mask"][:, :1] = 1
        logits: torch.Tensor
        if not self.model.config.is_encoder_decoder:
            logits = self.model(inputs_embeds=embedded, **given).logits
            return logits
        later = torch.cat([self.start.expand(len(embedded), -1, -1), embedded[:, :-1]], dim=1)
        read = self.model.base_model(
            inputs_embeds=embedded, decoder_inputs_embeds=later, use_cache=False, **given
        )
        # The text ends with the token at which it is pooled.
        logits = self.model.classification_head(read.last_hidden_state[:, -1])
        return logits

    def mask(self, positions: list[int]) -> float:
        """Return the number without the words at some positions."""
        embedded = self.upper.clone()
        embedded[0, positions] = self.lower[0, positions]
        with torch.no_grad():
            return float(self(embedded))

    def measure(self, importances: list[float], words: Sequence[WordSpan]) -> list[float]:
        """Return what is lost without the words that count most, and without all others."""
        sums = [sum(importances[each] for each in word.positions) for word in words]
        count = max(1, round(TOP_WORDS * len(sums)))
        order = sorted(range(len(sums)), key=lambda each: -sums[each])
        top = [position for each in order[:count] for position in words[each].positions]
        others = [each for each in range(len(importances)) if each not in top]
        return [self.mask([]) - self.mask(top), self.mask([]) - self.mask(others)]


@pytest.mark.parametrize(
    "family",
    ["bert", "roberta", "xlm-roberta", "deberta-v2", "modernbert", "gpt2", "llama", "qwen2"],
)
def test_only_the_words_are_explained(family: str, tmp_path: Path) -> None:
    """Whatever a model makes of ids beside embeddings: positions, or where a text ends."""
    found = check_explanations(write_random_model(tmp_path, family, MODE, num_labels=3))
    assert found.delta == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("family", LOOKING_UP)
def test_all_that_a_model_looks_up_of_the_words_is_explained(family: str, tmp_path: Path) -> None:
    """Also what a decoder reads of them, and nothing else that a model looks up."""
    check_explanations(write_family(tmp_path, family))


def test_a_decoder_is_explained_in_bfloat16(tmp_path: Path) -> None:
    """What shows whether bfloat16 is exact enough is a text with an end, at which BART pools."""
    settings = TextSettings(captum_explanation=True, dtype="bfloat16")
    predictor = TextPredictor.load(write_family(tmp_path, "bart"), settings)
    (found,) = explain(predictor, ask(TEXTS[0]))
    assert len(found.tokens) == len(found.explained[0].importances)


def check_explanations(folder: Path) -> Explained:
    """Compare the explanations of a model with Captum's of it as a function of embeddings.

    Returns the one by integrated gradients.
    """
    predictor = TextPredictor.load(folder, TextSettings(captum_explanation=True))
    text, pad_id = "kalo miren stoba vitu ler. Gorpe shido", predictor.task.tokenizer.pad_token_id
    direct = ByEmbeddings(folder, text, pad_id)
    asked = [ask(text, metrics=True), ask(text, method="occlusion", metrics=True)]
    # Beside another, of another length.
    integrated, occluded, _ = (
        each.explained[0] for each in explain(predictor, *asked, ask("miren " * 20))
    )
    direct.index = integrated.target.logit_index
    every = list(range(direct.upper.shape[1]))
    change = direct.mask([]) - direct.mask(every)
    assert sum(integrated.importances) - integrated.delta == pytest.approx(change, abs=1e-4)
    right, deltas = IntegratedGradients(direct).attribute(
        direct.upper, direct.lower, n_steps=50, return_convergence_delta=True
    )
    assert integrated.importances == pytest.approx(right.sum(-1)[0].tolist(), abs=1e-3)
    assert integrated.delta == pytest.approx(float(deltas), abs=1e-3)

    (words,) = explain(predictor, asked[0])
    owners = torch.zeros(1, len(every), 1, dtype=torch.long)
    for number, span in enumerate(words.words, start=1):
        owners[0, span.positions] = number
    lost = FeatureAblation(direct).attribute(direct.upper, direct.lower, feature_mask=owners)
    for span in words.words:
        own = sum(occluded.importances[position] for position in span.positions)
        assert own == pytest.approx(float(lost[0, span.positions[0], 0]), abs=1e-4)
    assert occluded.delta == pytest.approx(sum(occluded.importances) - change, abs=1e-4)

    for found in (integrated, occluded):
        told = [found.metrics["comprehensiveness"], found.metrics["sufficiency"]]
        assert told == pytest.approx(direct.measure(found.importances, words.words), abs=1e-4)
    return integrated


def test_words_of_a_prompt_are_explained_where_the_tokenizer_has_but_one(tmp_path: Path) -> None:
    tokenizer = make_spaced_tokenizer(LlamaTokenizer)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), intermediate_size=32, **sizes)
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    settings = TextSettings(mode="text_generation", captum_explanation=True, do_sample=False)
    predictor = TextPredictor.load(tmp_path, settings)
    asked = {"max_new_tokens": 1, "method": "occlusion", "granularity": "word", "metrics": True}
    (found,) = explain(predictor, ask("kalo miren stoba vitu", **asked))
    told = found.content()
    assert [word.strip() for word in told["words"]] == ["kalo", "miren", "stoba", "vitu"]
    ids = tokenizer("kalo miren stoba vitu", return_tensors="pt").input_ids
    (added,) = found.explained
    token_id = added.target.logit_index % len(tokenizer)

    def logit(*masked: int) -> float:
        seen = ids.clone()
        seen[0, list(masked)] = predictor.task.tokenizer.pad_token_id
        with torch.inference_mode():
            return float(model(seen).logits[0, -1, token_id])

    lost = [logit() - logit(position) for position in range(4)]
    assert told["importances"][0] == pytest.approx(lost, abs=1e-5)
    first = max(range(4), key=lost.__getitem__)
    others = [position for position in range(4) if position != first]
    assert added.metrics["comprehensiveness"] == pytest.approx(logit() - logit(first), abs=1e-5)
    assert added.metrics["sufficiency"] == pytest.approx(logit() - logit(*others), abs=1e-5)
    assert added.metrics["sufficiency"] != 0
