"""What a model gives are numbers, or there is no answer.

A weight, a dtype or an input beyond sense makes a network give NaN or infinities, of which an
argmax still makes an answer.
"""

import torch

from speechtext.errors import NonFiniteOutputError


def find_finite(output: torch.Tensor) -> torch.Tensor:
    """Return which rows of an output, of shape (..., labels), have a largest number, shape (...).

    NaN and infinity are passed on to it. Minus infinity is not: it says that a label cannot be.
    """
    return output.amax(dim=-1).isfinite()


def check_finite(output: torch.Tensor) -> None:
    """Raise `NonFiniteOutputError` where an output, shape (..., labels), is not of numbers."""
    if not find_finite(output).all():
        raise not_finite()


def not_finite() -> NonFiniteOutputError:
    """Return the error of an output that is not finite."""
    return NonFiniteOutputError(
        "NonFiniteOutput",
        "Expected numbers from the model, got NaN or infinite ones: this request cannot be "
        "answered by this model, or not in its dtype.",
    )
