"""The word embeddings of a model: where they look up the tokens of texts, and others instead."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

# The layers of a model that share its word embeddings: the model's own, and those of its parts.
Embeddings = Sequence[torch.nn.Embedding]
# Puts values of the texts' tokens, shape (rows, tokens, ...), in their places among a call's.
Fit = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
# Returns what a layer is to give, of the layer, the texts' places, and what it was and would give.
Change = Callable[[torch.nn.Module, Fit, torch.Tensor, torch.Tensor], torch.Tensor]


def find_embeddings(model: Any, embedding_name: str | None) -> Embeddings:
    """Return the word embeddings to attribute to: those of the submodule named, else the model's.

    Raises `ValueError` where the model has no such submodule, and where that has no embeddings.
    """
    owner = getattr(model, embedding_name, None) if embedding_name else model
    if not isinstance(owner, torch.nn.Module):
        children = ", ".join(name for name, _ in model.named_children())
        raise ValueError(
            f"handler.embedding_name: expected one of {children}, got {embedding_name!r}."
        )
    layer = getattr(owner, "get_input_embeddings", lambda: owner)()
    if not isinstance(layer, torch.nn.Embedding):
        raise ValueError(
            "handler.captum_explanation: expected a model with word embeddings to explain, got a "
            f"{type(layer).__name__}."
        )
    # The encoder and the decoder of BART and T5 each have a layer, of the same weights.
    layers = (each for each in model.modules() if isinstance(each, torch.nn.Embedding))
    return [layer, *(each for each in layers if each is not layer and each.weight is layer.weight)]


def see_tokens(
    embeddings: Embeddings, given: Sequence[torch.Tensor], token_ids: torch.Tensor
) -> Any:
    """Let the embeddings of a model see other tokens than the texts', shape (rows, tokens).

    `given` are the model's inputs, `input_ids` first. Raises `ValueError` at the end where the
    model looks up none of the texts, and at once where it looks up others.
    """
    return _changed(
        embeddings, given, lambda layer, fit, ids, _: layer.forward(fit(ids, token_ids))
    )


def see_embedded(
    embeddings: Embeddings, given: Sequence[torch.Tensor], embedded: torch.Tensor
) -> Any:
    """Let a model go on with embeddings of shape (rows, tokens, dimensions) as the texts'."""
    return _changed(embeddings, given, lambda _, fit, __, made: fit(made, embedded))


@contextmanager
def _changed(
    embeddings: Embeddings, given: Sequence[torch.Tensor], change: Change
) -> Iterator[None]:
    lookups = _Lookups(given)

    def hook(layer: torch.nn.Module, asked: tuple[torch.Tensor, ...], made: Any) -> Any:
        fit = lookups.find(asked[0])
        return None if fit is None else change(layer, fit, asked[0], made)

    hooks = [layer.register_forward_hook(hook) for layer in embeddings]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()
    lookups.check()


class _Lookups:
    """What a model asks its word embeddings for while it reads texts once."""

    def __init__(self, given: Sequence[torch.Tensor]) -> None:
        self._input_ids, *self._others = given
        self._found = False

    def find(self, ids: torch.Tensor) -> Fit | None:
        """Return where tokens that are looked up have those of the texts; None for token types.

        GPT-2 and XLM look those up, too, as if they were tokens, and after them.
        """
        if self._found and any(ids.equal(each) for each in self._others):
            return None
        fit = _find_fit(ids, self._input_ids)
        self._found = fit is not None
        self.check()
        return fit

    def check(self) -> None:
        if not self._found:
            raise ValueError(
                "handler.captum_explanation: expected a model that looks up the tokens of its "
                "text in its word embeddings and no others, got one that looks up others or none."
            )


def _find_fit(ids: torch.Tensor, input_ids: torch.Tensor) -> Fit | None:
    """Return where the tokens of a call are those of texts, shape (rows, tokens), if they are."""
    tokens = input_ids.shape[1]
    if ids.dim() != 2:
        return None
    if ids[:, :tokens].equal(input_ids):
        # Longformer pads them to whole windows.
        return lambda whole, own: torch.cat([own, whole[:, tokens:]], dim=1)
    if ids[:, 1:].equal(input_ids[:, :-1]):
        # A decoder reads them one place later, behind a first token of its own.
        return lambda whole, own: torch.cat([whole[:, :1], own[:, :-1]], dim=1)
    # In XLNet, texts are columns.
    return (lambda _, own: own.transpose(0, 1)) if ids.T.equal(input_ids) else None
