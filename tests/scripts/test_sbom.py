"""The bill of materials: what is locked, with its licences, and the archives with their digests."""

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

import sbom
from repository import ROOT

Bill = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def bill(tmp_path_factory: pytest.TempPathFactory, model_store: Path) -> Bill:
    """Return the components of a bill by name."""
    output = tmp_path_factory.mktemp("sbom") / "sbom.json"
    assert sbom.main(["--output", str(output), "--model-store", str(model_store)]) == 0
    content = json.loads(output.read_text(encoding="utf-8"))
    assert (content["bomFormat"], content["specVersion"]) == ("CycloneDX", "1.5")
    return {each["name"]: each for each in content["components"]}


def test_every_locked_package_is_there_in_its_version(bill: Bill) -> None:
    locked = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    versions = {each["name"]: each["version"] for each in locked if "registry" in each["source"]}
    assert len(versions) > 200
    found = {name: each.get("version") for name, each in bill.items()}
    assert {name: found.get(name) for name in versions} == versions


@pytest.mark.parametrize(
    ("package", "licence"),
    [("numpy", "BSD-3-Clause"), ("fastapi", "MIT"), ("torchserve", "Apache License Version 2.0")],
)
def test_licences_are_those_that_packages_state(bill: Bill, package: str, licence: str) -> None:
    (found,) = bill[package]["licenses"]
    assert licence in found["license"]["name"]


def test_archives_are_there_by_their_digests(bill: Bill, model_store: Path) -> None:
    archives = {path.stem: path for path in model_store.glob("*.mar")}
    assert len(archives) == 7
    for name, path in archives.items():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert bill[name]["type"] == "machine-learning-model"
        assert bill[name]["hashes"] == [{"alg": "SHA-256", "content": digest}]
