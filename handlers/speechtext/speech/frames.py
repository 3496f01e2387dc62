"""What FFmpeg decodes: frames of samples of several kinds, to blocks of one."""

from typing import Any, NamedTuple

import av
import numpy as np
from av.audio.plane import AudioPlane
from numpy.typing import NDArray

Samples = NDArray[np.float32]
# Of a kind of sample: its type, where zero is, and the largest value.
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
    if frame.format.is_planar and channels > 1:
        by_channel = np.stack([_plane(frame, each, kind, 1) for each in range(channels)], axis=1)
    else:
        by_channel = _plane(frame, 0, kind, channels).reshape(-1, channels)
    samples = by_channel.astype(np.float32, copy=False)
    if zero:
        samples -= zero
    if channels == 1:
        return samples[:, 0] if largest == 1 else samples[:, 0] * np.float32(1 / largest)
    return samples @ np.full(channels, 1 / largest / channels, np.float32)


def _plane(frame: av.AudioFrame, index: int, kind: Any, channels: int) -> NDArray[Any]:
    # Not frame.planes: of eight channels and more, each in a plane, it reads past the last.
    plane = memoryview(AudioPlane(frame, index))
    return np.frombuffer(plane, kind, frame.samples * channels)
