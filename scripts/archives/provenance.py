"""What an archive was made of and from, as a file in it: where its model came from, and each file.

The handlers compare the files with it when they load the archive, so that a file that was damaged,
or exchanged, on its way is noticed. Nobody signed it: it proves nothing against who can write all.
"""

import hashlib
import json
from pathlib import Path

from archives.fingerprint import OPENVINO_WRITERS, WRITERS, find_versions

PROVENANCE_FILE = "provenance.json"


def write_provenance(source: str, model: Path, handlers: Path) -> None:
    """Write the file into the folder of a model, beside which the handlers travel.

    `source` is where the model came from. The settings are no part of it, as operators change them.
    """
    files = {
        path.relative_to(folder).as_posix(): digest_file(path)
        for folder in (model, handlers)
        for path in sorted(filter(Path.is_file, folder.rglob("*")))
    }
    content = {
        "source": source,
        "built_with": find_versions((*WRITERS, *OPENVINO_WRITERS)),
        "sha256": files,
    }
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    (model / PROVENANCE_FILE).write_text(text, encoding="utf-8")


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
