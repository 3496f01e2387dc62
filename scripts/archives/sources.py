"""From where a model comes to the files that its archive holds.

A source is a Hugging Face hub name, a local folder, or one of torchaudio's bundles. What is named
here loads the source with the library it belongs to and writes an archive's files into a folder:
weights as safetensors or TorchScript, whatever format they came in. It returns their file's name.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from archives.emformer import stage_emformer
from archives.text import stage_text
from archives.wav2vec2 import stage_wav2vec2

STAGERS: dict[str, Callable[[str, Path, Mapping[str, Any]], str]] = {
    "wav2vec2_handler.py": stage_wav2vec2,
    "emformer_rnnt_handler.py": stage_emformer,
    "emformer_live_handler.py": stage_emformer,
    "transformers_handler.py": stage_text,
}
