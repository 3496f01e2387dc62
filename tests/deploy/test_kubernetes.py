"""Each manifest fits the published schema of its kind; all of them fit one another and the code."""

import asyncio
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from bulk.command import parse_arguments as parse_bulk_arguments
from cluster.command import make_config, parse_arguments
from cluster.local import LocalEngine
from gateway.app import build_app
from gateway.settings import parse_settings, read_settings
from repository import CONFIG_FOLDER, ROOT
from support.manifests import (
    FOLDER,
    KINDS,
    KUSTOMIZATIONS,
    Manifest,
    manifest,
    manifests,
    misspelt,
    mistakes,
    pod_specs,
    read,
)

NAMES = list(manifests())
KUSTOMIZED = sorted(path.parent for path in FOLDER.rglob("kustomization.yaml"))
BASE, KSERVE = "base/deployment.yaml", "kserve/inference-service.yaml"
SERVICE, JOB = "kuberay/ray-service.yaml", "kuberay/ray-job.yaml"
PATCHES = [
    path.relative_to(FOLDER).as_posix()
    for path in sorted(FOLDER.glob("components/*/*.yaml"))
    if (read(path).get("apiVersion"), read(path).get("kind")) in KINDS
]


def server() -> Manifest:
    """Return the container of the Deployment."""
    container: Manifest = manifest(BASE)["spec"]["template"]["spec"]["containers"][0]
    return container


def containers() -> Iterator[tuple[str, Manifest, Manifest]]:
    """Yield each container of each manifest, with the pod that it is in."""
    for name in NAMES:
        for pod in pod_specs(manifest(name)):
            for container in pod["containers"]:
                yield name, pod, container


@pytest.mark.parametrize("name", NAMES)
def test_manifest_fits_the_schema_of_its_kind(name: str) -> None:
    assert mistakes(manifest(name)) == []


@pytest.mark.parametrize("name", NAMES)
def test_every_misspelt_key_would_be_found(name: str) -> None:
    missed = [
        where
        for where, changed in misspelt(manifest(name))
        # Without these nobody knows the kind.
        if where not in ("apiVersion", "kind") and not mistakes(changed)
    ]
    assert missed == []


def test_values_of_another_type_would_be_found() -> None:
    changed = manifest(BASE)
    changed["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"] = "http"
    (mistake,) = mistakes(changed)
    assert "containers[0].ports[0].containerPort: 'http' is not of type 'integer'" in mistake


@pytest.mark.parametrize("name", PATCHES)
def test_patch_fits_the_schema_of_its_kind(name: str) -> None:
    patch = manifest(name)
    patch.pop("$patch", None)
    assert mistakes(patch, whole=False) == []
    for where, changed in misspelt(patch):
        assert where in ("apiVersion", "kind") or mistakes(changed, whole=False), where
    # What it changes is there.
    there = manifests(FOLDER / "base").values()
    named = [(each["kind"], each["metadata"]["name"]) for each in there]
    assert (patch["kind"], patch["metadata"]["name"]) in named


@pytest.mark.parametrize("folder", KUSTOMIZED, ids=lambda folder: folder.name)
def test_kustomization_lists_each_file_that_lies_there(folder: Path) -> None:
    content = read(folder / "kustomization.yaml")
    assert content["kind"] in KUSTOMIZATIONS
    listed = [
        *content.get("resources", []),
        *(each["path"] for each in content.get("patches", [])),
        *(file for each in content.get("configMapGenerator", []) for file in each["files"]),
    ]
    there = [path.name for path in folder.iterdir() if path.name != "kustomization.yaml"]
    assert sorted(listed) == sorted(there)
    used = {container["image"] for _, _, container in containers()}
    assert {each["name"] for each in content.get("images", [])} <= used == {"speech-text"}


def test_selectors_match_the_labels_of_the_pods() -> None:
    labels = manifest(BASE)["spec"]["template"]["metadata"]["labels"].items()
    assert manifest(BASE)["spec"]["selector"]["matchLabels"].items() <= labels
    assert manifest("base/service.yaml")["spec"]["selector"].items() <= labels
    budget = manifest("base/disruption-budget.yaml")["spec"]["selector"]
    assert budget["matchLabels"].items() <= labels
    policy = manifest("base/network-policy.yaml")["spec"]["podSelector"]
    assert policy["matchLabels"].items() <= labels
    scaled = manifest("base/autoscaler.yaml")["spec"]["scaleTargetRef"]
    deployment = manifest(BASE)
    assert scaled == {
        "apiVersion": deployment["apiVersion"],
        "kind": deployment["kind"],
        "name": deployment["metadata"]["name"],
    }
    # The autoscaler says how many there are.
    assert "replicas" not in deployment["spec"]


def test_policy_of_ray_is_for_every_pod_of_ray() -> None:
    policy = manifest("kuberay/network-policy.yaml")["spec"]
    selected = policy["podSelector"]["matchLabels"]
    (own,) = policy["ingress"][0]["from"]
    assert own["podSelector"]["matchLabels"] == selected
    for cluster in ray_clusters():
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            assert group["template"]["metadata"]["labels"] == selected


def selects(selector: Manifest, labels: Manifest) -> bool:
    """Tell whether a selector of labels is for these, as Kubernetes reads it."""
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    listed = selector.get("matchExpressions", [])
    return wanted and all(
        each["operator"] == "In" and labels.get(each["key"]) in each["values"] for each in listed
    )


def lets_in(policy: Manifest, namespace: str, labels: Manifest, port: int) -> bool:
    """Tell whether a policy in the namespace `speech` lets a pod reach a port."""
    names = {"kubernetes.io/metadata.name": namespace}
    own = {"matchLabels": {"kubernetes.io/metadata.name": "speech"}}
    return any(
        selects(peer.get("namespaceSelector", own), names)
        and selects(peer.get("podSelector", {}), labels)
        for rule in policy["ingress"]
        if {"port": port} in rule.get("ports", [{"port": port}])
        for peer in rule["from"]
    )


def test_policy_of_ray_lets_in_who_has_to_ask() -> None:
    policy = manifest("kuberay/network-policy.yaml")["spec"]
    ray = policy["podSelector"]["matchLabels"]
    submitter = manifest(JOB)["spec"]["submitterPodTemplate"]["metadata"]["labels"]
    operator = {"app.kubernetes.io/component": "kuberay-operator"}
    callers = {
        "ray": ("speech", ray),
        "submitter": ("speech", submitter),
        "operator": ("kuberay-operator", operator),
        "prometheus": ("monitoring", {}),
        "ingress": ("ingress-nginx", {}),
        "neighbour": ("speech", {}),
        "stranger": ("other", submitter),
    }
    allowed = {
        name: [
            port
            for port in (6379, 8000, 8080, 8265, 10001)
            if lets_in(policy, namespace, labels, port)
        ]
        for name, (namespace, labels) in callers.items()
    }
    assert allowed == {
        "ray": [6379, 8000, 8080, 8265, 10001],
        "submitter": [8000, 8265],
        "operator": [8000, 8265],
        "prometheus": [8000, 8080],
        "ingress": [8000],
        "neighbour": [8000],
        "stranger": [],
    }


def ray_clusters() -> list[Manifest]:
    """Return the clusters of the service and of the job."""
    service, job = manifest(SERVICE)["spec"], manifest(JOB)["spec"]
    return [service["rayClusterConfig"], job["rayClusterSpec"]]


def test_probes_and_services_ask_ports_that_containers_have() -> None:
    assert manifest("base/service.yaml")["spec"]["ports"][0]["targetPort"] == "http"
    (rule,) = manifest("base/network-policy.yaml")["spec"]["ingress"]
    assert rule["ports"] == [{"port": "http"}]
    probed = 0
    for name, _, container in containers():
        ports = {key: each["containerPort"] for each in container.get("ports", [])
                 for key in (each["name"], each["containerPort"])}  # fmt: skip
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if probe in container:
                assert container[probe]["httpGet"]["port"] in ports, (name, probe)
                probed += 1
    assert probed == 9


def test_probed_addresses_are_open_ones_of_the_gateway() -> None:
    """Probes have no token."""
    app = build_app(parse_settings({}), LocalEngine({}))
    open_paths = {"/livez", "/readyz", "/v2/health/live", "/v2/health/ready"}
    asked = {
        container[probe]["httpGet"]["path"]
        for _, _, container in containers()
        for probe in ("startupProbe", "readinessProbe", "livenessProbe")
        if probe in container
    }
    assert asked == open_paths <= app.openapi()["paths"].keys()


def test_command_of_the_deployment_serves_what_is_mounted() -> None:
    options = parse_arguments(server()["args"])
    assert (options.command, options.engine, options.models) == ("up", "process", [])
    mounted = {each["mountPath"]: each["name"] for each in server()["volumeMounts"]}
    assert mounted[options.model_store] == "models"
    assert mounted[str(options.gateway_config.parent)] == "gateway"
    (generated,) = read(FOLDER / "base" / "kustomization.yaml")["configMapGenerator"]
    volumes = {each["name"]: each for each in manifest(BASE)["spec"]["template"]["spec"]["volumes"]}
    assert volumes["gateway"]["configMap"]["name"] == generated["name"]
    assert generated["files"] == [options.gateway_config.name]
    claim = manifest("base/model-store.yaml")["metadata"]["name"]
    assert volumes["models"]["persistentVolumeClaim"]["claimName"] == claim


def test_settings_of_the_deployment_are_the_gateways() -> None:
    settings = read_settings(FOLDER / "base" / "gateway.yaml")
    assert (settings.host, settings.open_metrics) == ("0.0.0.0", True)  # noqa: S104
    (port,) = server()["ports"]
    assert settings.port == port["containerPort"]
    template = manifest(BASE)["spec"]["template"]["metadata"]
    assert template["annotations"]["prometheus.io/port"] == str(settings.port)
    assert template["annotations"]["prometheus.io/path"] == "/metrics"


def test_tokens_come_out_of_what_is_mounted() -> None:
    folder = FOLDER / "components" / "tokens"
    base, tokens = read(FOLDER / "base" / "gateway.yaml"), read(folder / "gateway.yaml")
    file = Path(tokens.pop("tokens_file"))
    assert tokens == base
    pod = read(folder / "tokens.yaml")["spec"]["template"]["spec"]
    (mount,), (volume,) = pod["containers"][0]["volumeMounts"], pod["volumes"]
    assert (mount["mountPath"], mount["name"]) == (str(file.parent), volume["name"])
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    assert f"secret generic {volume['secret']['secretName']} --from-file={file.name}" in page


def test_pods_have_the_time_that_running_requests_get() -> None:
    settings = read_settings(FOLDER / "base" / "gateway.yaml")
    default = parse_settings({})
    timeouts = [
        yaml.safe_load(path.read_text()).get("responseTimeout", 0)
        for path in CONFIG_FOLDER.glob("*.yaml")
    ]
    assert settings.shutdown_timeout_s == default.shutdown_timeout_s >= max(timeouts)
    slept = 0
    for name, pod, container in containers():
        if name in (BASE, KSERVE):
            slept = container["lifecycle"]["preStop"]["sleep"]["seconds"]
            grace_s = pod["terminationGracePeriodSeconds"]
            assert grace_s > slept + settings.shutdown_timeout_s + 10
            # A batch that hangs is not waited for.
            assert container["livenessProbe"]["terminationGracePeriodSeconds"] < grace_s
    spec = manifest(SERVICE)["spec"]
    served = yaml.safe_load((FOLDER / "kuberay" / "serve.yaml").read_text())["applications"]
    longest_s = max(each["args"].get("graceful_shutdown_timeout_s", 0) for each in served)
    for pod in pod_specs(spec):
        assert pod["terminationGracePeriodSeconds"] > longest_s
    assert spec["rayClusterDeletionDelaySeconds"] > longest_s


def test_autoscaler_goes_by_metrics_that_the_gateway_has() -> None:
    app = build_app(parse_settings({"open_metrics": True}), LocalEngine({}))

    async def read_metrics() -> str:
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client:
            return (await client.get("/metrics")).text

    metrics = asyncio.run(read_metrics())
    assert scaled_by() == ["http_requests_in_progress", "live_sessions"]
    for name in scaled_by():
        assert f"# TYPE {name} gauge" in metrics
    # The request for the metrics is one, which the adapter's rule takes off.
    assert "\nhttp_requests_in_progress 1.0\n" in metrics


def scaled_by() -> list[str]:
    """Return the metrics that the autoscaler goes by."""
    metrics = manifest("base/autoscaler.yaml")["spec"]["metrics"]
    return [each["pods"]["metric"]["name"] for each in metrics]


@pytest.mark.parametrize("part", ["predictor", "explainer"])
def test_kserves_containers_serve_what_it_puts_there(part: str) -> None:
    spec = manifest(KSERVE)["spec"][part]
    (container,) = spec["containers"]
    assert container["name"] == "kserve-container"
    assert [each["name"] for each in container["env"]] == ["STORAGE_URI"]
    options = parse_arguments(arguments_of(container))
    assert (options.engine, options.model_store) == ("process", "/mnt/models")
    assert options.host == "0.0.0.0"  # noqa: S104 - a pod is asked at its own address
    (port,) = container["ports"]
    assert options.port == port["containerPort"]
    assert container["readinessProbe"]["httpGet"]["port"] == port["containerPort"]


def arguments_of(container: Manifest) -> list[str]:
    """Return what `python -m cluster` gets where KServe appends arguments of its own."""
    if "command" not in container:
        return list(container["args"])
    script, *rest = container["args"]
    assert script.startswith("exec python -m cluster ")
    script = script.replace("python -m cluster", "printf '%s\\n'")
    appended = ["--model_name", "speech-text", "--predictor_host", "there", "--http_port", "8080"]
    command = [*container["command"], script, *rest, *appended]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return said.split()


def test_ray_gets_what_the_command_prints() -> None:
    config = make_config(parse_arguments(["config", "--model-store", "/models"]))
    assert yaml.safe_load((FOLDER / "kuberay" / "serve.yaml").read_text()) == config
    kustomization = read(FOLDER / "kuberay" / "kustomization.yaml")
    (replaced,) = kustomization["replacements"]
    (generated,) = kustomization["configMapGenerator"]
    assert replaced["source"]["name"] == generated["name"]
    assert replaced["source"]["fieldPath"] == f"data.[{generated['files'][0]}]"
    (target,) = replaced["targets"]
    service = manifest(SERVICE)
    assert target["select"] == {"kind": service["kind"], "name": service["metadata"]["name"]}
    assert target["fieldPaths"] == ["spec.serveConfigV2"]
    assert "serveConfigV2" in service["spec"]


def test_ray_serves_where_its_service_asks_and_finds_the_archives() -> None:
    served = yaml.safe_load((FOLDER / "kuberay" / "serve.yaml").read_text())
    cluster = manifest(SERVICE)["spec"]["rayClusterConfig"]
    port = served["http_options"]["port"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        assert port in [each["containerPort"] for each in container["ports"]]
        assert "/models" in [each["mountPath"] for each in container["volumeMounts"]]
    claims = {
        volume["persistentVolumeClaim"]["claimName"]
        for pod in (*pod_specs(manifest(SERVICE)), *pod_specs(manifest(JOB)))
        for volume in pod["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert claims == {manifest("kuberay/model-store.yaml")["metadata"]["name"]}


def test_ray_has_the_version_of_the_image_and_asks_for_tokens() -> None:
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    (version,) = [each["version"] for each in lock["package"] if each["name"] == "ray"]
    for cluster in ray_clusters():
        assert cluster["rayVersion"] == version
        assert cluster["authOptions"] == {"mode": "token"}


def test_workers_have_the_cores_that_the_largest_replica_takes() -> None:
    served = yaml.safe_load((FOLDER / "kuberay" / "serve.yaml").read_text())["applications"]
    needed = [each["args"].get("ray_actor_options", {}).get("num_cpus", 0) for each in served]
    for cluster in ray_clusters():
        for group in cluster["workerGroupSpecs"]:
            (container,) = group["template"]["spec"]["containers"]
            assert int(container["resources"]["limits"]["cpu"]) >= max(needed)


def test_bulk_job_is_a_command_line_of_bulk() -> None:
    words = shlex.split(manifest(JOB)["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "bulk"]
    options = parse_bulk_arguments(words[3:])
    # Buckets, which are not opened here.
    assert all(place.startswith("s3://") for place in (options.source, options.output))
    assert options.archive == str(ROOT / "model_store" / "wav2vec2.mar")
    # Nodes come when workers wait for them: as many as all of them have room for.
    (group,) = manifest(JOB)["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    cores = int(container["resources"]["limits"]["cpu"])
    assert options.workers == (1, group["maxReplicas"] * cores)


@pytest.mark.parametrize("name", [name for name in NAMES if list(pod_specs(manifest(name)))])
def test_pods_may_do_nothing_that_they_need_not(name: str) -> None:
    (user,) = re.findall(r"^USER (\d+):\d+$", (ROOT / "deploy" / "Containerfile").read_text(), re.M)
    for pod in pod_specs(manifest(name)):
        security = pod["securityContext"]
        assert (security["runAsNonRoot"], security["runAsUser"]) == (True, int(user))
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["enableServiceLinks"] is False
        volumes = {each["name"]: each for each in pod["volumes"]}
        assert "emptyDir" in volumes["tmp"]
        for container in pod["containers"]:
            check_container(container)


def check_container(container: Manifest) -> None:
    """Check what a container may do, and what it is promised."""
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    resources = container["resources"]
    assert {"cpu", "memory"} <= resources["requests"].keys()
    assert resources["limits"]["memory"] == resources["requests"]["memory"]
    for mount in container["volumeMounts"]:
        assert mount.get("readOnly") is True or mount["mountPath"] == "/tmp"  # noqa: S108


def test_manifests_keep_no_secret() -> None:
    for path in FOLDER.rglob("*.yaml"):
        assert read(path).get("kind") != "Secret"
        assert not re.search(r"(password|access_key|token): *\S{12,}", path.read_text())


def test_page_names_every_folder_and_its_rule_is_promql() -> None:
    promql: Any = pytest.importorskip("promql_parser")
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    for folder in KUSTOMIZED:
        assert folder.relative_to(ROOT).as_posix() in page, folder
    rules = next(
        yaml.safe_load(block)["rules"]
        for block in re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S)
        if "seriesQuery" in block
    )
    assert {re.split(r"\W", rule["seriesQuery"])[0] for rule in rules} == set(scaled_by())
    for rule in rules:
        query = rule["metricsQuery"].replace("<<.Series>>", "name")
        query = query.replace("<<.LabelMatchers>>", 'pod="a"').replace("<<.GroupBy>>", "pod")
        promql.parse(query)
