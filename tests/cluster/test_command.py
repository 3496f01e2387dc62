"""What a cluster is told: Ray Serve's own schema reads it, and keys of TorchServe mean the same."""

import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve import Application
from ray.serve.schema import ServeDeploySchema

from archives.configs import read_configs
from cluster.application import BUILDERS, build_gateway
from cluster.archives import ArchiveError
from cluster.command import make_config, parse_arguments
from cluster.serve_config import ClusterKeys, deployment_options
from repository import CONFIG_FOLDER, ROOT
from support.pages import blocks, prints, rows


def config_of(*arguments: str) -> dict[str, Any]:
    return make_config(parse_arguments(["config", *arguments]))


def test_ray_reads_the_configuration_of_every_model() -> None:
    config = config_of("--model-store", "/models")
    read = ServeDeploySchema.model_validate(config)
    assert {each.name for each in read.applications} == {*read_configs(), "gateway"}
    for each in config["applications"]:
        assert isinstance(BUILDERS[each["import_path"]](each["args"]), Application)
    archives = {each["args"].get("archive") for each in config["applications"]} - {None}
    assert archives == {f"/models/{name}.mar" for name in read_configs()}


def test_workers_become_replicas() -> None:
    one = deployment_options("a", {})
    assert (one["num_replicas"], one["max_ongoing_requests"]) == (1, 2)
    assert one["ray_actor_options"] == {"num_cpus": 1, "num_gpus": 0}
    keys: dict[str, Any] = {"minWorkers": 2, "maxWorkers": 6, "batchSize": 8, "responseTimeout": 30}
    keys |= {"handler": {"threads": 4}, "cluster": {"gpus": 0.25, "upscale_delay_s": 5.0}}
    many = deployment_options("a", keys)
    assert many["autoscaling_config"] == {
        "min_replicas": 2,
        "max_replicas": 6,
        "target_ongoing_requests": 8,
        "upscale_delay_s": 5,
        "downscale_delay_s": 600,
    }
    assert many["ray_actor_options"] == {"num_cpus": 4, "num_gpus": 0.25}
    assert (many["max_ongoing_requests"], many["graceful_shutdown_timeout_s"]) == (16, 30)
    assert "request_router_config" not in many


def test_sessions_stay_with_their_replica() -> None:
    keys = yaml.safe_load((CONFIG_FOLDER / "emformer_asr_live.yaml").read_text())
    router = deployment_options("live", keys)["request_router_config"]
    assert router["request_router_class"].endswith(".StickyRouter")
    assert router["request_router_kwargs"] == {"num_fallback_replicas": 0}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"gpu": 1}, r"a\.yaml: cluster\.gpu: "),
        ({"gpus": "one"}, r"a\.yaml: cluster\.gpus: .*got 'one'\.$"),
        ({"max_batch_work": 0}, r"a\.yaml: cluster\.max_batch_work: .*got 0\.$"),
        ({1: 2}, r"a\.yaml: cluster\.1: "),
        ([1], r"a\.yaml: cluster: expected keys and values, got \[1\]\.$"),
        (5, r"a\.yaml: cluster: expected keys and values, got 5\.$"),
    ],
)
def test_wrong_section_is_refused_in_a_sentence(section: Any, message: str) -> None:
    with pytest.raises(ArchiveError, match=message):
        deployment_options("a", {"cluster": section})


@pytest.mark.parametrize("key", ["batchSize", "maxBatchDelay", "responseTimeout", "minWorkers"])
def test_wrong_key_is_refused_in_a_sentence(key: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"{key}: many")
    with pytest.raises(
        ArchiveError, match=rf"^a\.yaml: {key}: expected a number .*, got 'many'\.$"
    ):
        config_of("--configs", str(tmp_path))
    (tmp_path / "a.yaml").write_text("[1]")
    with pytest.raises(ArchiveError, match=r"^a\.yaml: expected keys and values\.$"):
        config_of("--configs", str(tmp_path))


def test_gateway_has_the_time_to_end_that_its_settings_say() -> None:
    deployment = build_gateway({"shutdown_timeout_s": 77.0})._bound_deployment
    assert deployment._deployment_config.graceful_shutdown_timeout_s == 77


def test_unknown_model_is_refused() -> None:
    with pytest.raises(ArchiveError, match="got nobody"):
        config_of("nobody")


def test_manual_shows_the_configuration_and_every_key() -> None:
    (shown,) = blocks("docs/cluster.md", "console")
    command, _, expected = shown.removeprefix("$ ").partition("\n")
    arguments = shlex.split(command.replace(".venv/bin/python", sys.executable))
    printed = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    assert prints(expected, printed.stdout), printed.stdout
    told = " ".join(rows("docs/cluster.md"))
    for key in fields(ClusterKeys):
        assert f"`{key.name}`" in told, key.name


def test_archives_of_a_store_are_served_from_where_nodes_have_them(tmp_path: Path) -> None:
    (application, _) = config_of("--model-store", f"{tmp_path}/", "wav2vec2")["applications"]
    assert application["args"]["archive"] == f"{tmp_path}/wav2vec2.mar"


def test_kinds_of_models_in_the_gateways_settings_are_names(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text("models: {mine: text_generation}\n")
    config = config_of("--gateway-config", str(tmp_path / "gateway.yaml"))
    written = yaml.safe_load(yaml.safe_dump(config))
    assert written["applications"][-1]["args"]["models"] == {"mine": "text_generation"}


def test_certificate_of_the_gateways_settings_is_that_of_rays_proxy(tmp_path: Path) -> None:
    settings = {"certificate_file": "/tls/certificate.pem", "private_key_file": "/tls/key.pem"}
    (tmp_path / "gateway.yaml").write_text(yaml.safe_dump({**settings, "max_sessions": 7}))
    config = config_of("--gateway-config", str(tmp_path / "gateway.yaml"))
    options = ServeDeploySchema.model_validate(config).http_options
    assert options.ssl_certfile == settings["certificate_file"]
    assert options.ssl_keyfile == settings["private_key_file"]
    arguments = config["applications"][-1]["args"]
    assert arguments["max_sessions"] == 7
    assert not set(settings) & set(arguments)
    assert "ssl_certfile" not in config_of()["http_options"]
