"""Tensors of KServe's extension "Binary Tensor Data", written and read by numpy."""

from collections.abc import Sequence

import numpy as np


def packed(elements: Sequence[bytes]) -> bytes:
    """Return a tensor of BYTES."""
    lengths = np.array([len(each) for each in elements], "<u4")
    return b"".join(number.tobytes() + each for number, each in zip(lengths, elements, strict=True))


def unpacked_tensor(data: bytes) -> list[bytes]:
    """Return the elements of a tensor of BYTES."""
    elements = []
    while data:
        (length,) = np.frombuffer(data[:4], "<u4")
        elements.append(data[4 : 4 + length])
        data = data[4 + length :]
    return elements
