"""Tensors of bytes, as JSON and as binary data behind it.

The Open Inference Protocol, "Tensor Data", and its extension "Binary Tensor Data": binary tensors
follow the JSON in the order of the inputs, each of `parameters.binary_data_size` bytes; an element
of BYTES is its length, 4 bytes little-endian, and then so many bytes.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Any

from gateway.engine import MalformedRequestError
from gateway.kserve.instances import check_count
from gateway.kserve.shapes import InferRequest, Tensor

# Text from JSON, bytes from binary data.
Elements = Sequence[str | bytes]
LENGTH = struct.Struct("<I")
# Longer numbers are longer than any body, and than what an error tells.
MOST_BYTES = 2**63
BINARY_SIZE = "binary_data_size"
DATATYPES = (
    *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
    *("FP16", "FP32", "FP64", "BF16"),
)


def malformed(place: str, expected: str, got: str) -> MalformedRequestError:
    """Return the error of a tensor that cannot be read."""
    return MalformedRequestError("InvalidTensor", f"{place}: expected {expected}, got {got}.")


def split_body(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    """Return the JSON of a body, and the binary data behind it.

    `header_length` is the header Inference-Header-Content-Length: the bytes of the JSON.
    """
    if header_length is None:
        return body, memoryview(b"")
    # Longer numbers are longer than any body.
    if not (header_length.isascii() and header_length.isdecimal() and len(header_length) < 20):
        raise malformed("Inference-Header-Content-Length", "a number of bytes", "something else")
    size = int(header_length)
    if not 0 < size <= len(body):
        raise malformed(
            "Inference-Header-Content-Length", f"1 to the body's {len(body)} bytes", str(size)
        )
    return body[:size], memoryview(body)[size:]


def read_tensors(request: InferRequest, binary: memoryview) -> list[Elements]:
    """Return the elements of each input.

    `binary` is what follows the JSON. Raises `MalformedRequestError`.
    """
    sizes = [_binary_size(tensor, f"inputs.{i}") for i, tensor in enumerate(request.inputs)]
    told = sum(size or 0 for size in sizes)
    if told != len(binary):
        raise malformed(
            "inputs", f"{BINARY_SIZE} of the {len(binary)} bytes behind the JSON", f"{told}"
        )
    start, read = 0, list[Elements]()
    for number, (tensor, size) in enumerate(zip(request.inputs, sizes, strict=True)):
        place = f"inputs.{number}"
        count = _count_elements(tensor, place)
        if size is None:
            read.append(_read_json(tensor.data, tensor.shape, count, place))
        else:
            read.append(_read_binary(binary[start : start + size], count, place))
            start += size
    return read


def _binary_size(tensor: Tensor, place: str) -> int | None:
    """Return how many bytes of binary data a tensor says that it has, None where it is JSON."""
    size: Any = (tensor.parameters or {}).get(BINARY_SIZE)
    if size is None:
        if tensor.data is None:
            raise malformed(f"{place}.data", f"a list, or {BINARY_SIZE} in parameters", "neither")
        return None
    if tensor.data is not None:
        raise malformed(f"{place}.data", f"no list beside {BINARY_SIZE}", "one")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size < MOST_BYTES:
        got = "a negative one" if isinstance(size, int) and size < 0 else "something else"
        raise malformed(f"{place}.parameters.{BINARY_SIZE}", "a number of bytes", got)
    return size


def _count_elements(tensor: Tensor, place: str) -> int:
    """Return how many elements a tensor has; raises an error for one that is no list of BYTES."""
    if tensor.datatype != "BYTES":
        got = tensor.datatype if tensor.datatype in DATATYPES else "another"
        raise malformed(f"{place}.datatype", "BYTES", got)
    shape = tensor.shape
    if not shape or shape[0] < 0 or shape[1:] not in ([], [1]):
        raise malformed(f"{place}.shape", "[N] or [N, 1]", f"{shape}")
    check_count(shape[0])
    return shape[0]


def _read_json(
    data: Sequence[Any] | None, shape: Sequence[int], count: int, place: str
) -> Elements:
    elements = list(data or ())
    if len(shape) > 1 and all(isinstance(row, list) and len(row) == 1 for row in elements):
        # Nested as its shape is, rather than flattened.
        elements = [row[0] for row in elements]
    if len(elements) != count:
        raise malformed(f"{place}.data", f"{count} elements by its shape", f"{len(elements)}")
    for number, element in enumerate(elements):
        if not isinstance(element, str):
            raise malformed(f"{place}.data.{number}", "a string", type(element).__name__)
    return elements


def _read_binary(data: memoryview, count: int, place: str) -> Elements:
    elements = list(_split_elements(data, count, place))
    used = sum(LENGTH.size + len(element) for element in elements)
    if used != len(data):
        raise malformed(
            place, f"{count} elements in {len(data)} bytes", f"{len(data) - used} bytes behind them"
        )
    return elements


def _split_elements(data: memoryview, count: int, place: str) -> Iterator[bytes]:
    start = 0
    for number in range(count):
        left = len(data) - start - LENGTH.size
        if left < 0:
            raise malformed(f"{place}, element {number}", "a length of 4 bytes", "the end")
        (length,) = LENGTH.unpack_from(data, start)
        if length > left:
            raise malformed(f"{place}, element {number}", f"{length} bytes", f"{left}")
        start += LENGTH.size
        yield bytes(data[start : start + length])
        start += length


def write_binary(elements: Sequence[bytes]) -> bytes:
    """Return a tensor of BYTES as binary data."""
    return b"".join(part for each in elements for part in (LENGTH.pack(len(each)), each))
