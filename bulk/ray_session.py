"""The Ray that a job runs on."""

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from cluster.own_ray import prepare_environment, start_ray


@contextmanager
def ray_session() -> Iterator[TextIO]:
    """Use the Ray at `RAY_ADDRESS`, else one of this process's own, while the block runs.

    Yields what to tell people by: standard error is a file then, as Ray's C++ writes there.
    """
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        prepare_environment()
    # Reads its environment when it is imported.
    import ray

    with tempfile.TemporaryDirectory(prefix="ray-") as folder, _quiet(Path(folder)) as stream:
        try:
            if address:
                ray.init(log_to_driver=False, logging_level=logging.ERROR)
            else:
                start_ray(Path(folder), os.cpu_count() or 1)
            yield stream
        finally:
            ray.shutdown()


@contextmanager
def _quiet(folder: Path) -> Iterator[TextIO]:
    sys.stderr.flush()
    with os.fdopen(os.dup(2), "w") as stream:
        with (folder / "stderr").open("w") as file:
            os.dup2(file.fileno(), 2)
        try:
            yield stream
        finally:
            os.dup2(stream.fileno(), 2)
