"""A TorchServe worker in this process: an archive's handler within TorchServe's own Python code."""

import itertools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ts.model_loader import TsModelLoader
from ts.service import Service

from cluster.archives import Archive
from cluster.requests import WorkerAnswer, WorkerRequest, as_message, read_answers, read_failure

# Tells of the answer to a request, by its number, or of a part of it.
Tell = Callable[[int, WorkerAnswer], None]
Around = Callable[[], AbstractContextManager[None]]


class ArchiveWorker:
    """Answers batches with an archive's handler.

    `around` is entered for each batch; a process with several archives keeps their modules apart
    with it.
    """

    def __init__(self, service: Service, around: Around = nullcontext) -> None:
        self._service = service
        self._around = around
        self._begun_s: float | None = None
        # Numbers of requests, each used once: a handler may still know those of a call that failed.
        self.numbers = itertools.count()

    @property
    def busy_s(self) -> float:
        """Return for how long the batch that runs has been running, 0 where none does.

        What a batch waits for those of other archives before it does not count.
        """
        begun_s = self._begun_s
        return time.monotonic() - begun_s if begun_s is not None else 0.0

    def measure(self, measure: Callable[[WorkerRequest], float], request: WorkerRequest) -> float:
        """Return how much work a request is, where the modules are those of its batch."""
        with self._around():
            return measure(request)

    def answer(self, requests: Sequence[WorkerRequest], tell: Tell) -> None:
        """Answer a batch; `tell` hears of each answer, and of its parts before it."""
        open_ = {next(self.numbers): request for request in requests}
        places = {number: place for place, number in enumerate(open_)}

        def hear(number: int, answer: WorkerAnswer) -> None:
            if not answer.more:
                del open_[number]
            tell(places[number], answer)

        while open_:
            self.advance(dict(open_), hear)

    def advance(self, requests: Mapping[int, WorkerRequest], tell: Tell) -> None:
        """Call the handler once with all requests that are open, each under one of `numbers`.

        One whose answer is not whole then is open still, as in TorchServe's continuous batching.
        """
        silent = set(requests)

        def hear(message: bytes) -> None:
            for name, answer in read_answers(message):
                silent.discard(int(name))
                tell(int(name), answer)

        messages = [as_message(request, str(number)) for number, request in requests.items()]
        self._service.set_cl_socket(_Ear(hear))
        with self._around():
            self._begun_s = time.monotonic()
            try:
                answers = self._service.predict(messages)
            finally:
                self._begun_s = None
            hear(answers)
        # A worker that failed has failed all, also those that it would have told nothing yet.
        if failure := read_failure(answers):
            for number in silent:
                tell(number, failure)


class _Ear:
    """Stands where a worker's connection to the front end is."""

    def __init__(self, hear: Callable[[bytes], None]) -> None:
        self.sendall = hear

    def getsockname(self) -> str:
        """Return what metrics know this worker by."""
        return "worker.0"


class NoMetrics:
    """Stands where TorchServe's metrics are, and forgets them: engines have their own."""

    cache: Mapping[str, Any] = {}
    request_ids: Any = None

    def set_request_ids(self, request_ids: Any) -> None:
        """Take the names of a batch's requests."""

    def add_time(self, name: str, value: float) -> None:
        """Take how long a batch took."""


def load_alone(
    archive: Archive, gpu_id: int | None = None, metrics: NoMetrics | None = None
) -> Service:
    """Return the handler of an archive that has a process of its own, as a worker's is loaded.

    What the archive brings comes before all else that Python finds.
    """
    sys.path.insert(0, str(archive.folder))
    return load_service(archive, gpu_id, metrics or NoMetrics())


def load_service(archive: Archive, gpu_id: int | None = None, metrics: Any = None) -> Service:
    """Return an archive's handler, loaded; its modules are imported from wherever Python looks.

    Raises what the handler's `initialize` raises.
    """
    service = TsModelLoader().load(
        archive.name,
        str(archive.folder),
        handler=archive.handler,
        gpu_id=gpu_id,
        batch_size=archive.batch_limits.size,
        metrics_cache=metrics,
    )
    # How `ArchiveWorker` calls a handler, whatever TorchServe would do with the same archive.
    service.context.model_yaml_config["continuousBatching"] = True
    return service
