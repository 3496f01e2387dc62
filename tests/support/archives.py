"""Small archives, unpacked, whose handlers are a few lines."""

import json
from pathlib import Path
from typing import Any

import yaml

from cluster.archives import Archive, open_archive
from cluster.local import load_worker
from cluster.worker import ArchiveWorker

# Answers with the size of its batch; other requests ask it to fail, to wait or to stream.
HANDLER = """
import time
from ts.handler_utils.utils import send_intermediate_predict_response


class Handler:
    def initialize(self, context):
        self.initialized = True

    def handle(self, data, context):
        said = [bytes(row.get("body", b"")).decode() for row in data]
        if "fail" in said:
            raise RuntimeError("a mistake")
        if "short" in said:
            return []
        if "none" in said:
            return None
        for index, text in enumerate(said):
            if text == "headers":
                names = ("explain", "url_path", "x-request-id")
                found = {name: context.get_request_header(index, name) for name in names}
                return [{**found, "row": sorted(data[index])}]
            if text == "wait":
                time.sleep(0.3)
            if text == "teapot":
                context.set_response_status(418, "I'm a teapot", index)
                context.set_response_header(index, "x-pot", "tea")
                context.set_response_content_type(index, "text/tea")
            if text == "stream":
                ids = {index: context.request_ids[index]}
                for part in ("a", "b"):
                    send_intermediate_predict_response({index: part}, ids, "Part", 200, context)
            if text == "break off":
                ids = {index: context.request_ids[index]}
                send_intermediate_predict_response({index: "a"}, ids, "Part", 200, context)
                raise RuntimeError("a mistake in the middle")
        return [f"{text}:{len(said)}" for text in said]
"""


def write_archive(folder: Path, handler: str = HANDLER, **keys: Any) -> Archive:
    """Return an archive of a handler's source, with keys of TorchServe's in its YAML."""
    (folder / "MAR-INF").mkdir(parents=True)
    model = {"modelName": "small", "modelVersion": "2.1", "handler": "small_handler.py"}
    manifest = {"model": model | {"configFile": "model.yaml"}}
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    (folder / "small_handler.py").write_text(handler)
    (folder / "model.yaml").write_text(yaml.safe_dump(keys))
    return open_archive(folder, folder.parent)


def load_small(folder: Path, **keys: Any) -> tuple[Archive, ArchiveWorker]:
    """Return such an archive and its worker."""
    archive = write_archive(folder, **keys)
    return archive, load_worker(archive)
