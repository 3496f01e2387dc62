"""Attributions that are known exactly, and those of Captum called directly."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum.attr import FeatureAblation, LayerGradientXActivation, LayerIntegratedGradients
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from speechtext.allowance import allow
from speechtext.errors import DeadlineError
from speechtext.text.explanation.attribution import (
    METHODS,
    RUNS,
    Question,
    integrate_gradients,
    value_of,
    value_of_tokens,
)
from speechtext.text.explanation.embeddings import find_embeddings

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
    found = METHODS[method](value, [model.embeddings], question, 20, 8)
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
    assert embeddings == find_embeddings(model, "bert")
    input_ids, mask = random_rows(10), torch.ones(10, LENGTH, dtype=torch.long)
    targets = [index % 3 for index in range(10)]
    question = ask(input_ids, [0] * 10, targets, attention_mask=mask)
    value = value_of(model, ["attention_mask"])
    found = METHODS["layer_integrated_gradients"](value, embeddings, question, 50, 64)

    def logits(*tensors: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = model(*tensors).logits
        return output

    direct = LayerIntegratedGradients(logits, embeddings[0]).attribute(
        input_ids, question.baseline, target=targets, additional_forward_args=(mask,), n_steps=50
    )
    torch.testing.assert_close(found.importances, direct.sum(-1), atol=1e-4, rtol=0)
    change = (logits(input_ids, mask) - logits(question.baseline, mask))[range(10), targets]
    torch.testing.assert_close(found.changes, change, atol=1e-4, rtol=0)
    sums = found.importances.sum(dim=1)
    torch.testing.assert_close(sums - change, found.deltas, atol=1e-4, rtol=0)

    gradients = METHODS["layer_gradient_x_activation"](value, embeddings, question, 1, 64)
    direct = LayerGradientXActivation(logits, embeddings[0]).attribute(
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


def test_module_without_embeddings_of_its_own_is_taken_itself() -> None:
    model = BagOfWords(torch.zeros(4, 2))
    assert find_embeddings(model, "embeddings") == [model.embeddings]
    bert = small_bert(BertForSequenceClassification)
    assert find_embeddings(bert, "") == [bert.bert.embeddings.word_embeddings]
    # A name of something else than a submodule.
    with pytest.raises(ValueError, match=r"^handler.embedding_name: expected .*, got 'config'\.$"):
        find_embeddings(bert, "config")


class AskedTwice(torch.nn.Module):
    """A bag of words that asks its embeddings for `further` ids of each row, too."""

    def __init__(
        self, weights: torch.Tensor, further: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        super().__init__()
        self.embeddings = torch.nn.Embedding.from_pretrained(weights)
        self.further = further

    def forward(self, input_ids: torch.Tensor, types: torch.Tensor) -> tuple[torch.Tensor]:
        summed = self.embeddings(input_ids).sum(dim=1)
        return (summed + self.embeddings(self.further(input_ids) + types).sum(dim=1),)


REFUSED = (
    r"^handler\.captum_explanation: expected a model that looks up the tokens of its text in its "
    r"word embeddings and no others, got one that looks up others or none\.$"
)


@pytest.mark.parametrize("method", METHODS)
def test_token_types_that_are_looked_up_are_none_of_the_text(method: str) -> None:
    torch.manual_seed(0)
    weights = torch.randn(10, 3)
    weights[PAD] = 0
    model = AskedTwice(weights, torch.zeros_like)
    # Also where the types are the text itself, and where they are its tokens one place later.
    input_ids = torch.tensor([[5, 6, 7, 8], [3, 3, 3, 3], [4, 5, 6, 7]])
    types = torch.tensor([[3, 3, 4, 4], [3, 3, 3, 3], [3, 4, 5, 6]])
    question = ask(input_ids, [0, 0, 0], [2, 1, 0], types=types)
    found = METHODS[method](value_of(model, ["types"]), [model.embeddings], question, 20, 8)
    expected = weights[input_ids, torch.tensor([[2], [1], [0]])]
    torch.testing.assert_close(found.importances, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.changes, expected.sum(dim=1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_that_looks_up_other_tokens_is_refused(method: str) -> None:
    model = AskedTwice(torch.ones(10, 3), lambda ids: 9 - ids)
    ids = torch.tensor([[5, 6, 7]])
    question = ask(ids, [0], [0], types=torch.zeros_like(ids))
    with pytest.raises(ValueError, match=REFUSED):
        METHODS[method](value_of(model, ["types"]), [model.embeddings], question, 5, 8)
    # One that looks up nothing where it says that it would.
    other = BagOfWords(torch.ones(10, 3))
    with pytest.raises(ValueError, match=REFUSED):
        METHODS[method](value_of(other, []), [model.embeddings], ask(ids, [0], [0]), 5, 8)
    # Neither keeps what watched it.
    assert not model.embeddings._forward_hooks and not other.embeddings._forward_hooks


def test_a_model_without_word_embeddings_is_refused() -> None:
    bert = small_bert(BertForSequenceClassification)
    with pytest.raises(ValueError, match=r"^handler\.captum_explanation: .* got a Dropout\.$"):
        find_embeddings(bert, "dropout")


def test_rows_that_are_picked_keep_all_that_is_theirs() -> None:
    numbers = torch.arange(12).view(3, 4)
    others = {"attention_mask": numbers + 300, "token_type_ids": numbers + 400}
    places = torch.tensor([7, 8, 9])
    question = Question(numbers, numbers + 100, numbers + 200, others, places - 7, places)
    found = question.pick([2, 0])
    assert found.input_ids.tolist() == [[8, 9, 10, 11], [0, 1, 2, 3]]
    assert found.baseline.tolist() == [[108, 109, 110, 111], [100, 101, 102, 103]]
    assert found.words.tolist() == [[208, 209, 210, 211], [200, 201, 202, 203]]
    assert list(found.others) == ["attention_mask", "token_type_ids"]
    assert found.others["token_type_ids"].tolist() == [[408, 409, 410, 411], [400, 401, 402, 403]]
    assert found.heads.tolist() == [2, 0]
    assert found.logit_indices.tolist() == [9, 7]
    masks, types, heads, logits = found.arguments()
    assert masks is found.others["attention_mask"]
    assert types is found.others["token_type_ids"]
    assert heads is found.heads
    assert logits is found.logit_indices


class TwoHeads(torch.nn.Module):
    """Heads of the shapes (rows, tokens, 3) and (rows, 2); the rows of each call are noted.

    Of a token it tells a number of its place, its id and its `scale`; of a row the sum.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = dtype
        self.embeddings = torch.nn.Embedding(20, 3)
        self.rows: list[int] = []

    def forward(
        self, input_ids: torch.Tensor, scale: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.rows.append(len(input_ids))
        scaled = (input_ids * scale)[:, :, None]
        first = (scaled + torch.tensor([0.0, 0.25, 0.5])).to(self.dtype)
        return first, -scaled.sum(dim=1).expand(-1, 2).to(self.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_number_is_the_one_at_its_place_in_the_head_named(dtype: torch.dtype) -> None:
    """Places count through all dimensions of a head; heads differ in size, and rows in head."""
    model = TwoHeads(dtype)
    input_ids = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    scale = torch.tensor([[1.0, 1.0, 1.0], [1.0, 2.0, 1.0], [1.0, 1.0, 2.0]])
    found = value_of(model, ["scale"])(
        input_ids, scale, torch.tensor([1, 0, 0]), torch.tensor([1, 4, 8])
    )
    assert found.dtype == torch.float32
    assert found.tolist() == [-6.0, 10.25, 18.5]
    # One after the other in each head, none of a head that no row asks for.
    assert value_of(model, ["scale"])(
        input_ids, scale, torch.tensor([0, 0, 0]), torch.tensor([0, 1, 2])
    ).tolist() == [1.0, 4.25, 7.5]


def test_further_inputs_have_to_be_those_named() -> None:
    ids, places = torch.ones(1, 2, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    with pytest.raises(ValueError, match="zip"):
        value_of(TwoHeads(), ["scale"])(ids, ids, ids, places, places)
    with pytest.raises(ValueError, match="zip"):
        value_of(TwoHeads(), ["scale", "mask"])(ids, ids, places, places)


@pytest.mark.parametrize("method", METHODS)
def test_time_that_is_over_ends_an_explanation(method: str) -> None:
    model = BagOfWords(torch.ones(10, 3))
    question = ask(torch.tensor([[CLS, 5, SEP]]), [0], [0])
    with allow(0.0), pytest.raises(DeadlineError):
        METHODS[method](value_of(model, []), [model.embeddings], question, 5, 8)


@pytest.mark.parametrize(("most_rows", "largest"), [(1, 3), (5, 3), (6, 6), (100, 30)])
def test_no_more_rows_are_in_the_model_than_there_may_be(most_rows: int, largest: int) -> None:
    """Ten steps of three texts; all texts of a step go through it together."""
    torch.manual_seed(0)
    model = small_bert(BertForSequenceClassification)
    sizes: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda _, __, given: sizes.append(len(given["input_ids"])), with_kwargs=True
    )
    question = ask(random_rows(3), [0, 0, 0], [0, 1, 2])
    try:
        found = METHODS["layer_integrated_gradients"](
            value_of(model, []), find_embeddings(model, None), question, 10, most_rows
        )
    finally:
        hook.remove()
    assert found.n_steps == 10
    # Beside the steps there are the two ends of the change, and Captum's look at the shapes.
    assert max(sizes) == largest


def test_change_is_that_of_the_number_however_much_is_left_unexplained() -> None:
    torch.manual_seed(0)
    model = BagOfWords(torch.randn(10, 2))

    def cubed(*given: torch.Tensor) -> torch.Tensor:
        # A single step of an integral misses much of a cube.
        number: torch.Tensor = value_of(model, [])(*given)
        return number.pow(3)

    question = ask(torch.tensor([[CLS, 5, 6, 7, SEP], [CLS, 3, 8, 9, SEP]]), [0, 0], [0, 1])
    found = METHODS["layer_integrated_gradients"](cubed, [model.embeddings], question, 1, 8)
    sums = model.embeddings.weight[question.input_ids].sum(dim=1)[[0, 1], [0, 1]]
    without = model.embeddings.weight[question.baseline].sum(dim=1)[[0, 1], [0, 1]]
    change = sums.pow(3) - without.pow(3)
    assert found.deltas.abs().min() > 0.1
    torch.testing.assert_close(found.changes, change, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.deltas, found.importances.sum(1) - change, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("most_rows", "largest"), [(0, 1), (1, 1), (4, 4), (100, LENGTH)])
def test_words_are_left_out_so_many_at_a_time(most_rows: int, largest: int) -> None:
    torch.manual_seed(0)
    model = small_bert(BertForSequenceClassification)
    sizes: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda _, __, given: sizes.append(len(given["input_ids"])), with_kwargs=True
    )
    question = ask(random_rows(1), [0], [1])
    try:
        found = METHODS["occlusion"](
            value_of(model, []), find_embeddings(model, None), question, 7, most_rows
        )
    finally:
        hook.remove()
    assert max(sizes) == largest
    assert found.n_steps == 1
    expected = [
        float((model(question.input_ids).logits - model(without).logits)[0, 1])
        for without in (
            question.input_ids.index_fill(
                1, torch.tensor([place]), int(question.baseline[0, place])
            )
            for place in range(LENGTH)
        )
    ]
    assert found.importances[0].tolist() == pytest.approx(expected, abs=1e-5)
    change = float((model(question.input_ids).logits - model(question.baseline).logits)[0, 1])
    assert float(found.changes) == pytest.approx(change, abs=1e-5)
    assert float(found.deltas) == pytest.approx(sum(expected) - change, abs=1e-5)


def test_gradient_at_the_text_has_one_step() -> None:
    """What is left unexplained is the sum of the importances without the change."""
    torch.manual_seed(0)
    model = small_bert(BertForSequenceClassification)
    question = ask(random_rows(2), [0, 0], [0, 2])
    found = METHODS["layer_gradient_x_activation"](
        value_of(model, []), find_embeddings(model, None), question, 9, 4
    )
    assert found.n_steps == 1
    both = (model(question.input_ids).logits - model(question.baseline).logits)[[0, 1], [0, 2]]
    torch.testing.assert_close(found.changes, both, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.deltas, found.importances.sum(1) - both, atol=1e-5, rtol=0)
    assert not any(each.requires_grad for each in found[:3])


def test_attributions_of_bfloat16_are_float32() -> None:
    torch.manual_seed(0)
    model = small_bert(BertForSequenceClassification).to(torch.bfloat16)
    question = ask(random_rows(2), [0, 0], [0, 2])
    for method in METHODS.values():
        found = method(value_of(model, []), find_embeddings(model, None), question, 5, 4)
        assert {each.dtype for each in found[:3]} == {torch.float32}
        assert not any(each.requires_grad for each in found[:3])


@pytest.mark.parametrize(
    ("method", "one", "five"),
    [
        ("layer_integrated_gradients", 30, 90),
        ("layer_gradient_x_activation", 1, 3),
        ("occlusion", LENGTH, 5 * LENGTH),
    ],
)
def test_runs_are_the_rows_that_a_method_runs(method: str, one: int, five: int) -> None:
    assert RUNS[method](30, LENGTH, 1) == one
    assert RUNS[method](30, LENGTH, 5) == five


def some_texts(chance: random.Random, model: Any) -> Question:
    """Return a question of one to three texts, in any order, with one to five numbers each."""
    texts, length = random_rows(chance.randint(1, 3)), chance.randint(6, LENGTH)
    rows = [row for row in range(len(texts)) for _ in range(chance.randint(1, 5))]
    chance.shuffle(rows)
    mask = torch.ones_like(texts)
    mask[-1, length:] = 0
    numbers = model(texts).to_tuple()[0].flatten(1).shape[1]
    places = [chance.randrange(numbers) for _ in rows]
    heads = [chance.randrange(len(model(texts).to_tuple())) for _ in rows]
    return ask(texts[rows], heads, places, attention_mask=mask[rows])


@pytest.mark.parametrize("model_class", [BertForQuestionAnswering, BertForTokenClassification])
def test_numbers_of_a_text_share_its_way_and_are_captums(model_class: Any) -> None:
    for seed in range(60):
        torch.manual_seed(seed)
        chance = random.Random(seed)
        model = small_bert(model_class, labels=2)
        embeddings, value = find_embeddings(model, None), value_of(model, ["attention_mask"])
        question, n_steps = some_texts(chance, model), chance.randint(1, 12)
        rows: list[int] = []
        hook = model.bert.register_forward_hook(lambda *seen: rows.append(len(seen[2][0])))  # noqa: B023
        found = integrate_gradients(value, embeddings, question, n_steps, chance.randint(1, 20))
        hook.remove()
        # Each text once at either end and in each step, however many numbers it has.
        assert sum(rows) == len(question.input_ids.unique(dim=0)) * (n_steps + 2)
        expected, deltas = LayerIntegratedGradients(value, embeddings[0]).attribute(
            question.input_ids,
            question.baseline,
            additional_forward_args=question.arguments(),
            n_steps=n_steps,
            return_convergence_delta=True,
        )
        torch.testing.assert_close(found.importances, expected.sum(-1), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.deltas, deltas, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("config", "model_class"),
    [
        (GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4), GPT2LMHeadModel),
        (
            LlamaConfig(
                vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2,
            ),
            LlamaForCausalLM,
        ),
    ],
)  # fmt: skip
def test_numbers_of_a_continuation_are_those_of_all_its_logits(
    config: Any, model_class: Any
) -> None:
    torch.manual_seed(0)
    model = model_class(config).eval().requires_grad_(False)
    embeddings = find_embeddings(model, None)
    few, all_ = value_of_tokens(model, ["attention_mask"], 64), value_of(model, ["attention_mask"])
    for seed in range(50):
        chance = random.Random(seed)
        texts = random_rows(chance.randint(1, 3))
        rows = [chance.randrange(len(texts)) for _ in range(chance.randint(1, 6))]
        places = [chance.randrange(LENGTH * 64) for _ in rows]
        mask = torch.ones(len(rows), LENGTH, dtype=torch.long)
        question = ask(texts[rows], [0] * len(rows), places, attention_mask=mask)
        arguments = (question.input_ids, *question.arguments())
        torch.testing.assert_close(few(*arguments), all_(*arguments), atol=1e-5, rtol=0)
        for method in METHODS.values():
            found = method(few, embeddings, question, 4, 3)
            expected = method(all_, embeddings, question, 4, 3)
            torch.testing.assert_close(found.importances, expected.importances, atol=1e-5, rtol=0)
