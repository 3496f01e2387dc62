"""What tests of several kinds name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from build_archives import HANDLER_FOLDER, ROOT
from local_serving import LocalModel, load_archive
from model_sources import stage_text

EXAMPLES = ROOT / "examples"
START_TIMEOUT_S = 300.0
LoadModel = Callable[[str], LocalModel]


def load_text_model(
    source: Path, workspace: Path, gpu_id: int | None = None, **settings: Any
) -> LocalModel:
    """Load a text model with settings of its own, without the seconds that an archive takes."""
    folder = workspace / f"{source.name}-{len(list(workspace.iterdir()))}"
    (folder / "MAR-INF").mkdir(parents=True)
    weights = stage_text(str(source), folder, settings)
    shutil.copy(HANDLER_FOLDER / "transformers_handler.py", folder)
    (folder / "config.yaml").write_text(yaml.safe_dump({"handler": settings}))
    model = {
        "modelName": "text",
        "serializedFile": weights,
        "handler": "transformers_handler.py",
        "modelVersion": "1.0",
        "configFile": "config.yaml",
    }
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"model": model}))
    return load_archive(folder, gpu_id)
