"""Who says which word of a transcript: voices of its stretches, grouped into speakers."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, Self

import torch
from pydantic import Field as KeyOptions
from pydantic.dataclasses import dataclass

from speechtext.devices import CPU, DtypeName
from speechtext.errors import RequestError
from speechtext.settings import STRICT
from speechtext.speech.chunks import SAMPLE_RATE_HZ
from speechtext.speech.transcripts import Transcript, Word

if TYPE_CHECKING:
    from speechtext.speech.heads.speaker_embedding import SpeakerEmbedding

# A stretch ends at a pause, and a short one only where somebody else may well have begun.
PAUSE_S, LONG_PAUSE_S, LONGEST_STRETCH_S = 0.15, 0.5, 1.4
# Words begin before, and end after, the frames that decide them.
MARGIN_S = 0.2
# Shorter ones found no speakers, nor do longer ones, which are a word with a silence in it: they
# go to the nearest of those that are found.
SHORTEST_STRETCH_S, LONGEST_SURE_S = 0.6, 2.2
# What a voice model is given at least.
SHORTEST_VOICE_S = 0.5
MOST_SPEAKERS = 20


@dataclass(frozen=True, config=STRICT)
class SpeakerSettings:
    """How speakers are told apart: `handler` keys of an archive's YAML that transcribes.

    `speaker_model` is where its build takes the checkpoint of voices from.
    """

    speaker_model: str | None = None
    speaker_threshold: Annotated[float, KeyOptions(ge=-1, le=1)] = 0.5


@dataclass(frozen=True, config=STRICT)
class DiarizationParameters:
    """What a request may ask for: whether words get a speaker, and how many there are."""

    diarize: bool = False
    num_speakers: Annotated[int, KeyOptions(ge=1, le=MOST_SPEAKERS)] | None = None


class WordRun(NamedTuple):
    """Words in a row that are taken to be of one speaker, as places in a transcript."""

    first: int
    stop: int
    start_s: float
    end_s: float

    @property
    def duration_s(self) -> float:
        """Return how long it is."""
        return self.end_s - self.start_s


def _is_sure(duration_s: float) -> bool:
    """Tell whether a stretch of that length may found a speaker."""
    return SHORTEST_STRETCH_S <= duration_s <= LONGEST_SURE_S


def cut_stretches(words: Sequence[Word]) -> list[WordRun]:
    """Return words in stretches that are mostly of one speaker, and long enough to know a voice.

    They end at pauses, short ones at long pauses only; long ones are cut into equal parts.
    """
    stretches: list[WordRun] = []
    for run in _join_short(words, _cut_at_pauses(words)):
        stretches += _cut_evenly(words, run)
    return stretches


def _cut_at_pauses(words: Sequence[Word]) -> list[range]:
    runs: list[range] = []
    first = 0
    for place in range(1, len(words) + 1):
        if place < len(words):
            pause_s = words[place].start_s - words[place - 1].end_s
            short = words[place - 1].end_s - words[first].start_s < SHORTEST_STRETCH_S
            if pause_s <= (LONG_PAUSE_S if short else PAUSE_S):
                continue
        runs.append(range(first, place))
        first = place
    return runs


def _join_short(words: Sequence[Word], runs: Sequence[range]) -> list[range]:
    """Join short runs with those before them, unless there is a long pause."""
    joined: list[range] = []
    for run in runs:
        short = words[run[-1]].end_s - words[run[0]].start_s < SHORTEST_STRETCH_S
        if short and joined and words[run[0]].start_s - words[run[0] - 1].end_s <= LONG_PAUSE_S:
            joined[-1] = range(joined[-1].start, run.stop)
        else:
            joined.append(run)
    return joined


def _cut_evenly(words: Sequence[Word], run: range) -> Iterator[WordRun]:
    """Yield parts of a run that are no longer than a stretch, but for words that are."""
    start_s, duration_s = words[run[0]].start_s, words[run[-1]].end_s - words[run[0]].start_s
    count = max(1, math.ceil(duration_s / LONGEST_STRETCH_S))
    middles_s = [(words[place].start_s + words[place].end_s) / 2 - start_s for place in run]
    parts = [min(count - 1, int(count * each / max(duration_s, 1e-9))) for each in middles_s]
    for _, own in itertools.groupby(zip(run, parts, strict=True), key=lambda each: each[1]):
        places = [place for place, _ in own]
        first_s, last_s = words[places[0]].start_s, words[places[-1]].end_s
        yield WordRun(places[0], places[-1] + 1, max(0.0, first_s - MARGIN_S), last_s + MARGIN_S)


def cut_voice(waveform: torch.Tensor, stretch: WordRun) -> torch.Tensor:
    """Return the samples of a stretch, with more around it where it is very short."""
    shortest = round(SHORTEST_VOICE_S * SAMPLE_RATE_HZ)
    missing_s = max(0.0, SHORTEST_VOICE_S - stretch.duration_s)
    stop = round((stretch.end_s + missing_s / 2) * SAMPLE_RATE_HZ)
    stop = min(max(stop, shortest), len(waveform))
    start = min(round(stretch.start_s * SAMPLE_RATE_HZ), stop - shortest)
    return waveform[max(0, start) : stop]


class Diarizer:
    """Tells speakers apart by their voices."""

    def __init__(self, voices: "SpeakerEmbedding", threshold: float) -> None:
        self._voices = voices
        self.threshold = threshold
        self.cost = voices.cost

    @classmethod
    def load(
        cls,
        folder: str | Path,
        threshold: float,
        device: torch.device = CPU,
        dtype: DtypeName = "float32",
    ) -> Self:
        """Return the diariser of a folder with an x-vector checkpoint and its feature extractor.

        From a cosine of `threshold` on, two voices are of one speaker. Raises `ValueError` or
        `OSError` with one sentence for what does not fit together.
        """
        # Here, because an Emformer without voices loads twice as fast without transformers.
        from speechtext.speech.heads.speaker_embedding import (
            SpeakerEmbedding,
            SpeakerEmbeddingSettings,
        )

        settings = SpeakerEmbeddingSettings(
            mode="speaker_embedding", dtype=dtype, threshold=threshold
        )
        return cls(SpeakerEmbedding.load(folder, settings, device), threshold)

    def listen(self, waveforms: Sequence[torch.Tensor]) -> list[torch.Tensor | RequestError]:
        """Return voices of length 1, or why there is none, of waveforms (samples,) at 16 kHz."""
        return self._voices.answer(waveforms, [self._voices.parameters_class()] * len(waveforms))

    def name_words(
        self,
        transcript: Transcript,
        waveform: torch.Tensor,
        num_speakers: int | None = None,
        known: Mapping[str, torch.Tensor] | None = None,
    ) -> Transcript:
        """Return the transcript of a waveform with a speaker for each word.

        "Speaker 1" is the first who is heard. `known` are voices of people, by their names, which
        nobody else gets. Who is in a recording is found unless their number is given.
        """
        stretches = cut_stretches(transcript.words)
        found = self.listen([cut_voice(waveform, each) for each in stretches])
        heard = [place for place, each in enumerate(found) if isinstance(each, torch.Tensor)]
        if not heard:
            return transcript
        voices = torch.stack([each for each in found if isinstance(each, torch.Tensor)])
        durations_s = [stretches[place].duration_s for place in heard]
        groups = group_voices(voices, durations_s, self.threshold, num_speakers)
        names = self._name_groups(voices, groups, known or {})
        speakers = dict(zip(heard, (names[group] for group in groups), strict=True))
        return _with_speakers(transcript, stretches, speakers)

    def _name_groups(
        self, voices: torch.Tensor, groups: Sequence[int], known: Mapping[str, torch.Tensor]
    ) -> dict[int, str]:
        """Return the name of each group, in the order in which they are heard.

        Only who is as alike as the threshold is known. Where several might be, those are chosen
        whose likeness beyond the threshold is the most in all.
        """
        names: dict[int, str] = {}
        if known:
            from scipy.optimize import linear_sum_assignment

            likeness = find_centres(voices, groups) @ torch.stack(list(known.values())).T
            beyond = (likeness - self.threshold).clamp(min=0)
            rows, columns = linear_sum_assignment(beyond, maximize=True)
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
                if likeness[row, column] >= self.threshold:
                    names[row] = list(known)[column]
        numbered = (f"Speaker {number}" for number in itertools.count(1))
        # Whoever knows names from another part of a recording may know such.
        free = (name for name in numbered if name not in known)
        for group in groups:
            if group not in names:
                names[group] = next(free)
        return names


class LiveSpeakers:
    """The speakers of somebody's live speech: each stretch gets a name at once, and keeps it."""

    def __init__(self, diarizer: Diarizer) -> None:
        self._diarizer = diarizer
        # The sum of the voices of each speaker, in the order in which they were heard.
        self._sums: list[torch.Tensor] = []

    def name_words(
        self, words: Sequence[Word], waveform: torch.Tensor, start_s: float
    ) -> list[Word]:
        """Return further words with their speakers.

        `waveform`, of shape (samples,) at 16 kHz, is what was heard from `start_s` on; words from
        before it have the speaker of those that follow.
        """
        own = [
            word._replace(start_s=word.start_s - start_s, end_s=word.end_s - start_s)
            for word in words
        ]
        stretches = [each for each in cut_stretches(own) if each.end_s > 0]
        voices = self._diarizer.listen([cut_voice(waveform, each) for each in stretches])
        speakers = {
            place: self._name(voice, stretch)
            for place, (stretch, voice) in enumerate(zip(stretches, voices, strict=True))
            if isinstance(voice, torch.Tensor)
        }
        if not speakers:
            return list(words)
        behind = len(words) - sum(each.stop - each.first for each in stretches)
        named = _spread(stretches, speakers)
        named = [named[0]] * behind + named
        return [word._replace(speaker=name) for word, name in zip(words, named, strict=True)]

    def _name(self, voice: torch.Tensor, stretch: WordRun) -> str:
        """Return who speaks in a stretch: the most alike so far, or somebody new."""
        likeness = [float(voice @ each) / float(each.norm()) for each in self._sums]
        best = max(range(len(likeness)), key=likeness.__getitem__, default=0)
        sure = _is_sure(stretch.duration_s)
        known = bool(likeness) and likeness[best] >= self._diarizer.threshold
        if not self._sums or (sure and not known and len(self._sums) < MOST_SPEAKERS):
            self._sums.append(voice.clone())
            best = len(self._sums) - 1
        elif sure:
            self._sums[best] = self._sums[best] + voice
        return f"Speaker {best + 1}"


def group_voices(
    voices: torch.Tensor,
    durations_s: Sequence[float],
    threshold: float,
    num_speakers: int | None = None,
) -> list[int]:
    """Return the group, counted from 0, of each voice of shape (voices, dimensions).

    Groups are merged for as long as the mean cosine between them is at least `threshold`, or
    until there are so many as are given. Short stretches found no group, nor do very long ones,
    unless there are too few others.
    """
    sure = [place for place, each in enumerate(durations_s) if _is_sure(each)]
    if len(sure) < (num_speakers or 1):
        sure = list(range(len(voices)))
    centres = find_centres(voices[sure], _cluster(voices[sure], threshold, num_speakers))
    nearest = (voices @ centres.T).argmax(dim=1).tolist()
    order = {group: number for number, group in enumerate(dict.fromkeys(nearest))}
    return [order[group] for group in nearest]


def _cluster(voices: torch.Tensor, threshold: float, num_speakers: int | None) -> list[int]:
    if len(voices) == 1:
        return [0]
    # Here, because only who tells speakers apart needs it.
    from scipy.cluster.hierarchy import fcluster, linkage

    tree = linkage(voices.double().numpy(), method="average", metric="cosine")
    groups = fcluster(tree, 1 - threshold, "distance")
    if num_speakers or groups.max() > MOST_SPEAKERS:
        groups = fcluster(tree, num_speakers or MOST_SPEAKERS, "maxclust")
    return [int(group) - 1 for group in groups]


def find_centres(voices: torch.Tensor, groups: Sequence[int]) -> torch.Tensor:
    """Return the mean voice of each group, of length 1, shape (groups, dimensions)."""
    members = torch.nn.functional.one_hot(torch.tensor(groups)).to(voices.dtype)
    return torch.nn.functional.normalize(members.T @ voices, dim=1)


def _with_speakers(
    transcript: Transcript, stretches: Sequence[WordRun], speakers: Mapping[int, str]
) -> Transcript:
    """Return words with the speakers of their stretches; those of none have their neighbour's."""
    pairs = zip(transcript.words, _spread(stretches, speakers), strict=True)
    return replace(transcript, words=[word._replace(speaker=name) for word, name in pairs])


def _spread(stretches: Sequence[WordRun], speakers: Mapping[int, str]) -> list[str]:
    """Return the speaker of each word; stretches of none have that of the stretch before."""
    named: list[str] = []
    speaker = next(iter(speakers.values()))
    for place, stretch in enumerate(stretches):
        speaker = speakers.get(place, speaker)
        named += [speaker] * (stretch.stop - stretch.first)
    return named
