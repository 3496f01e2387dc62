"""TorchScript files of torchaudio's own search: their transcripts, and what they cannot do."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio
from sentencepiece import SentencePieceProcessor

from archives.emformer import load_emformer
from repository import ROOT
from speechtext.devices import CPU
from speechtext.errors import ImpossibleRequestError, NonFiniteOutputError
from speechtext.speech.hotwords import HotwordParameters
from speechtext.speech.rnnt.features import load_features, whole_features
from speechtext.speech.rnnt.loading import check_vocabulary, load_transducer, load_vocabulary
from speechtext.speech.rnnt.recognizer import EmformerRecognizer, EmformerSettings, load_recognizer
from speechtext.speech.rnnt.scripted_beam_search import BEAM_WIDTH, ScriptedBeamSearch
from speechtext.speech.rnnt.torchscript.recognizer import save_recognizer
from support.common import EXAMPLES
from support.speech import read_waveform

DEMO = ROOT / "demo_models" / "emformer_asr"
RATE_HZ = 16_000
SENTENCES = ("turn_on_the_kitchen_lights", "call_five_five_one_seven_nine")
PIECES = SentencePieceProcessor(model_file=str(DEMO / "spm.model"))


@pytest.fixture(scope="module")
def reference() -> torchaudio.models.RNNTBeamSearch:
    model = load_emformer(DEMO)
    return torchaudio.models.RNNTBeamSearch(model, model.joiner.linear.out_features - 1)


@pytest.fixture(scope="module")
def folder(
    reference: torchaudio.models.RNNTBeamSearch, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("scripted")
    torch.jit.script(reference).save(str(path / "model.pt"))
    for name in ("spm.model", "global_stats.json"):
        shutil.copy(DEMO / name, path)
    return path


def load(folder: Path, **settings: Any) -> ScriptedBeamSearch:
    found = load_recognizer(folder, EmformerSettings(**settings), CPU, "model.pt")
    assert isinstance(found, ScriptedBeamSearch)
    return found


def sentence(name: str) -> torch.Tensor:
    return read_waveform(EXAMPLES / f"{name}.wav")


@pytest.mark.parametrize("width", [None, 1, 3])
def test_transcripts_are_torchaudios(
    folder: Path, reference: torchaudio.models.RNNTBeamSearch, width: int | None
) -> None:
    """Of recordings and of noise, on which the width decides, one after another."""
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(RATE_HZ, generator=generator)
    waveforms = [sentence(SENTENCES[0]), sentence(SENTENCES[1]), noise]
    front_end = load_features(DEMO / "global_stats.json").eval()
    expected = []
    with torch.inference_mode():
        for waveform in waveforms:
            features = whole_features(front_end, waveform)
            length = torch.tensor([len(features)])
            ((tokens, *_), *_) = reference(features, length, width or BEAM_WIDTH)
            expected.append(PIECES.decode(tokens[1:]))
    found = load(folder, beam_width=width).transcribe(waveforms)
    assert [each.text for each in found] == expected
    assert [each.duration_s for each in found] == [len(each) / RATE_HZ for each in waveforms]
    assert [each.words for each in found] == [[], [], []]
    assert expected[0] == SENTENCES[0].replace("_", " ")


def test_width_is_that_of_the_vocabulary_at_most(folder: Path, tmp_path: Path) -> None:
    """Of both kinds of file: more hypotheses than pieces a first token cannot make."""
    shutil.copytree(folder, tmp_path / "scripted")
    shutil.copytree(folder, tmp_path / "own")
    save_recognizer(
        load_emformer(DEMO),
        load_features(DEMO / "global_stats.json"),
        tmp_path / "own" / "model.pt",
    )
    most = PIECES.get_piece_size()
    said = f"handler.beam_width: expected at most {most}, .* got {most + 1}"
    for name in ("scripted", "own"):
        settings = EmformerSettings(beam_width=most + 1)
        with pytest.raises(ValueError, match=said):
            load_recognizer(tmp_path / name, settings, CPU, "model.pt")


def test_time_grows_with_the_square(folder: Path) -> None:
    search = load(folder)
    assert search.cost.power == 2
    assert 0 < search.cost.probe_cost_s < 60
    assert search.hotword_cost is None


def test_hotwords_are_refused(folder: Path) -> None:
    search = load(folder)
    search.choose_hotwords(HotwordParameters())
    with pytest.raises(ImpossibleRequestError, match="build it with make archive") as refusal:
        search.choose_hotwords(HotwordParameters(hotwords=["kitchen"]))
    assert refusal.value.kind == "HotwordsUnsupported"
    with pytest.raises(ValueError, match=r"^handler\.hotwords: model\.pt has a search of torch"):
        load(folder, beam_width=4, hotwords=["kitchen"])


def test_file_is_no_recognizer_of_ours(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"^model\.pt: expected frames and probabilities, got an"):
        EmformerRecognizer.load(folder)


class RNNTBeamSearch(torch.nn.Module):
    """Finds something of a score that is no number, under the name of torchaudio's."""

    def __init__(self, blank: int) -> None:
        super().__init__()
        self.blank = blank
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(
        self, features: torch.Tensor, length: torch.Tensor, width: int
    ) -> list[tuple[list[int], torch.Tensor, list[list[torch.Tensor]], float]]:
        nothing: list[list[torch.Tensor]] = []
        return [([self.blank, 5], features, nothing, float("nan"))]


def test_score_that_is_no_number_is_no_answer(folder: Path) -> None:
    vocabulary = load_vocabulary(folder)
    script = torch.jit.script(RNNTBeamSearch(len(vocabulary)))
    search = ScriptedBeamSearch(script, vocabulary, folder, None)
    with pytest.raises(NonFiniteOutputError):
        search.transcribe([sentence(SENTENCES[0])])


def test_files_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    vocabulary = load_vocabulary(folder)
    check_vocabulary(vocabulary, len(vocabulary))
    with pytest.raises(ValueError, match=r"^spm\.model: expected 7 pieces, as many as the model"):
        check_vocabulary(vocabulary, 7)
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(tmp_path / "linear.pt"))
    with pytest.raises(ValueError, match=r"^linear\.pt: expected an Emformer RNN-T, got a Linear"):
        load_transducer(tmp_path / "linear.pt", CPU, vocabulary)
    for content in (b"", b"no pieces"):
        (tmp_path / "spm.model").write_bytes(content)
        with pytest.raises(ValueError, match=r"^spm\.model: expected a SentencePiece model, got a"):
            load_vocabulary(tmp_path)
