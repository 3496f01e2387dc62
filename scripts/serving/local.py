"""An archive's handler without a server: loaded and called as a TorchServe worker does it."""

import importlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from ts.context import RequestProcessor
from ts.model_loader import TsModelLoader
from ts.service import Service

from archives.building import build_archive
from archives.configs import ArchiveConfig
from cluster.archive_imports import ArchiveImports


@dataclass(frozen=True)
class Reply:
    """What one request of a batch got: its HTTP status and its answer."""

    status: int
    answer: Any


@dataclass(frozen=True)
class LocalModel:
    """A loaded archive, with modules of its own.

    `service` is TorchServe's own object around the handler.
    """

    service: Service
    imports: ArchiveImports

    @property
    def handler(self) -> Any:
        """Return the handler's instance."""
        return self.service._entry_point.__self__

    def module(self, name: str) -> ModuleType:
        """Return the archive's own copy of a module."""
        with self.imports.in_place():
            return importlib.import_module(name)

    def answer(
        self, rows: Sequence[Mapping[str, Any]], headers: Sequence[Mapping[str, str]] | None = None
    ) -> list[Reply]:
        """Answer a batch of rows; `headers` are those of each request."""
        context = self.service.context
        context.request_processor = [
            RequestProcessor(dict(each)) for each in headers or [{}] * len(rows)
        ]
        # What a request imports only now comes from the archive, too.
        with self.imports.in_place():
            answers = self.service._entry_point(list(rows), context)
        return [
            Reply(context.get_response_status(index)[0], answer)
            for index, answer in enumerate(answers)
        ]


def build_with_settings(
    config: ArchiveConfig,
    source: Path,
    workspace: Path,
    torchserve_keys: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """Build an unpacked archive of the model in `source` with some other settings in its YAML."""
    content = yaml.safe_load(config.path.read_text(encoding="utf-8"))
    content |= torchserve_keys or {}
    content["handler"] |= settings
    folder = Path(tempfile.mkdtemp(dir=workspace))
    path = folder / config.path.name
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    changed = replace(config, path=path, handler_settings=content["handler"])
    return build_archive(changed, folder, str(source), "no-archive")


def load_archive(folder: Path, gpu_id: int | None = None) -> LocalModel:
    """Load an unpacked archive as a worker does, on the CPU or on a GPU.

    Its handler and all that comes with it are imported from `folder`, and nowhere else.
    """
    manifest = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text(encoding="utf-8"))
    model = manifest["model"]
    imports = ArchiveImports(folder)
    with imports.in_place():
        service = TsModelLoader().load(
            model["modelName"],
            str(folder),
            handler=model["handler"],
            gpu_id=gpu_id,
            batch_size=1,
            metrics_cache=None,
        )
    return LocalModel(service, imports)
