"""What FFmpeg decodes: frames of samples of several kinds, to blocks of one."""

from typing import NamedTuple

import av
import numpy as np
import torch
from av.audio.plane import AudioPlane

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

    samples: torch.Tensor
    rate_hz: int


def average_channels(frame: av.AudioFrame) -> torch.Tensor:
    """Return the mean of a frame's channels, shape (samples,), full scale from -1 to 1."""
    kind, zero, largest = KINDS[frame.format.packed.name]
    channels = frame.layout.nb_channels
    planes = channels if frame.format.is_planar else 1
    count = frame.samples * channels // planes
    # Not frame.planes: of eight channels and more, each in a plane, it reads past the last.
    values = [
        np.frombuffer(memoryview(AudioPlane(frame, plane)), kind, count) for plane in range(planes)
    ]
    samples = np.array(values, np.float32)
    if zero:
        samples -= zero
    if largest != 1:
        samples *= np.float32(1 / largest)
    if channels == 1:
        return torch.from_numpy(samples[0])
    by_channel = samples if planes > 1 else samples.reshape(-1, channels).T
    return torch.from_numpy(by_channel.mean(axis=0))
