"""What FFmpeg decodes: frames of samples of several kinds, to blocks of one."""

import functools
from typing import Any, NamedTuple

import av
import numpy as np
from av.audio.plane import AudioPlane
from numpy.typing import NDArray

Samples = NDArray[np.float32]
# For each kind of sample: its type, where zero is, and the largest value.
KINDS = {
    "u8": (np.uint8, 128, 2**7),
    "s16": (np.int16, 0, 2**15),
    "s32": (np.int32, 0, 2**31),
    "flt": (np.float32, 0, 1),
    "dbl": (np.float64, 0, 1),
}


class Block(NamedTuple):
    """Part of a recording: samples, channels averaged, of shape (samples,), at their rate."""

    samples: Samples
    rate_hz: int


def average_channels(frame: av.AudioFrame) -> Samples:
    """Return the mean of a frame's channels, shape (samples,), full scale from -1 to 1."""
    kind, zero, largest = KINDS[frame.format.packed.name]
    channels = frame.layout.nb_channels
    if frame.format.is_planar:
        columns = [_plane(frame, each, kind, 1) for each in range(channels)]
    else:
        columns = list(_plane(frame, 0, kind, channels).reshape(-1, channels).T)
    # One after the other: the sum of a product of matrices would depend on where frames are cut.
    # What is too large for float32 is infinite, as `check_samples` finds.
    with np.errstate(over="ignore", invalid="ignore"):
        total = functools.reduce(
            np.add, (column.astype(np.float32, copy=False) for column in columns)
        )
    if zero:
        total = total - np.float32(channels * zero)
    scale = np.float32(1 / largest / channels)
    return total if scale == 1 else total * scale


def _plane(frame: av.AudioFrame, index: int, kind: Any, channels: int) -> NDArray[Any]:
    # Not frame.planes: of eight channels and more, each in a plane, it reads past the last.
    plane = memoryview(AudioPlane(frame, index))
    return np.frombuffer(plane, kind, frame.samples * channels)
