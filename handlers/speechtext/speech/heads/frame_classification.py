"""Who is active when: labels, such as speakers, for each frame of a recording."""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field as KeyOptions
from pydantic.dataclasses import dataclass
from transformers import AutoModelForAudioFrameClassification

from speechtext.settings import STRICT
from speechtext.speech.audio_checkpoints import AudioSettings
from speechtext.speech.chunks import join_chunks, plan_chunks
from speechtext.speech.frame_models import compute_chunks
from speechtext.speech.heads.activity import Activity, find_activities, keep_speakers
from speechtext.speech.heads.base import AudioTask

Seconds = Annotated[float, KeyOptions(ge=0, le=3600)]


@dataclass(frozen=True, config=STRICT)
class FrameClassificationSettings(AudioSettings):
    """Keys of the YAML; where labels are `speakers`, each window may name them in another order."""

    speakers: bool = True


@dataclass(frozen=True, config=STRICT)
class FrameClassificationParameters:
    """What a request may ask for: when a label holds, and which segments are told."""

    threshold: Annotated[float, KeyOptions(gt=0, lt=1)] = 0.5
    min_duration_s: Seconds = 0.0
    min_gap_s: Seconds = 0.0


class FrameClassification(AudioTask):
    """Segments in which labels hold; those of several may overlap."""

    auto_class = AutoModelForAudioFrameClassification
    settings_class = FrameClassificationSettings
    has_labels = True
    parameters_class = FrameClassificationParameters

    def compute(
        self, waveforms: Sequence[torch.Tensor], parameters: Sequence[Any]
    ) -> list[torch.Tensor]:
        """Return the probability of each label in each frame, shape (frames, labels)."""
        model, windows = self.frame_model(self.network.classifier), self.settings.windows
        found = []
        for waveform in waveforms:
            chunks = plan_chunks(model.grid, len(waveform), windows)
            logits = compute_chunks(model, waveform, chunks)
            probabilities = [each.sigmoid() for each in logits]
            if self.settings.speakers:
                probabilities = keep_speakers(chunks, probabilities)
            found.append(join_chunks(chunks, probabilities))
        return found

    def decode(
        self,
        waveform: torch.Tensor,
        found: torch.Tensor,
        parameters: FrameClassificationParameters,
    ) -> list[Activity]:
        """Return the segments in which labels hold, in order."""
        limits = parameters.threshold, parameters.min_duration_s, parameters.min_gap_s
        return find_activities(found, list(self.labels.values()), self.grid.frame_s, *limits)
