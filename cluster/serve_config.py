"""What Ray Serve is told of each archive, out of the YAML that TorchServe reads too.

`minWorkers` and `maxWorkers` become replicas, `batchSize` and `maxBatchDelay` batches; the section
`cluster` says what TorchServe has no key for.
"""

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from cluster.archives import (
    ArchiveError,
    read_batch_limits,
    read_number,
    read_response_timeout_s,
    read_section,
)
from gateway.sentences import lower_first

# As TorchServe's job_queue_size in config.properties.
QUEUE = 100
# What a replica takes beside the batch that runs, so that the next one is there when it ends.
BATCHES_AT_ONCE = 2
# What the gateway's settings say of its address and of TorchServe is no matter here.
ELSEWHERE = ("host", "port", "torchserve")
# Settings of the gateway that Ray's proxy has under other names.
TLS = {"certificate_file": "ssl_certfile", "private_key_file": "ssl_keyfile"}
ROUTER = "cluster.sticky_router.StickyRouter"

Seconds = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class ClusterKeys:
    """The section `cluster` of a model's YAML.

    A replica takes `cpus` and `gpus`, of which fractions are possible. `max_batch_work` is the most
    seconds of audio, or tokens, of a batch.
    """

    cpus: Share | None = None
    gpus: Share = 0.0
    target_ongoing_requests: Annotated[float, Field(gt=0)] | None = None
    upscale_delay_s: Seconds = 30.0
    downscale_delay_s: Seconds = 600.0
    max_queued_requests: Count = QUEUE
    max_batch_work: Annotated[float, Field(gt=0)] | None = None
    ray_actor_options: Mapping[str, Any] = field(default_factory=dict)


def deployment_options(name: str, keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of an archive's deployment, by the keys of its YAML.

    Raises `ArchiveError` with one sentence for a key that is wrong.
    """
    cluster = read_keys(name, keys)
    threads = int(read_number(read_section(keys, "handler", name), "threads", 1, name))
    cpus = cluster.cpus if cluster.cpus is not None else threads
    batch_size = read_batch_limits(keys, name).size
    options: dict[str, Any] = {
        "max_ongoing_requests": BATCHES_AT_ONCE * batch_size,
        "max_queued_requests": cluster.max_queued_requests,
        # What runs when a replica has to go may end.
        "graceful_shutdown_timeout_s": read_response_timeout_s(keys, name),
        "user_config": _batches(cluster),
        "ray_actor_options": {
            "num_cpus": cpus,
            "num_gpus": cluster.gpus,
            **cluster.ray_actor_options,
        },
        **_replicas(name, keys, cluster, batch_size),
    }
    if keys.get("sequenceMaxIdleMSec"):
        # A session's pieces are of no use to another replica.
        options["request_router_config"] = {
            "request_router_class": ROUTER,
            "request_router_kwargs": {"num_fallback_replicas": 0},
        }
    return options


def read_keys(name: str, keys: Mapping[str, Any]) -> ClusterKeys:
    """Return the section `cluster` of a YAML; raises `ArchiveError` for what is wrong with it."""
    section = read_section(keys, "cluster", name)
    try:
        return ClusterKeys(**{str(key): value for key, value in section.items()})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        said = lower_first(first["msg"])
        raise ArchiveError(
            f"{name}.yaml: cluster.{key}: {said}, got {first['input']!r}."
        ) from error


def _batches(cluster: ClusterKeys) -> dict[str, float]:
    return {} if cluster.max_batch_work is None else {"most_work": cluster.max_batch_work}


def _replicas(
    name: str, keys: Mapping[str, Any], cluster: ClusterKeys, batch_size: int
) -> dict[str, Any]:
    least = max(int(read_number(keys, "minWorkers", 1, name)), 1)
    most = max(int(read_number(keys, "maxWorkers", least, name)), least)
    if least == most:
        return {"num_replicas": least}
    return {
        "autoscaling_config": {
            "min_replicas": least,
            "max_replicas": most,
            "target_ongoing_requests": cluster.target_ongoing_requests or batch_size,
            "upscale_delay_s": cluster.upscale_delay_s,
            "downscale_delay_s": cluster.downscale_delay_s,
        }
    }


def write_config(
    models: Mapping[str, Mapping[str, Any]], store: str, gateway: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what `serve deploy` takes: an application for each model, and the gateway.

    `models` are the keys of each model's YAML by its name, `store` is where each node has its
    archives, `gateway` the content of gateway.yaml.
    """
    applications = [
        {
            "name": name,
            "route_prefix": None,
            "import_path": "cluster.application:build_model",
            "args": {
                "archive": f"{store.rstrip('/')}/{name}.mar",
                **deployment_options(name, keys),
            },
        }
        for name, keys in models.items()
    ]
    applications.append(
        {
            "name": "gateway",
            "route_prefix": "/",
            "import_path": "cluster.application:build_gateway",
            "args": {name: gateway[name] for name in gateway if name not in {*ELSEWHERE, *TLS}},
        }
    )
    encrypted = {theirs: gateway[ours] for ours, theirs in TLS.items() if gateway.get(ours)}
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": 8000, **encrypted},  # noqa: S104 - inside the cluster
        # It would write paths of requests with their queries.
        "logging_config": {"enable_access_log": False},
        "applications": applications,
    }
