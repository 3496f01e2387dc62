"""TorchServe handler for Wav2Vec2 and its kind: the YAML's `mode` says what of a recording."""

from collections.abc import Sequence
from typing import Any

import torch

from audio_modes import AudioMode, Transcription, find_mode
from batches import answer_requests
from device_io import Row, prepare_worker
from load_errors import check_files_and_explain
from speechtext.host_memory import keep_loaded
from speechtext.settings import read_settings
from speechtext.speech.chunks import SAMPLE_RATE_HZ
from speechtext.speech.ctc.recognizer import Wav2Vec2Recognizer


class Wav2VecHandler:
    """Transcribes recordings with a Hugging Face checkpoint, or does what else its `mode` says."""

    def __init__(self) -> None:
        self._context: Any = None
        self.initialized = False
        self.device: torch.device | None = None
        self.expected_sampling_rate = SAMPLE_RATE_HZ
        self.mode: AudioMode
        self.model: Any = None
        # Only for a model that transcribes.
        self.recognizer: Wav2Vec2Recognizer | None = None
        self.processor: Any = None

    @check_files_and_explain("config.json", "preprocessor_config.json|processor_config.json")
    def initialize(self, context: Any) -> None:
        """Load the checkpoint and its processor from the archive, and run them once.

        Raises `LoadError`, which stops the load, for a mistake in the YAML or a missing file.
        """
        self._context = context
        mode_class = find_mode(context.model_yaml_config)
        settings = read_settings(mode_class.settings_class, context.model_yaml_config, "handler")
        folder, self.device = prepare_worker(context, settings.threads)
        self.mode = mode_class(folder, settings, self.device, context)
        self.model, self.max_audio_s = self.mode.network, self.mode.max_audio_s
        if isinstance(self.mode, Transcription):
            self.recognizer = self.mode.recognizer
            self.processor = self.recognizer.processor
        keep_loaded()
        self.initialized = True

    def handle(self, data: Sequence[Row], context: Any) -> list[Any]:
        """Return one answer for each recording of the batch, in order."""
        return answer_requests(
            data,
            context,
            lambda index, row: self.mode.read(index, row, context),
            self.mode.answer,
            self.mode.description,
        )
