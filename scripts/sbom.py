"""Write a bill of materials: each locked dependency with its licence, and the built archives.

CycloneDX 1.5, https://cyclonedx.org/docs/1.5/json/. uv writes what is locked; licences are those
that installed packages state.
"""

import argparse
import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from archives.provenance import digest_file
from repository import MODEL_STORE, ROOT
from tables import print_table

OUTPUT = ROOT / ".build" / "sbom.cdx.json"
# As make setup installs it.
UV = ROOT / ".build" / "uv" / "bin" / "uv"
UNKNOWN = "not stated"
# Longer ones are the licence's text, not its name.
MOST_CHARACTERS = 60
# One that names a licence: OSI Approved alone is none.
LICENCE = re.compile("License :: (?!OSI Approved$)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the bill and print the licences; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"default {OUTPUT}")
    parser.add_argument("--model-store", type=Path, default=MODEL_STORE, help="of the archives")
    options = parser.parse_args(arguments)
    bill = read_locked()
    for component in bill["components"]:
        component["licenses"] = [{"license": {"name": find_licence(component["name"])}}]
    bill["components"] += archives_of(options.model_store)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(bill, indent=2) + "\n", encoding="utf-8")
    print_table(("package", "version", "licence"), list_licences(bill))
    print(f"\n{len(bill['components'])} components are in {options.output}.")
    return 0


def read_locked() -> dict[str, Any]:
    """Return what uv.lock has, all extras and groups, as uv writes it in CycloneDX."""
    options = ("--frozen", "--all-extras", "--all-groups", "--preview-features", "sbom-export")
    command = [str(UV), "export", "--quiet", "--format", "cyclonedx1.5", *options]
    written = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)  # noqa: S603
    bill: dict[str, Any] = json.loads(written.stdout)
    return bill


def find_licence(package: str) -> str:
    """Return the licence that an installed package states, by PEP 639 or as was done before it."""
    try:
        metadata = importlib.metadata.metadata(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
    expressions, classifiers, names = (
        metadata.get_all(field) or [] for field in ("License-Expression", "Classifier", "License")
    )
    classified = [each.rpartition(" :: ")[2] for each in classifiers if LICENCE.match(each)]
    named = (*expressions, *classified, *names)
    return next((each for each in named if 0 < len(each) <= MOST_CHARACTERS), UNKNOWN)


def archives_of(store: Path) -> list[dict[str, Any]]:
    """Return the packed archives of a model store as components, by their digests."""
    return [
        {
            "type": "machine-learning-model",
            "bom-ref": f"archive-{path.stem}",
            "name": path.stem,
            "hashes": [{"alg": "SHA-256", "content": digest_file(path)}],
        }
        for path in sorted(store.glob("*.mar"))
    ]


def list_licences(bill: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield the name, version and licence of each package."""
    for component in bill["components"]:
        for each in component.get("licenses", []):
            yield component["name"], component["version"], each["license"]["name"]


if __name__ == "__main__":
    sys.exit(main())
