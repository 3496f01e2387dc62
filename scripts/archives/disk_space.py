"""Room on the disk, looked for before it is needed."""

import shutil
from pathlib import Path

from archives.errors import BuildError


def check_disk_space(place: Path, needed_bytes: int) -> None:
    """Raise `BuildError` where `place` has less room than is needed."""
    free_bytes = shutil.disk_usage(place).free
    if free_bytes < needed_bytes:
        raise BuildError(
            f"Expected {needed_bytes / 1e6:.0f} MB of free disk space in {place}, "
            f"got {free_bytes / 1e6:.0f} MB."
        )
