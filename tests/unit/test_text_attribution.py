"""Attributions that are known exactly, and those of Captum called directly."""

from typing import Any

import pytest
import torch
from captum.attr import LayerIntegratedGradients
from transformers import BertConfig, BertForSequenceClassification

from text_attribution import attribute, build_baseline, describe, find_embeddings
from text_task import Target

PAD, CLS, SEP = 0, 1, 2


def framing(input_ids: torch.Tensor) -> torch.Tensor:
    return torch.isin(input_ids, torch.tensor([CLS, SEP]))


class BagOfWords(torch.nn.Module):
    """Logits that are the sum of a weight per word: the attribution of a word is its weight."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.embeddings = torch.nn.Embedding.from_pretrained(weights)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.embeddings(input_ids).sum(dim=1),)


def test_attribution_of_a_linear_model_is_its_weights() -> None:
    torch.manual_seed(0)
    weights = torch.randn(10, 3)
    model = BagOfWords(weights)
    input_ids = torch.tensor([[CLS, 5, 6, 7, SEP]])
    baseline = build_baseline(input_ids, framing(input_ids), PAD)
    inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    importances, delta = attribute(model, model.embeddings, inputs, baseline, Target(0, 2), 20)
    expected = weights[input_ids[0], 2] - weights[baseline[0], 2]
    torch.testing.assert_close(torch.tensor(importances), expected, atol=1e-5, rtol=0)
    assert abs(delta) < 1e-5


def test_baseline_keeps_special_tokens() -> None:
    input_ids = torch.tensor([[CLS, 5, SEP, 6, SEP, PAD]])
    baseline = build_baseline(input_ids, framing(input_ids), PAD)
    assert baseline.tolist() == [[CLS, 0, SEP, 0, SEP, 0]]


def small_bert(labels: int) -> Any:
    sizes: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "num_labels": labels,
    }
    return BertForSequenceClassification(BertConfig(**sizes)).eval().requires_grad_(False)


def test_attribution_equals_captums_and_is_complete() -> None:
    torch.manual_seed(0)
    model = small_bert(labels=3)
    embeddings = find_embeddings(model, None)
    assert embeddings is find_embeddings(model, "bert")
    for _ in range(10):
        input_ids = torch.cat(
            [torch.tensor([CLS]), torch.randint(3, 64, (9,)), torch.tensor([SEP])]
        )
        ids, mask = input_ids[None], torch.ones(1, 11, dtype=torch.long)
        inputs = {"input_ids": ids, "attention_mask": mask}
        baseline = build_baseline(ids, framing(ids), PAD)
        importances, delta = attribute(model, embeddings, inputs, baseline, Target(0, 1), 50)
        direct = LayerIntegratedGradients(lambda *t: model(*t).logits, embeddings).attribute(
            ids, baseline, target=1, additional_forward_args=(mask,), n_steps=50
        )
        torch.testing.assert_close(torch.tensor(importances), direct.sum(-1)[0], atol=1e-4, rtol=0)
        change = model(**inputs).logits[0, 1] - model(baseline, mask).logits[0, 1]
        assert abs(sum(importances) - float(change) - delta) < 1e-4


def test_unknown_embedding_name_tells_the_choices() -> None:
    model = small_bert(labels=2)
    with pytest.raises(ValueError, match="expected one of bert, dropout, classifier"):
        find_embeddings(model, "roberta")


def test_answer_has_the_keys_of_the_contract() -> None:
    assert describe(["a"], [(Target(0, 1), [0.5], 0.1)]) == {
        "words": ["a"],
        "importances": [0.5],
        "delta": 0.1,
    }
    spans = [(Target(0, 1, "_answer_start"), [1.0], 0.1), (Target(1, 2, "_answer_end"), [2.0], 0.2)]
    assert list(describe(["a"], spans)) == [
        "words",
        "importances_answer_start",
        "importances_answer_end",
        "delta_start",
        "delta_end",
    ]
