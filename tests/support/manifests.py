"""The manifests of deploy/kubernetes/, and the published schemas of their kinds."""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from repository import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
SCHEMAS = ROOT / "tests" / "deploy" / "schemas"
KUBERNETES = "kubernetes.json#/$defs/io.k8s.api"
# By apiVersion and kind.
KINDS = {
    ("apps/v1", "Deployment"): f"{KUBERNETES}.apps.v1.Deployment",
    ("autoscaling/v2", "HorizontalPodAutoscaler"): (
        f"{KUBERNETES}.autoscaling.v2.HorizontalPodAutoscaler"
    ),
    ("networking.k8s.io/v1", "NetworkPolicy"): f"{KUBERNETES}.networking.v1.NetworkPolicy",
    ("policy/v1", "PodDisruptionBudget"): f"{KUBERNETES}.policy.v1.PodDisruptionBudget",
    ("v1", "PersistentVolumeClaim"): f"{KUBERNETES}.core.v1.PersistentVolumeClaim",
    ("v1", "Service"): f"{KUBERNETES}.core.v1.Service",
    ("serving.kserve.io/v1beta1", "InferenceService"): "kserve.json#/$defs/V1beta1InferenceService",
    ("ray.io/v1", "RayJob"): "kuberay.yaml#/$defs/RayJob",
    ("ray.io/v1", "RayService"): "kuberay.yaml#/$defs/RayService",
}
KUSTOMIZATIONS = ("Kustomization", "Component")
Manifest = dict[str, Any]
# The keys that lead to a part of a manifest.
Steps = tuple[str | int, ...]


def read(path: Path) -> Manifest:
    """Return the content of a YAML file that has one document."""
    content: Manifest = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def manifests(folder: Path = FOLDER) -> dict[str, Manifest]:
    """Return what kubectl would be given, by its path; patches of components are not whole."""
    found = {path.relative_to(FOLDER).as_posix(): read(path) for path in folder.rglob("*.yaml")}
    return {
        name: found[name]
        for name in sorted(found)
        if (found[name].get("apiVersion"), found[name].get("kind")) in KINDS
        and not name.startswith("components/")
    }


def manifest(name: str) -> Manifest:
    """Return a manifest by its path."""
    return read(FOLDER / name)


def mistakes(content: Manifest, whole: bool = True) -> list[str]:
    """Return what does not fit the schema of a manifest's kind, or of a patch that is not whole."""
    reference = KINDS[content["apiVersion"], content["kind"]]
    validator = Draft202012Validator({"$ref": reference}, registry=_registry(whole))
    return [f"{each.json_path}: {each.message}" for each in validator.iter_errors(content)]


@cache
def _registry(whole: bool) -> "Registry[Any]":
    registry: Registry[Any] = Registry()
    for name in ("kubernetes.json", "kserve.json", "kuberay.yaml"):
        text = (SCHEMAS / name).read_text(encoding="utf-8")
        schema = json.loads(text) if name.endswith(".json") else yaml.safe_load(text)
        resource = DRAFT202012.create_resource(schema if whole else _partial(schema))
        registry = registry.with_resource(name, resource)
    return registry


def _partial(schema: Any) -> Any:
    """Return a schema whose objects may lack what they need, or have nulls, as in patches."""
    if isinstance(schema, list):
        return [_partial(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _partial(value) for key, value in schema.items() if key != "required"}


def misspelt(content: Manifest) -> Iterator[tuple[str, Manifest]]:
    """Yield a manifest with each of its keys misspelt, one at a time, and where that is."""
    for path in _keys(content, ()):
        changed = copy.deepcopy(content)
        parent: Any = changed
        for step in path[:-1]:
            parent = parent[step]
        parent[f"{path[-1]}x"] = parent.pop(path[-1])
        yield ".".join(map(str, path)), changed


# Below these, keys are the user's own.
FREE = {"annotations", "labels", "matchLabels", "limits", "requests", "rayStartParams", "selector"}


def _keys(node: Any, path: Steps) -> Iterator[Steps]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield (*path, key)
            if key not in FREE or (isinstance(value, Mapping) and "matchLabels" in value):
                yield from _keys(value, (*path, key))
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for index, value in enumerate(node):
            yield from _keys(value, (*path, index))


def pod_specs(content: Any) -> Iterator[Manifest]:
    """Yield every part of a manifest that says what a pod has in it."""
    if isinstance(content, dict):
        if isinstance(content.get("containers"), list):
            yield content
        for value in content.values():
            yield from pod_specs(value)
    elif isinstance(content, list):
        for value in content:
            yield from pod_specs(value)
