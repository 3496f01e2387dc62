"""The searches of a batch, one after the other, or in processes of their own.

flashlight's search holds Python's lock, so that threads would take turns.
"""

import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait

import numpy as np
import torch

from speechtext.allowance import check_time, find_deadline_s
from speechtext.speech.hotword_scores import HotwordScores
from speechtext.speech.transcripts import Token

# From probabilities of shape (frames, labels), and hotwords to search for, to tokens.
Search = Callable[[torch.Tensor, HotwordScores | None], list[Token]]
Load = Callable[[], Search]
Decode = Callable[[Sequence[torch.Tensor], Sequence[HotwordScores | None]], list[list[Token]]]


def choose_searches(load: Load, processes: int) -> Decode:
    """Return what decodes a batch in this process, or in so many others.

    Raises what `load` does.
    """
    search = load()
    if processes > 1:
        return SearchProcesses(search, load, processes)
    return lambda probabilities, hotwords: list(map(search, probabilities, hotwords))


class SearchProcesses:
    """Decodes the recordings of a batch in processes, each with a search of its own.

    `load`, which they load it by, has to be one that can be pickled. They end when this process
    does, however that ends. A batch of one recording is decoded here.
    """

    def __init__(self, search: Search, load: Load, count: int) -> None:
        self._search = search
        self._load = load
        self._count = count
        self._start()
        for each in self._loaded:
            each.result()

    def __call__(
        self, probabilities: Sequence[torch.Tensor], hotwords: Sequence[HotwordScores | None]
    ) -> list[list[Token]]:
        """Return the tokens of each recording.

        Raises `DeadlineError`, and `BrokenProcessPool` where a process died; others follow it.
        """
        if len(probabilities) == 1:
            return [self._search(probabilities[0], hotwords[0])]
        values = [each.float().cpu().numpy() for each in probabilities]
        # Those that follow others may still load, and would never be ready if they were ended.
        futures.wait(self._loaded, _find_seconds_left())
        check_time()
        try:
            return list(self._pool.map(_search_one, values, hotwords, timeout=_find_seconds_left()))
        except BrokenProcessPool:
            self._start()
            raise
        except TimeoutError:
            self._end()
            self._start()
            check_time()
            raise

    def _start(self) -> None:
        """Start processes: none of those that are asked has come up before."""
        self._pool = ProcessPoolExecutor(self._count, get_context("spawn"), _begin, (self._load,))
        self._loaded = [self._pool.submit(os.getpid) for _ in range(self._count)]

    def _end(self) -> None:
        """End the processes amid their searches, which the next batch would have to wait for.

        As `kill_workers` of Python 3.14. Nothing else interrupts flashlight's search.
        """
        for process in list(self._pool._processes.values()):
            process.kill()


def _find_seconds_left() -> float | None:
    """Return the seconds that the batch has left, None for any."""
    left_s = find_deadline_s() - time.monotonic()
    return None if math.isinf(left_s) else left_s


# The search of a worker process.
_searches: list[Search] = []


def _begin(load: Load) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _searches.append(load())


def _end_with_parent() -> None:
    """End this process with the one that it searches for, also where that one was killed."""
    parent = parent_process()
    if parent:
        wait([parent.sentinel])
        os._exit(1)


def _search_one(probabilities: np.ndarray, hotwords: HotwordScores | None) -> list[Token]:
    (search,) = _searches
    return search(torch.from_numpy(probabilities), hotwords)
