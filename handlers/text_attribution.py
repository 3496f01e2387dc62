"""Which tokens an answer hangs on: Captum's Layer Integrated Gradients on the word embeddings.

Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks". Position and token-type
embeddings are the same for input and baseline, so that only the words are explained.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from captum.attr import LayerIntegratedGradients

from text_task import Target


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


def build_baseline(input_ids: torch.Tensor, kept: torch.Tensor, pad_id: int) -> torch.Tensor:
    """Return `input_ids`, shape (rows, tokens), with every token but the `kept` ones padding."""
    return torch.where(kept.to(input_ids.device), input_ids, pad_id)


def attribute(
    model: Any,
    embeddings: torch.nn.Module,
    inputs: Mapping[str, torch.Tensor],
    baseline: torch.Tensor,
    target: Target,
    n_steps: int,
) -> tuple[list[float], float]:
    """Return each token's attribution and the convergence delta, for one row.

    `inputs` are the model's, `input_ids` among them, each of shape (1, tokens); `baseline` has the
    shape of `input_ids`. The attributions sum to the change of the target's logit from the baseline
    to the input, up to the delta.
    """
    others = [name for name in inputs if name != "input_ids"]

    def target_logit(input_ids: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
        output = model(input_ids=input_ids, **dict(zip(others, tensors, strict=True)))
        logit: torch.Tensor = output[target.head][:, target.index]
        return logit.float()

    method = LayerIntegratedGradients(target_logit, embeddings)
    attributions, delta = method.attribute(
        inputs=inputs["input_ids"],
        baselines=baseline,
        additional_forward_args=tuple(inputs[name] for name in others),
        n_steps=n_steps,
        internal_batch_size=n_steps,
        return_convergence_delta=True,
    )
    return attributions.sum(dim=-1)[0].tolist(), float(delta)


def describe(
    words: Sequence[str], batch_targets: Sequence[tuple[Target, list[float], float]]
) -> dict[str, Any]:
    """Return the explanation answer: `words`, and `importances` and `delta` of each target."""
    answer: dict[str, Any] = {"words": list(words)}
    for target, importances, _ in batch_targets:
        answer[f"importances{target.suffix}"] = importances
    for target, _, delta in batch_targets:
        answer[f"delta{target.suffix.removeprefix('_answer')}"] = delta
    return answer
