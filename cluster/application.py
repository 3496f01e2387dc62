"""The applications of Ray Serve that a cluster runs: one for each archive, and the gateway."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application

from cluster.front_end import FrontEnd
from cluster.ray_models import DEPLOYMENT, RayModels
from cluster.replica import ModelReplica
from gateway.app import build_app
from gateway.contract.engine import ContractEngine
from gateway.settings import Settings, parse_settings

# Requests and sessions at once, for each replica of the gateway.
MOST_CONNECTIONS = 1000


def build_model(options: Mapping[str, Any]) -> Application:
    """Return the application of an archive; `options` are `archive`, and those of a deployment."""
    path = str(options["archive"])
    given = {name: value for name, value in options.items() if name != "archive"}
    application: Application = serve.deployment(name=DEPLOYMENT, **given)(ModelReplica).bind(path)
    if "request_router_config" in given:
        # Ray allows no router of one's own on what HAProxy may reach: an application's first.
        first = serve.deployment(name="First", ray_actor_options={"num_cpus": 0})
        application = first(FirstOfApplication).bind(application)
    return application


class FirstOfApplication:
    """Stands before a model in its application; nobody asks it anything."""

    def __init__(self, model: object) -> None:
        """Take the model that it stands before."""


def build_gateway(content: Mapping[str, Any]) -> Application:
    """Return the application of the gateway; `content` is that of gateway.yaml."""
    settings = parse_settings(content)

    def build() -> FastAPI:
        """Return the application, in the process of its replica."""
        return put_before(RayModels(settings.models_refresh_s), settings)

    deployed = serve.deployment(
        name="Gateway",
        max_ongoing_requests=MOST_CONNECTIONS,
        # As without Ray: what runs when it has to go may end.
        graceful_shutdown_timeout_s=settings.shutdown_timeout_s,
        ray_actor_options={"num_cpus": 0},
    )
    application: Application = deployed(serve.ingress(build)()).bind()
    return application


def put_before(models: RayModels, settings: Settings) -> FastAPI:
    """Return the gateway that stands before models of Ray's."""
    engine = ContractEngine(FrontEnd(models), models, settings.session_answer_timeout_s)
    return build_app(settings, engine)


# By the paths that a configuration has them under.
BUILDERS = {f"{build.__module__}:{build.__name__}": build for build in (build_model, build_gateway)}
