"""What this machine and its server are like, and what looks wrong."""

import platform
import shutil
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from archives.building import find_archive
from archives.configs import ArchiveConfig, read_configs
from archives.fingerprint import find_versions
from gateway.settings import CONFIG_FILE as GATEWAY_CONFIG
from repository import MODEL_STORE, ROOT, SERVER_FOLDER
from serving.configuration import check_management, check_port, read_ports, read_properties
from serving.errors import ServerError
from serving.gateway import check_gateway, find_gateway
from serving.java import FIRST_JAVA, find_java_home, java_release
from serving.status import read_workers
from serving.torchserve import ServerRecord, find_server
from speechtext.cpu.packed import can_pack
from speechtext.devices import choose_device, choose_dtype, count_cores

PACKAGES = (
    "torch",
    "torchaudio",
    "transformers",
    "captum",
    "torchserve",
    "torch-model-archiver",
    "fastapi",
    "uvicorn",
)
TOOLS = ("curl",)
# The capabilities of a CPU that matter for products, as PyTorch names them.
INSTRUCTIONS = ("amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni", "avx512_f", "avx2")
LEAST_FREE_BYTES = 2 * 2**30
GIGABYTE = 2**30
WORKER_DOWN = "a worker is down: the log says why; restart the server if it stays so"


class Finding(NamedTuple):
    """What is so, and what looks wrong about it."""

    subject: str
    state: str
    problem: str = ""


def examine() -> Iterator[Finding]:
    """Yield what there is to say."""
    yield from examine_packages()
    yield from examine_hardware()
    yield from examine_java()
    yield from examine_disk()
    properties = read_properties()
    yield from examine_addresses(properties)
    yield from examine_server(SERVER_FOLDER, properties)


def examine_addresses(properties: Mapping[str, str]) -> Iterator[Finding]:
    """Tell whether others than this machine reach the management API."""
    try:
        check_management(properties)
        yield Finding("management", "for this machine only")
    except ServerError as error:
        yield Finding("management", "open to others", str(error))


def examine_server(folder: Path, properties: Mapping[str, str]) -> Iterator[Finding]:
    """Tell about the ports and models of the server of `folder`, if there is one."""
    try:
        server = find_server(folder)
    except ServerError as error:
        yield Finding("server", "unknown", str(error))
        return
    yield from examine_ports(properties, running=server is not None)
    yield examine_gateway(folder)
    yield from examine_models(folder, server)


def examine_packages() -> Iterator[Finding]:
    """Compare the packages that are installed with the locked ones."""
    yield Finding("python", platform.python_version())
    lock = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
    locked = {package["name"]: package["version"] for package in lock["package"]}
    versions = find_versions(PACKAGES)
    for name in PACKAGES:
        found = versions.get(name)
        if found is None:
            yield Finding(name, "not installed", "make setup installs it")
            continue
        # Builds of PyTorch for one kind of hardware say so behind a plus.
        same = found.partition("+")[0] == locked[name]
        yield Finding(name, found, "" if same else f"uv.lock has {locked[name]}")
    for name in TOOLS:
        yield Finding(name, shutil.which(name) or "not found", "")


def examine_hardware() -> Iterator[Finding]:
    """Tell on what, how exactly and with how many threads workers compute."""
    device, configs = choose_device(0), read_configs()
    cores = count_cores()
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{cores} cores"
    yield Finding("device", f"{device.type}, {named}")
    yield Finding("dtype: auto", str(choose_dtype("auto", device)).removeprefix("torch."))
    if device.type == "cpu":
        yield Finding("products", describe_products())
        yield examine_openvino(configs)
    asked = [config.handler_settings.get("threads") for config in configs.values()]
    # What is no number, the build refuses.
    threads = sum(each if isinstance(each, int) else cores for each in asked)
    yield Finding("threads", f"{threads} of all workers, on {cores} cores")
    memory = psutil.virtual_memory()
    free = f"{memory.available / GIGABYTE:.1f} of {memory.total / GIGABYTE:.1f} GB free"
    scarce = memory.available < LEAST_FREE_BYTES
    yield Finding("memory", free, "seven workers need 5 GB" if scarce else "")


def describe_products() -> str:
    """Return what multiplies matrices on this CPU, and with which of the instructions it has."""
    engine = "oneDNN, packed weights" if can_pack(torch.float32) else "PyTorch's own choice"
    capabilities = torch.cpu.get_capabilities()
    found = [name for name in INSTRUCTIONS if capabilities.get(name)]
    return f"{engine}; {', '.join(found) or 'no vector instructions that are known'}"


def examine_openvino(configs: Mapping[str, ArchiveConfig]) -> Finding:
    """Look for OpenVINO, and for the models that need it."""
    found = find_versions(["openvino"]).get("openvino")
    users = [name for name, config in configs.items() if config.needs_openvino]
    state = f"{found or 'not installed'}, {', '.join(users) or 'no model'}"
    return Finding("openvino", state, "make openvino installs it" if users and not found else "")


def examine_java() -> Iterator[Finding]:
    """Find the Java that TorchServe would run on."""
    home = find_java_home()
    release = java_release(str(Path(home, "bin", "java")))
    old = release < FIRST_JAVA
    yield Finding("java", f"{release}, {home}", f"expected {FIRST_JAVA} or later" if old else "")


def examine_disk() -> Iterator[Finding]:
    """Look for room where archives are built and unpacked."""
    for folder in (MODEL_STORE, Path(tempfile.gettempdir())):
        free = shutil.disk_usage(folder).free
        scarce = free < LEAST_FREE_BYTES
        problem = "TorchServe unpacks archives there, and logs fill it" if scarce else ""
        yield Finding(f"disk of {folder}", f"{free / GIGABYTE:.1f} GB free", problem)


def examine_ports(properties: Mapping[str, str], running: bool) -> Iterator[Finding]:
    """Tell which ports of config.properties are free."""
    try:
        ports = read_ports(properties)
    except ServerError as error:
        yield Finding("ports", "unknown", str(error))
        return
    for key, port in ports.items():
        try:
            check_port(key, port)
            yield Finding(f"port {port}", f"{key}: free")
        except ServerError as error:
            state = "in use by make serve" if running else "in use"
            yield Finding(f"port {port}", f"{key}: {state}", "" if running else str(error))


def examine_gateway(folder: Path, config_file: Path = GATEWAY_CONFIG) -> Finding:
    """Tell whether the gateway of `folder` is up, or could be started."""
    try:
        if running := find_gateway(folder):
            return Finding("gateway", f"up at {running.url}")
        settings = check_gateway(folder, read_properties(), config_file)
    except ServerError as error:
        return Finding("gateway", "down", str(error))
    return Finding("gateway", f"down, port {settings.port} is free")


def examine_models(folder: Path, server: ServerRecord | None) -> Iterator[Finding]:
    """Tell which archives are built, and how the workers of the server of `folder` are."""
    for name in read_configs():
        state = "built" if find_archive(name) else "not built"
        if server is None:
            yield Finding(name, f"{state}, not served")
        else:
            yield _examine_model(folder, server, name, state)


def _examine_model(folder: Path, server: ServerRecord, name: str, state: str) -> Finding:
    try:
        workers = read_workers(folder, server, name)
    except ServerError as error:
        return Finding(name, state, str(error))
    if workers is None:
        return Finding(name, f"{state}, not served")
    ready = sum(worker.is_ready for worker in workers)
    problem = "" if workers and ready == len(workers) else WORKER_DOWN
    return Finding(name, f"{state}, {ready} of {len(workers)} workers ready", problem)
