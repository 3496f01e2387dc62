"""What an answer depends on: attributions of a model's number to the tokens of a text, as Captum's.

Pure functions of a model and tensors. Of a baseline only the word embeddings know: positions, token
types and the place where a model pools are those of the text, so that only the words are explained.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.polynomial.legendre import leggauss

from speechtext.allowance import check_time
from speechtext.text.explanation.embeddings import Embeddings, see_embedded, see_tokens
from speechtext.text.windows import heads_of

Value = Callable[..., torch.Tensor]


class Question(NamedTuple):
    """Rows of tokens and the number to explain of each, all on the model's device.

    `input_ids`, `baseline` and `words` have the shape (rows, tokens): `baseline` is `input_ids`
    without what is to be explained, `words` number the word of each token. `others` are the model's
    further inputs. The number is the output head `heads[row]`, flattened, at `logit_indices[row]`.
    """

    input_ids: torch.Tensor
    baseline: torch.Tensor
    words: torch.Tensor
    others: dict[str, torch.Tensor]
    heads: torch.Tensor
    logit_indices: torch.Tensor

    def pick(self, rows: Sequence[int]) -> "Question":
        """Return some of the rows."""
        index = torch.tensor(rows, device=self.input_ids.device)
        return Question(
            self.input_ids[index],
            self.baseline[index],
            self.words[index],
            {name: each[index] for name, each in self.others.items()},
            self.heads[index],
            self.logit_indices[index],
        )

    def arguments(self) -> tuple[torch.Tensor, ...]:
        """Return what the value depends on beside `input_ids`."""
        return (*self.others.values(), self.heads, self.logit_indices)


class Attribution(NamedTuple):
    """What each token of each row adds, shape (rows, tokens), and what is left unexplained.

    `changes`, shape (rows,), are those of the number from the baseline to the input; the sum of a
    row's attributions is that, up to `deltas`.
    """

    importances: torch.Tensor
    deltas: torch.Tensor
    changes: torch.Tensor
    n_steps: int


def value_of(model: Any, names: Sequence[str]) -> Value:
    """Return the numbers to explain as a function of `input_ids` and arguments.

    They have the shape of `logit_indices`: (rows,), or (rows, numbers) for several of each row. It
    raises `DeadlineError`.
    """

    def value(input_ids: torch.Tensor, *arguments: torch.Tensor) -> torch.Tensor:
        check_time()
        *others, heads, logit_indices = arguments
        output = model(input_ids=input_ids, **dict(zip(names, others, strict=True)))
        numbers = torch.zeros(logit_indices.shape, device=input_ids.device)
        for index, head in enumerate(heads_of(output)):
            own = heads == index
            if own.any():
                # By position: a copy of the rows would be as large as all their logits.
                picked = head.flatten(1)[own.nonzero()[:, 0], logit_indices[own]]
                numbers = numbers.masked_scatter(own, picked.float())
        return numbers

    return value


def value_of_tokens(model: Any, names: Sequence[str], vocabulary: int) -> Value:
    """Return what `value_of` does, of a causal model that computes the logits it is asked for.

    Those of a position are `vocabulary` numbers; all positions of a text, and their gradients,
    would take a third of GPT-2's time.
    """

    def value(input_ids: torch.Tensor, *arguments: torch.Tensor) -> torch.Tensor:
        check_time()
        *others, _, logit_indices = arguments
        positions, columns = (logit_indices // vocabulary).unique(return_inverse=True)
        further = dict(zip(names, others, strict=True))
        output = model(input_ids=input_ids, **further, logits_to_keep=positions)
        places = columns * vocabulary + logit_indices % vocabulary
        logits: torch.Tensor = output.logits
        numbers = logits.flatten(1).gather(1, places.view(len(places), -1))
        return numbers.view_as(places).float()

    return value


def value_of_masked(value: Value, embeddings: Embeddings) -> Value:
    """Return a value that takes what the word embeddings see, and behind it the text itself.

    The rest of the model sees the text. From its ids RoBERTa and its kind compute positions, and
    decoders that classify find the last token: with padding for words, both would change as well.
    It raises `ValueError` for a model that looks up the text in another way than is known.
    """

    def masked(
        seen_ids: torch.Tensor, input_ids: torch.Tensor, *arguments: torch.Tensor
    ) -> torch.Tensor:
        with see_tokens(embeddings, (input_ids, *arguments), seen_ids):
            return value(input_ids, *arguments)

    return masked


def integrate_gradients(
    value: Value, embeddings: Embeddings, question: Question, n_steps: int, most_rows: int
) -> Attribution:
    """Attribute by Layer Integrated Gradients, `most_rows` in the model at once.

    Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks". The numbers of a text share
    its way through the model, and each goes back alone; Captum's method, which gives the same, runs
    the text for each of them.
    """
    texts, owners, places = _share_texts(question)
    points, weights = torch.from_numpy(np.stack(leggauss(n_steps)).astype(np.float32))
    with torch.no_grad():
        upper, lower = (embeddings[0](ids) for ids in (texts.input_ids, texts.baseline))
    way = Way(lower, upper - lower, (points + 1) / 2, weights / 2)
    summed = _integrate(value, embeddings, texts, way, most_rows)
    return _complete(value, embeddings, question, summed[places, owners], n_steps)


class Way(NamedTuple):
    """A way of embeddings: where it begins, what it adds, and the shares of that which are tried.

    The first two have the shape (texts, tokens, dimensions), the shares and their weights (steps,).
    """

    begin: torch.Tensor
    added: torch.Tensor
    shares: torch.Tensor
    weights: torch.Tensor


def _integrate(
    value: Value, embeddings: Embeddings, texts: Question, way: Way, most_rows: int
) -> torch.Tensor:
    """Return what each token adds to each number on a way, shape (numbers, texts, tokens)."""
    begin, added, shares, weights = (each.to(texts.input_ids.device) for each in way)
    summed = torch.zeros(texts.heads.shape[1], *texts.input_ids.shape, device=added.device)
    for steps in torch.arange(len(shares)).split(max(1, most_rows // len(added))):
        path = begin + shares[steps].to(added.dtype)[:, None, None, None] * added
        for number, gradient in enumerate(_go_back(value, embeddings, texts, path)):
            weighted = torch.einsum("s,srtd->rtd", weights[steps], gradient.float())
            summed[number] += (weighted * added).sum(dim=-1)
    return summed


def _share_texts(question: Question) -> tuple[Question, torch.Tensor, torch.Tensor]:
    """Return the distinct texts of a question, and of each of its rows the text and the number.

    Heads and indices of the texts have the shape (texts, numbers): where one has fewer numbers than
    others, its first is there again.
    """
    same = torch.cat([question.input_ids, question.baseline, *question.others.values()], dim=1)
    _, owners = same.unique(dim=0, return_inverse=True)
    places = (owners[:, None] == owners).tril(-1).sum(dim=1)
    rows = torch.arange(len(owners), device=owners.device)
    first = rows[places == 0][owners[places == 0].argsort()]
    table = first[:, None].repeat(1, int(places.max()) + 1)
    table[owners, places] = rows
    texts = question.pick(first.tolist())
    heads, indices = question.heads[table], question.logit_indices[table]
    return texts._replace(heads=heads, logit_indices=indices), owners, places


def _go_back(
    value: Value, embeddings: Embeddings, texts: Question, path: torch.Tensor
) -> Iterator[torch.Tensor]:
    """Yield the gradient of each number, summed over texts, at the points of a path.

    Both have the shape (steps, texts, tokens, dimensions).
    """
    path.requires_grad_()
    given = [texts.input_ids, *texts.arguments()]
    repeated = [each.repeat(len(path), *[1] * (each.dim() - 1)) for each in given]
    with torch.enable_grad(), see_embedded(embeddings, repeated, path.flatten(0, 1)):
        numbers = value(*repeated)
    for number in range(numbers.shape[1]):
        check_time()
        last = number + 1 == numbers.shape[1]
        (gradient,) = torch.autograd.grad(numbers[:, number].sum(), path, retain_graph=not last)
        yield gradient


def multiply_gradients(
    value: Value, embeddings: Embeddings, question: Question, _n_steps: int, most_rows: int
) -> Attribution:
    """Attribute by the gradient at the text times its embedding, in one step.

    Shrikumar et al. 2016, "Not Just a Black Box". It is the end of a way that begins at nothing.
    """
    texts, owners, places = _share_texts(question)
    with torch.no_grad():
        upper = embeddings[0](texts.input_ids)
    way = Way(torch.zeros_like(upper), upper, torch.ones(1), torch.ones(1))
    summed = _integrate(value, embeddings, texts, way, most_rows)
    return _complete(value, embeddings, question, summed[places, owners])


def occlude_words(
    value: Value, embeddings: Embeddings, question: Question, _n_steps: int, most_rows: int
) -> Attribution:
    """Attribute to each word what the number loses without it, its tokens a like part each.

    Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks".
    """
    # Here, because importing Captum takes half a second that no other request needs.
    from captum.attr import FeatureAblation

    method = FeatureAblation(value_of_masked(value, embeddings))
    importances = []
    for row in range(len(question.input_ids)):
        one = question.pick([row])
        _, words, counts = one.words.unique(return_inverse=True, return_counts=True)
        lost = method.attribute(
            one.input_ids,
            baselines=one.baseline,
            additional_forward_args=(one.input_ids, *one.arguments()),
            feature_mask=words,
            perturbations_per_eval=max(1, most_rows),
        )
        importances.append(lost.float() / counts[words])
    return _complete(value, embeddings, question, torch.cat(importances))


def _complete(
    value: Value,
    embeddings: Embeddings,
    question: Question,
    importances: torch.Tensor,
    n_steps: int = 1,
) -> Attribution:
    texts, owners, places = _share_texts(question)
    masked = value_of_masked(value, embeddings)
    with torch.no_grad():
        at_text, at_baseline = (
            masked(ids, texts.input_ids, *texts.arguments())
            for ids in (texts.input_ids, texts.baseline)
        )
    changes = (at_text - at_baseline)[owners, places]
    return Attribution(importances, importances.sum(dim=1) - changes, changes, n_steps)


Method = Callable[[Value, Embeddings, Question, int, int], Attribution]
METHODS: dict[str, Method] = {
    "layer_integrated_gradients": integrate_gradients,
    "layer_gradient_x_activation": multiply_gradients,
    "occlusion": occlude_words,
}


# How often a method runs the model on a window of so many tokens, of as many words at most, and
# back from so many numbers: either way is half a run.
RUNS: dict[str, Callable[[int, int, int], float]] = {
    "layer_integrated_gradients": lambda n_steps, _, numbers: n_steps * (1 + numbers) / 2,
    "layer_gradient_x_activation": lambda _, __, numbers: (1 + numbers) / 2,
    "occlusion": lambda _, tokens, numbers: tokens * numbers,
}
