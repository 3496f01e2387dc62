"""Attributions that are known exactly, and those of Captum called directly."""

from typing import Any

import pytest
import torch
from captum.attr import FeatureAblation, LayerGradientXActivation, LayerIntegratedGradients
from transformers import BertConfig, BertForQuestionAnswering, BertForSequenceClassification

from speechtext.text.explanation.attribution import METHODS, Question, find_embeddings, value_of

PAD, CLS, SEP = 0, 1, 2
LENGTH = 11


class BagOfWords(torch.nn.Module):
    """Logits that are the sum of a weight per word: the attribution of a word is its weight."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.embeddings = torch.nn.Embedding.from_pretrained(weights)

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.embeddings(input_ids).sum(dim=1),)


def ask(input_ids: torch.Tensor, heads: list[int], places: list[int], **others: Any) -> Question:
    """Return a question about rows whose every token but the special ones is a word to explain."""
    kept = torch.isin(input_ids, torch.tensor([CLS, SEP]))
    words = torch.arange(input_ids.shape[1]).expand_as(input_ids)
    baseline = torch.where(kept, input_ids, PAD)
    return Question(input_ids, baseline, words, others, torch.tensor(heads), torch.tensor(places))


@pytest.mark.parametrize("method", METHODS)
def test_attribution_of_a_linear_model_is_its_weights(method: str) -> None:
    torch.manual_seed(0)
    weights = torch.randn(10, 3)
    weights[PAD] = 0
    model = BagOfWords(weights)
    question = ask(torch.tensor([[CLS, 5, 6, 7, SEP], [CLS, 8, 5, 3, SEP]]), [0, 0], [2, 1])
    value = value_of(model, [])
    found = METHODS[method](value, model.embeddings, question, 20, 8)
    expected = torch.stack(
        [weights[ids, place] for ids, place in zip(question.input_ids, (2, 1), strict=True)]
    )
    special = question.input_ids == question.baseline
    if method != "layer_gradient_x_activation":
        expected = expected.masked_fill(special, 0)
        assert found.deltas.abs().max() < 1e-5
    torch.testing.assert_close(found.importances, expected, atol=1e-5, rtol=0)
    own = weights[question.input_ids] * ~special[:, :, None]
    changes = own.sum(dim=1)[torch.arange(2), torch.tensor([2, 1])]
    torch.testing.assert_close(found.changes, changes, atol=1e-5, rtol=0)


def small_bert(model_class: Any, labels: int = 3) -> Any:
    sizes: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "num_labels": labels,
    }
    return model_class(BertConfig(**sizes)).eval().requires_grad_(False)


def random_rows(rows: int) -> torch.Tensor:
    middle = torch.randint(3, 64, (rows, LENGTH - 2))
    return torch.cat([torch.full((rows, 1), CLS), middle, torch.full((rows, 1), SEP)], dim=1)


def test_attributions_equal_captums_and_are_complete() -> None:
    torch.manual_seed(0)
    model = small_bert(BertForSequenceClassification)
    embeddings = find_embeddings(model, None)
    assert embeddings is find_embeddings(model, "bert")
    input_ids, mask = random_rows(10), torch.ones(10, LENGTH, dtype=torch.long)
    targets = [index % 3 for index in range(10)]
    question = ask(input_ids, [0] * 10, targets, attention_mask=mask)
    value = value_of(model, ["attention_mask"])
    found = METHODS["layer_integrated_gradients"](value, embeddings, question, 50, 64)

    def logits(*tensors: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = model(*tensors).logits
        return output

    direct = LayerIntegratedGradients(logits, embeddings).attribute(
        input_ids, question.baseline, target=targets, additional_forward_args=(mask,), n_steps=50
    )
    torch.testing.assert_close(found.importances, direct.sum(-1), atol=1e-4, rtol=0)
    change = (logits(input_ids, mask) - logits(question.baseline, mask))[range(10), targets]
    torch.testing.assert_close(found.changes, change, atol=1e-4, rtol=0)
    sums = found.importances.sum(dim=1)
    torch.testing.assert_close(sums - change, found.deltas, atol=1e-4, rtol=0)

    gradients = METHODS["layer_gradient_x_activation"](value, embeddings, question, 1, 64)
    direct = LayerGradientXActivation(logits, embeddings).attribute(
        input_ids, target=targets, additional_forward_args=(mask,)
    )
    torch.testing.assert_close(gradients.importances, direct.sum(-1), atol=1e-4, rtol=0)

    occluded = METHODS["occlusion"](value, embeddings, question, 1, 64)
    direct = FeatureAblation(logits).attribute(
        input_ids,
        baselines=question.baseline,
        target=targets,
        additional_forward_args=(mask,),
    )
    torch.testing.assert_close(occluded.importances, direct.float(), atol=1e-4, rtol=0)


def test_words_of_several_tokens_are_occluded_as_one() -> None:
    torch.manual_seed(0)
    model = small_bert(BertForSequenceClassification)
    input_ids = random_rows(1)
    words = torch.tensor([[-1, 0, 0, 1, 2, 2, 2, 3, 4, 5, -11]])
    question = ask(input_ids, [0], [1])._replace(words=words)
    found = METHODS["occlusion"](value_of(model, []), find_embeddings(model, None), question, 1, 4)
    without = torch.where(words == 2, PAD, input_ids)
    lost = float((model(input_ids).logits - model(without).logits)[0, 1])
    assert found.importances[0, 4:7].tolist() == pytest.approx([lost / 3] * 3, abs=1e-5)


def test_each_row_has_a_head_of_its_own() -> None:
    torch.manual_seed(0)
    model = small_bert(BertForQuestionAnswering, labels=2)
    input_ids = random_rows(2)
    heads, places = torch.tensor([0, 1]), torch.tensor([3, 7])
    found = value_of(model, [])(input_ids, heads, places)
    output = model(input_ids)
    assert found.tolist() == pytest.approx(
        [float(output.start_logits[0, 3]), float(output.end_logits[1, 7])]
    )


def test_unknown_embedding_name_tells_the_choices() -> None:
    model = small_bert(BertForSequenceClassification)
    with pytest.raises(ValueError, match="expected one of bert, dropout, classifier"):
        find_embeddings(model, "roberta")
