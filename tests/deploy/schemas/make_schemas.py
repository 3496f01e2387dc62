"""Write kubernetes.json and kserve.json, the schemas of what deploy/kubernetes/ has.

They come out of two wheels of PyPI, unpacked: `python make_schemas.py KUBERNETES_VALIDATE KSERVE`.
README.md beside this file says which.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
KUBERNETES = "v1.34.0"
KINDS = {
    "io.k8s.api.apps.v1.Deployment",
    "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
    "io.k8s.api.core.v1.ConfigMap",
    "io.k8s.api.core.v1.PersistentVolumeClaim",
    "io.k8s.api.core.v1.Secret",
    "io.k8s.api.core.v1.Service",
    "io.k8s.api.networking.v1.NetworkPolicy",
    "io.k8s.api.policy.v1.PodDisruptionBudget",
}
# Written by the API server, not by people.
LEFT_OUT = {"status", "managedFields"}
SCALARS = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
# What KServe's package calls otherwise.
OTHER_NAMES = {
    "K8sIoApiAppsV1DeploymentStrategy": "io.k8s.api.apps.v1.DeploymentStrategy",
    "K8sIoApiAutoscalingV2HorizontalPodAutoscalerBehavior": (
        "io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerBehavior"
    ),
    "ResourceQuantity": QUANTITY,
    "V1beta1MetricQuantity": QUANTITY,
}
ATTRIBUTE = re.compile(r"^        '(\w+)': '(.+?)',?$", re.MULTILINE)
REQUIRED = re.compile(r"Invalid value for `(\w+)`, must not be `None`")


def main(kubernetes_validate: Path, kserve: Path) -> None:
    """Write both files."""
    folder = kubernetes_validate / "kubernetes_validate" / "kubernetes-json-schema"
    whole = json.loads((folder / f"{KUBERNETES}-local-strict" / "_definitions.json").read_text())
    definitions = whole["$defs"]
    models = KServeModels(kserve / "kserve" / "models", definitions)
    models.read("V1beta1InferenceService")
    write("kserve", dict(sorted(models.read_so_far.items())))
    write("kubernetes", pick(definitions, KINDS | models.used))


def write(name: str, definitions: dict[str, Any]) -> None:
    """Write definitions as a schema, small but with a line for each of them."""
    lines = [f"{json.dumps(key)}:{json.dumps(value)}" for key, value in definitions.items()]
    (HERE / f"{name}.json").write_text('{"$defs":{\n' + ",\n".join(lines) + "\n}}\n")


def pick(definitions: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """Return the definitions of these names, and those that they refer to, without descriptions."""
    picked: dict[str, Any] = {}
    waiting = sorted(names)
    while waiting:
        name = waiting.pop()
        if name not in picked:
            picked[name] = strip(definitions[name])
            waiting += references(picked[name])
    return dict(sorted(picked.items()))


def strip(node: Any) -> Any:
    """Return a part of a schema without what is for people, and without what only servers write."""
    if isinstance(node, list):
        return [strip(each) for each in node]
    if not isinstance(node, dict):
        return node
    kept = {key: strip(value) for key, value in node.items() if not is_for_people(key, value)}
    if isinstance(properties := kept.get("properties"), dict):
        kept["properties"] = {key: properties[key] for key in properties.keys() - LEFT_OUT}
        kept["properties"] = dict(sorted(kept["properties"].items()))
    if isinstance(reference := kept.get("$ref"), str):
        kept["$ref"] = f"#/$defs/{reference.rpartition('/')[2]}"
    return kept


def is_for_people(key: str, value: Any) -> bool:
    """Tell whether a key of a schema describes; a property may have the same name."""
    return (isinstance(value, str) and key == "description") or key.startswith("x-kubernetes-")


def references(node: Any) -> Iterator[str]:
    """Yield the names of definitions that a part of a schema refers to."""
    if isinstance(node, list):
        for each in node:
            yield from references(each)
    elif isinstance(node, dict):
        if isinstance(reference := node.get("$ref"), str):
            yield reference.rpartition("/")[2]
        for each in node.values():
            yield from references(each)


class KServeModels:
    """The classes that KServe's Python package has, generated from its OpenAPI document.

    What is Kubernetes's own in them refers to kubernetes.json.
    """

    def __init__(self, folder: Path, kubernetes: dict[str, Any]) -> None:
        self._files = {path.stem.replace("_", ""): path for path in sorted(folder.glob("*.py"))}
        self._kubernetes = kubernetes
        self.used: set[str] = set()
        self.read_so_far: dict[str, Any] = {}

    def read(self, name: str) -> None:
        """Read a class, and those that it refers to."""
        if name in self.read_so_far:
            return
        text = self._files[name.lower()].read_text()
        types = dict(ATTRIBUTE.findall(text.partition("openapi_types = {")[2].partition("}")[0]))
        keys = dict(ATTRIBUTE.findall(text.partition("attribute_map = {")[2].partition("}")[0]))
        schema: dict[str, Any] = {"type": "object", "additionalProperties": False}
        self.read_so_far[name] = schema
        kept = [each for each in types if keys[each] not in LEFT_OUT]
        schema["properties"] = {keys[each]: self._schema(types[each]) for each in sorted(kept)}
        if required := [keys[each] for each in REQUIRED.findall(text)]:
            schema["required"] = sorted(required)

    def _schema(self, kind: str) -> dict[str, Any]:
        if kind in SCALARS:
            return {"type": SCALARS[kind]}
        if kind == "object":
            return {}
        if found := re.fullmatch(r"list\[(.+)\]", kind):
            return {"type": "array", "items": self._schema(found[1])}
        if found := re.fullmatch(r"dict\(str, (.+)\)", kind):
            return {"type": "object", "additionalProperties": self._schema(found[1])}
        if name := self._find(kind):
            self.used.add(name)
            return {"$ref": f"kubernetes.json#/$defs/{name}"}
        if kind.lower() not in self._files:
            # Of a newer Kubernetes.
            return {}
        self.read(kind)
        return {"$ref": f"#/$defs/{kind}"}

    def _find(self, kind: str) -> str:
        """Return Kubernetes's own name of a class, empty where it has none."""
        if kind in OTHER_NAMES:
            return OTHER_NAMES[kind]
        for package in ("api.core", "apimachinery.pkg.apis.meta"):
            name = f"io.k8s.{package}.v1.{kind.removeprefix('V1')}"
            if kind.startswith("V1") and name in self._kubernetes:
                return name
        return ""


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
