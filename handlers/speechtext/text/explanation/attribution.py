"""What an answer hangs on: Captum's attributions of a model's number to the tokens of a text.

Pure functions of a model and tensors. Positions and token types are the same for input and
baseline, so that only the words are explained.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from captum.attr import FeatureAblation, LayerGradientXActivation, LayerIntegratedGradients

from speechtext.allowance import check_time
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
    """Return the numbers to explain, shape (rows,), as a function of `input_ids` and arguments.

    It raises `DeadlineError`.
    """

    def value(input_ids: torch.Tensor, *arguments: torch.Tensor) -> torch.Tensor:
        check_time()
        *others, heads, logit_indices = arguments
        output = model(input_ids=input_ids, **dict(zip(names, others, strict=True)))
        numbers = torch.zeros(len(input_ids), device=input_ids.device)
        for index, head in enumerate(heads_of(output)):
            own = heads == index
            if own.any():
                # By position: a copy of the rows would be as large as all their logits.
                picked = head.flatten(1)[own.nonzero()[:, 0], logit_indices[own]]
                numbers = numbers.masked_scatter(own, picked.float())
        return numbers

    return value


def integrate_gradients(
    value: Value, embeddings: torch.nn.Module, question: Question, n_steps: int, most_rows: int
) -> Attribution:
    """Attribute by Layer Integrated Gradients, `most_rows` in the model at once.

    Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks".
    """
    method = LayerIntegratedGradients(value, embeddings)
    attributions, deltas = method.attribute(
        inputs=question.input_ids,
        baselines=question.baseline,
        additional_forward_args=question.arguments(),
        n_steps=n_steps,
        internal_batch_size=max(len(question.input_ids), most_rows),
        return_convergence_delta=True,
    )
    importances, deltas = attributions.detach().float().sum(dim=-1), deltas.detach().float()
    return Attribution(importances, deltas, importances.sum(dim=1) - deltas, n_steps)


def multiply_gradients(
    value: Value, embeddings: torch.nn.Module, question: Question, _n_steps: int, _most_rows: int
) -> Attribution:
    """Attribute by the gradient at the text times its embedding, in one step.

    Shrikumar et al. 2016, "Not Just a Black Box".
    """
    method = LayerGradientXActivation(value, embeddings)
    attributions = method.attribute(
        question.input_ids, additional_forward_args=question.arguments()
    )
    return _complete(value, question, attributions.detach().float().sum(dim=-1))


def occlude_words(
    value: Value, _embeddings: torch.nn.Module, question: Question, _n_steps: int, most_rows: int
) -> Attribution:
    """Attribute to each word what the number loses without it, its tokens a like part each.

    Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks".
    """
    method = FeatureAblation(value)
    importances = []
    for row in range(len(question.input_ids)):
        one = question.pick([row])
        _, words, counts = one.words.unique(return_inverse=True, return_counts=True)
        lost = method.attribute(
            one.input_ids,
            baselines=one.baseline,
            additional_forward_args=one.arguments(),
            feature_mask=words,
            perturbations_per_eval=max(1, most_rows),
        )
        importances.append(lost.float() / counts[words])
    return _complete(value, question, torch.cat(importances))


def _complete(value: Value, question: Question, importances: torch.Tensor) -> Attribution:
    with torch.no_grad():
        changes = value(question.input_ids, *question.arguments())
        changes = changes - value(question.baseline, *question.arguments())
    return Attribution(importances, importances.sum(dim=1) - changes, changes, 1)


Method = Callable[[Value, torch.nn.Module, Question, int, int], Attribution]
METHODS: dict[str, Method] = {
    "layer_integrated_gradients": integrate_gradients,
    "layer_gradient_x_activation": multiply_gradients,
    "occlusion": occlude_words,
}


# How often a method runs the model on a window of so many tokens, of as many words at most.
STEPS: dict[str, Callable[[int, int], int]] = {
    "layer_integrated_gradients": lambda n_steps, _: n_steps,
    "layer_gradient_x_activation": lambda *_: 1,
    "occlusion": lambda _, tokens: tokens,
}


def find_embeddings(model: Any, embedding_name: str | None) -> torch.nn.Module:
    """Return the word embeddings to attribute to: those of the submodule named, else the model's.

    Raises `ValueError` where the model has no such submodule.
    """
    owner = getattr(model, embedding_name, None) if embedding_name else model
    if not isinstance(owner, torch.nn.Module):
        children = ", ".join(name for name, _ in model.named_children())
        raise ValueError(
            f"handler.embedding_name: expected one of {children}, got {embedding_name!r}."
        )
    word_embeddings = getattr(owner, "get_input_embeddings", lambda: owner)
    layer: torch.nn.Module = word_embeddings()
    return layer
