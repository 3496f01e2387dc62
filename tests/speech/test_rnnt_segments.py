"""What the Emformer's recogniser says of whole recordings: texts, segments, alignments, costs."""

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from archives.emformer import load_emformer
from repository import ROOT
from speechtext.errors import ImpossibleRequestError
from speechtext.speech.hotwords import HotwordParameters
from speechtext.speech.rnnt.features import load_features
from speechtext.speech.rnnt.recognizer import EmformerRecognizer, EmformerSettings
from speechtext.speech.rnnt.segments import find_segment_ends
from speechtext.speech.rnnt.torchscript.recognizer import save_recognizer
from speechtext.speech.transcripts import Segment, Token
from support.common import EXAMPLES
from support.speech import read_waveform

DEMO = ROOT / "demo_models" / "emformer_asr"
RATE_HZ = 16_000
SAID = ("turn on the kitchen lights", "what is the weather tomorrow")
# Of a segment of each sentence: long enough, and with room for where a sentence begins and ends.
PAUSE_S = 1.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("emformer")
    save_recognizer(
        load_emformer(DEMO), load_features(DEMO / "global_stats.json"), path / "model.pt"
    )
    shutil.copy(DEMO / "spm.model", path)
    return path


@pytest.fixture(scope="module", params=[None, 4])
def recognizer(request: pytest.FixtureRequest, folder: Path) -> EmformerRecognizer:
    """Return a recogniser that decodes greedily, and one that searches."""
    return EmformerRecognizer.load(folder, EmformerSettings(beam_width=request.param))


def sentence(said: str) -> torch.Tensor:
    return read_waveform(EXAMPLES / f"{said.replace(' ', '_')}.wav")


def sentences(*said: str) -> torch.Tensor:
    """Return sentences with a pause behind each."""
    pause = torch.zeros(int(PAUSE_S * RATE_HZ))
    return torch.cat([part for each in said for part in (sentence(each), pause)])


def segments_of(
    recognizer: EmformerRecognizer, waveforms: list[torch.Tensor]
) -> dict[int, list[Segment]]:
    """Return the segments told of each waveform; their numbers are those of their order."""
    found: dict[int, list[Segment]] = {index: [] for index in range(len(waveforms))}

    def hear(index: int, number: int, segment: Segment) -> None:
        assert number == len(found[index])
        found[index].append(segment)

    recognizer.recognize(waveforms, on_segment=hear)
    return found


def test_segments_are_the_sentences_of_each_recording(recognizer: EmformerRecognizer) -> None:
    waveforms = [sentences(*SAID), sentence(SAID[0]), sentences(*SAID[::-1]), torch.zeros(8_000)]
    found = segments_of(recognizer, waveforms)
    texts = [[segment.text for segment in found[index]] for index in range(4)]
    assert texts == [list(SAID), [SAID[0]], list(SAID[::-1]), []]
    whole = recognizer.recognize(waveforms)
    for index, each in enumerate(whole):
        words = [word for segment in found[index] for word in segment.words]
        assert words == each.transcript.words
    first, second = found[0]
    assert second.words[0].start_s - first.words[-1].end_s > PAUSE_S / 2


def test_silence_that_is_set_ends_a_segment(folder: Path) -> None:
    settings = EmformerSettings(endpoint_silence_s=2 * PAUSE_S + 1)
    recognizer = EmformerRecognizer.load(folder, settings)
    (only,) = segments_of(recognizer, [sentences(*SAID)])[0]
    assert only.text == " ".join(SAID)


def test_alignment_is_of_those_that_are_to_be_aligned(recognizer: EmformerRecognizer) -> None:
    waveform = sentence(SAID[0])
    (alignment,) = recognizer.align([waveform])
    assert alignment.transcript == recognizer.transcribe([waveform])[0]
    assert [len(word) > 0 for word in alignment.words] == [True] * len(SAID[0].split())
    assert len(alignment.labels) == alignment.probabilities.shape[1]
    assert alignment.frame_s == pytest.approx(0.04)
    assert ((alignment.probabilities >= 0) & (alignment.probabilities < 1.001)).all()


def test_loading_measures_what_a_recording_costs(recognizer: EmformerRecognizer) -> None:
    assert 0 < recognizer.cost.probe_cost_s < 60
    assert recognizer.cost.power == 1
    assert (recognizer.hotword_cost is None) == (recognizer.biasing is None)


def test_hotwords_need_a_search(recognizer: EmformerRecognizer) -> None:
    assert recognizer.choose_hotwords(HotwordParameters()) is None
    asked = HotwordParameters(hotwords=["kitchen"])
    if recognizer.biasing:
        assert recognizer.choose_hotwords(asked) is not None
        return
    with pytest.raises(ImpossibleRequestError, match="set beam_width"):
        recognizer.choose_hotwords(asked)


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(1, 3)), max_size=12),
    st.integers(0, 9),
    st.integers(1, 5),
    st.data(),
)
def test_segments_end_where_nothing_follows_for_long_enough(
    gaps: list[tuple[int, int]], rest: int, silent_frames: int, data: st.DataObject
) -> None:
    tokens: list[Token] = []
    frames = 0
    for gap, length in gaps:
        tokens.append(Token(0, frames + gap, frames + gap + length, 0.5))
        frames += gap + length
    frames += rest
    first = data.draw(st.integers(0, len(tokens)))
    spoken = {frame for token in tokens for frame in range(token.start, token.stop)}
    expected = [
        count
        for count in range(first + 1, len(tokens) + 1)
        if (stop := tokens[count - 1].stop) + silent_frames <= frames
        and not spoken & set(range(stop, stop + silent_frames))
    ]
    assert find_segment_ends(tokens, first, frames, silent_frames) == expected
