"""What `make doctor` finds."""

import dataclasses
import importlib.metadata
import socket
from functools import partial
from pathlib import Path

import pytest

import doctor
from archives.configs import read_configs
from archives.own_configs import demo_configs
from serving.configuration import free_properties, read_properties
from serving.diagnosis import (
    PACKAGES,
    examine_addresses,
    examine_models,
    examine_openvino,
    examine_packages,
    examine_ports,
    examine_server,
)
from trials.servers import TrialServer


def test_doctor_prints_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    status = doctor.main([])
    printed = capsys.readouterr().out
    assert f"torch {' ' * 23}{importlib.metadata.version('torch')}" in printed
    assert "oneDNN, packed weights; " in printed
    for subject in (
        "device",
        "dtype: auto",
        "products",
        "openvino",
        "threads",
        "java",
        "disk of",
        "port 8080",
        "wav2vec2",
    ):
        assert f" {subject}" in printed
    assert (status == 0) == ("Nothing looks wrong." in printed)


def test_port_of_another_program_looks_wrong() -> None:
    properties = free_properties()
    assert not any(each.problem for each in examine_ports(properties, running=False))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(properties["grpc_inference_port"])))
        taken.listen()
        found = list(examine_ports(properties, running=False))
        assert [each.state for each in found if each.problem] == ["grpc_inference_port: in use"]
        ours = examine_ports(properties, running=True)
        assert not any(each.problem for each in ours)


def test_port_that_is_none_is_told_and_the_rest_is_examined(tmp_path: Path) -> None:
    properties = {**free_properties(), "inference_address": "http://127.0.0.1:http"}
    first, *others = examine_server(tmp_path, properties)
    assert (first.subject, first.state) == ("ports", "unknown")
    assert "inference_address: expected a port" in first.problem
    assert {"gateway", *demo_configs()} <= {each.subject for each in others}


def test_address_that_is_none_is_open_to_others() -> None:
    (found,) = examine_addresses({"management_address": "http://[::1"})
    assert "management_address: expected the host 127.0.0.1" in found.problem


def test_doctor_tells_what_it_could_not_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = partial(read_properties, tmp_path / "missing.properties")
    monkeypatch.setattr("serving.diagnosis.read_properties", elsewhere)
    assert doctor.main([]) == 1
    assert capsys.readouterr().out.endswith("missing.properties'\n")


def test_models_are_as_their_workers_are(server: TrialServer) -> None:
    # Models of one's own may be beside those that are served here.
    examined = examine_models(server.folder, server.record)
    found = [each for each in examined if each.subject in demo_configs()]
    assert len(found) == 7
    assert all("1 of 1 workers ready" in each.state and not each.problem for each in found)
    unreachable = dataclasses.replace(server.record, management_url="http://127.0.0.1:9")
    (first, *_) = examine_models(server.folder, unreachable)
    assert "does not say" in first.problem


def test_packages_of_another_version_look_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(each.problem for each in examine_packages())
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1")
    problems = [each.problem for each in examine_packages() if each.problem]
    assert len(problems) == len(PACKAGES)


def test_model_without_its_engine_looks_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    version, configs = importlib.metadata.version("openvino"), read_configs()
    assert examine_openvino(configs) == ("openvino", f"{version}, no model", "")
    config = configs["bert_seq_classification"]
    mine = {"mine": dataclasses.replace(config, handler_settings={"save_mode": "openvino"})}
    assert examine_openvino(mine) == ("openvino", f"{version}, mine", "")
    monkeypatch.setattr(importlib.metadata, "version", missing)
    missed = ("openvino", "not installed, mine", "make openvino installs it")
    assert examine_openvino(mine) == missed
