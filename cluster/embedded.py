"""A Ray of this process's own, with the applications of a configuration on it."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.schema import ApplicationStatus

from cluster.application import BUILDERS, put_before
from cluster.archives import ArchiveError
from cluster.own_ray import start_ray
from cluster.ray_models import RayModels
from gateway.command import serve as serve_app
from gateway.settings import Settings

START_TIMEOUT_S = 600.0
ASK_EVERY_S = 0.5


@contextmanager
def embedded_ray(config: Mapping[str, Any], folder: Path) -> Iterator[None]:
    """Run the models of a configuration while the block runs, once all of them are ready.

    Ray is on this machine alone, and what it writes is below `folder`. Raises `ArchiveError` with
    what Ray says of the first application that cannot be.
    """
    try:
        _deploy(config, folder)
        yield
    finally:
        # Ray has no types for it.
        shut_down: Any = serve.shutdown
        shut_down()
        ray.shutdown()


class OwnModels(RayModels):
    """The models of a Ray of this process's own, which ends with its gateway."""

    async def aclose(self) -> None:
        """End the replicas, from the event loop that asked them: handles are bound to it."""
        await super().aclose()
        shut_down: Any = serve.shutdown_async
        await shut_down()


def serve_gateway(settings: Settings) -> None:
    """Serve the gateway before Ray's models, in this process, until a signal ends it."""
    app = put_before(OwnModels(settings.models_refresh_s), settings)
    scheme = "https" if settings.certificate_file else "http"
    print(f"Open {scheme}://{settings.host}:{settings.port}", flush=True)
    serve_app(app, settings)


def _deploy(config: Mapping[str, Any], folder: Path) -> None:
    applications = [each for each in config["applications"] if "archive" in each["args"]]
    # One machine is all there is: its replicas share the cores, as TorchServe's workers do.
    cpus = max(os.cpu_count() or 1, round(sum(map(_cpus, applications))))
    start_ray(folder, cpus)
    # The gateway of this process is all that listens: no proxies of Ray's.
    serve.start(proxy_location="Disabled", logging_config=config["logging_config"])
    targets = [
        serve.RunTarget(
            BUILDERS[each["import_path"]](each["args"]),
            name=each["name"],
            route_prefix=None,
        )
        for each in applications
    ]
    serve.run_many(
        targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False
    )
    _wait({each["name"] for each in applications})
    # Ray has no types for it.
    list_nodes: Any = ray.nodes
    (node,) = list_nodes()
    print(f"Metrics at http://127.0.0.1:{node['MetricsExportPort']}/metrics", flush=True)


def _cpus(application: Mapping[str, Any]) -> float:
    """Return the cores of an application's replicas, those that it has at most."""
    options = application["args"]
    scaled = options.get("autoscaling_config", {}).get("max_replicas", 1)
    replicas = options.get("num_replicas", scaled)
    return float(replicas * options.get("ray_actor_options", {}).get("num_cpus", 0))


def _wait(names: set[str]) -> None:
    """Return when applications are ready, and tell of each; raises `ArchiveError`."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    waiting = set(names)
    while waiting:
        states = serve.status().applications
        for name in sorted(waiting & set(states)):
            state = states[name]
            if state.status == ApplicationStatus.RUNNING:
                print(f"{name} is ready", flush=True)
                waiting.remove(name)
            elif state.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
                raise ArchiveError(f"{name}: {state.message}")
        if time.monotonic() > deadline_s:
            raise ArchiveError(f"Expected {', '.join(sorted(waiting))} to be ready by now.")
        time.sleep(ASK_EVERY_S)
