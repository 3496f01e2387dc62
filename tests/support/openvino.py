"""Text models that OpenVINO runs, and what they answer."""

import json
from pathlib import Path
from typing import Any

from archives.text import stage_text
from speechtext.errors import RequestError
from speechtext.text.predictor import TextPredictor
from speechtext.text.settings import TextSettings


def load(source: Path, folder: Path, **settings: Any) -> TextPredictor:
    """Return the predictor of an archive's files, run by OpenVINO."""
    keys = {"save_mode": "openvino", **settings}
    folder.mkdir()
    file = stage_text(str(source), folder, keys)
    return TextPredictor.load(folder, TextSettings(**keys), file=file)


def answers(predictor: TextPredictor, payloads: list[Any]) -> list[Any]:
    """Return the answers to payloads that come together."""
    found = predictor.answer([predictor.read(each) for each in payloads])
    kept = [each for each in found if not isinstance(each, RequestError)]
    assert len(kept) == len(payloads)
    return [json.loads(json.dumps(each.content)) for each in kept]
