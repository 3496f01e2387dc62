"""A Ray of this process's own, on this machine alone."""

import logging
import os
import secrets
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What Ray recommends for throughput, but no HTTP server in each replica.
ENVIRONMENT = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def prepare_environment() -> None:
    """Set the environment of a Ray of one's own, before Ray is imported, which reads it then."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Who may use this Ray: its own processes, and no file tells anybody else.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ["PYTHONPATH"] = str(ROOT)


def start_ray(folder: Path, cpus: int) -> None:
    """Start a Ray that writes below `folder`."""
    import ray

    ray.init(
        # Whatever address the environment names.
        address="local",
        num_cpus=cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _temp_dir=str(folder),
    )
