"""Another sampling rate for a waveform that comes in blocks."""

from typing import cast

import av
import numpy as np
from av.filter import Graph

from speechtext.speech.frames import Samples, average_channels

# Samples that FFmpeg gets at once.
FRAME_SAMPLES = 2**20


class Resampler:
    """Gives the samples of a waveform that comes in blocks another sampling rate.

    FFmpeg's libswresample: however a waveform is cut, the samples are the same, and 1 or 2 ms are
    held back (soxr holds back 40 ms of 48 kHz and 115 of 8 kHz, which live speech would wait for).
    """

    def __init__(self, from_hz: int, to_hz: int) -> None:
        self._from_hz = from_hz
        self._graph = None if from_hz == to_hz else _build_graph(from_hz, to_hz)

    def push(self, block: Samples) -> Samples:
        """Return the samples that can be told after another block of shape (samples,)."""
        if self._graph is None or not len(block):
            return block
        starts = range(0, len(block), FRAME_SAMPLES)
        parts = [self._push(self._graph, block[start : start + FRAME_SAMPLES]) for start in starts]
        return np.concatenate(parts)

    def _push(self, graph: Graph, block: Samples) -> Samples:
        frame = av.AudioFrame.from_ndarray(block[None], format="flt", layout="mono")
        frame.sample_rate = self._from_hz
        graph.push(frame)
        return _pull(graph)

    def end(self) -> Samples:
        """Return the last samples, once there are no more blocks."""
        if self._graph is None:
            return np.empty(0, np.float32)
        self._graph.push(None)
        return _pull(self._graph)


def _build_graph(from_hz: int, to_hz: int) -> Graph:
    # Not av.AudioResampler: its graph starts as many threads as there are cores.
    graph = Graph()
    graph.threads = 1
    graph.link_nodes(
        graph.add("abuffer", sample_rate=str(from_hz), sample_fmt="flt", channel_layout="mono"),
        graph.add("aresample", str(to_hz)),
        graph.add("abuffersink"),
    ).configure()
    return graph


def _pull(graph: Graph) -> Samples:
    blocks = [np.empty(0, np.float32)]
    while True:
        try:
            frame = cast(av.AudioFrame, graph.pull())
        except (BlockingIOError, EOFError):
            return np.concatenate(blocks)
        blocks.append(average_channels(frame))
