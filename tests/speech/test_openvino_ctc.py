"""Speech that OpenVINO recognises: as PyTorch does, in int8 nearly so."""

import random
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from archives.errors import SourceError
from archives.openvino_ctc import convert_ctc
from archives.openvino_files import save_openvino
from archives.wav2vec2 import stage_wav2vec2
from repository import EXAMPLES, ROOT
from speechtext.cpu.openvino_network import OPENVINO_FILE
from speechtext.devices import CPU
from speechtext.errors import ImpossibleRequestError
from speechtext.speech.attribution import AudioExplanationParameters
from speechtext.speech.chunks import SAMPLE_RATE_HZ, Windows
from speechtext.speech.ctc.loading import find_head
from speechtext.speech.ctc.recognizer import Wav2Vec2Recognizer
from speechtext.speech.ctc.settings import Wav2Vec2Settings
from speechtext.speech.encoders import open_encoder
from speechtext.speech.frame_models import FrameModel, compute_frames
from speechtext.speech.openvino_encoder import OpenVinoEncoder, load_openvino_network
from support.audio_models import extractor_of
from support.encoders import GROUP_NORM, LABELS, VARIANTS, name_of, random_network, waveforms_of
from support.speech import count_wrong_words, read_waveform, sentences

DEMO = ROOT / "demo_models" / "wav2vec2"
OPENVINO = {"save_mode": "openvino"}
# A frame, two, and on to a window.
LENGTHS = (400, 719, 720, 5_120, 16_000, 33_333, 160_000, 320_000)
# Whose TorchScript has lengths in it, or that are given features.
UNTRACED = ("sew", "sew-d", "parakeet_ctc", "wav2vec2-bert")
TAKEN = [(family, sizes) for family, sizes in VARIANTS if family not in UNTRACED]


def convert(network: Any, extractor: Any, folder: Path) -> FrameModel:
    """Return what OpenVINO says of frames by a network of transformers."""
    save_openvino(convert_ctc(network), folder / OPENVINO_FILE)
    own = load_openvino_network(folder, network.config, torch.float32, CPU)
    return FrameModel(OpenVinoEncoder(own, extractor), lambda logits: logits)


@torch.inference_mode()
@pytest.mark.parametrize(("family", "sizes"), TAKEN, ids=name_of)
def test_frames_of_each_family_are_pytorchs(
    family: str, sizes: dict[str, Any], tmp_path: Path
) -> None:
    network, extractor = random_network(family, **sizes), extractor_of(family)
    found = convert(network, extractor, tmp_path)
    expected = FrameModel(open_encoder(network.base_model, extractor), find_head(network))
    waveforms = waveforms_of((1, 399, 560, 5_120, 24_321, 70_000))
    for windows in (Windows(20, 2), Windows(2, 0.5)):
        pairs = zip(
            compute_frames(found, waveforms, windows),
            compute_frames(expected, waveforms, windows),
            strict=True,
        )
        for frames, reference in pairs:
            torch.testing.assert_close(frames, reference, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_frames_depend_on_nothing_that_came_before(tmp_path: Path) -> None:
    """Of 200 recordings, one frame long and more, in any order."""
    family, sizes = TAKEN[0]
    network, extractor = random_network(family, **sizes), extractor_of(family)
    found = convert(network, extractor, tmp_path)
    expected = FrameModel(open_encoder(network.base_model, extractor), find_head(network))
    chance = random.Random(0)
    for _ in range(200):
        (waveform,) = waveforms_of((chance.choice([400, 560, chance.randrange(400, 40_000)]),))
        torch.testing.assert_close(
            found.run([waveform])[0], expected.run([waveform])[0], atol=1e-4, rtol=0
        )


@torch.inference_mode()
def test_wide_model_says_what_transformers_says_at_every_length(tmp_path: Path) -> None:
    """Two of Wav2Vec2's twelve layers, each as wide as published, and its front end."""
    config = Wav2Vec2Config(vocab_size=LABELS, **{**GROUP_NORM, "num_hidden_layers": 2})
    network = Wav2Vec2ForCTC(config).eval()
    model = convert(network, extractor_of("wav2vec2"), tmp_path)
    for waveform in waveforms_of(LENGTHS):
        (found,) = model.run([waveform])
        torch.testing.assert_close(found, network(waveform[None]).logits[0], atol=1e-4, rtol=0)


def stage(folder: Path, **settings: Any) -> Wav2Vec2Recognizer:
    """Return the recogniser of the demo model's archive, run by OpenVINO."""
    keys = {**OPENVINO, **settings}
    folder.mkdir()
    assert stage_wav2vec2(str(DEMO), folder, keys) == OPENVINO_FILE
    assert not (folder / "model.safetensors").exists()
    return Wav2Vec2Recognizer.load(folder, Wav2Vec2Settings(**keys))


def recordings() -> list[torch.Tensor]:
    paths = sorted(EXAMPLES.rglob("*.wav"))
    kept = [path for path in paths if soundfile.info(path).samplerate == SAMPLE_RATE_HZ]
    return [read_waveform(path) for path in kept]


def test_demo_model_hears_explains_and_aligns_the_same(tmp_path: Path) -> None:
    expected, found = Wav2Vec2Recognizer.load(DEMO), stage(tmp_path / "model")
    waves = recordings()
    heard = expected.transcribe(waves)
    assert [each.text for each in found.transcribe(waves)] == [each.text for each in heard]
    for one, other in zip(found.align(waves), expected.align(waves), strict=True):
        torch.testing.assert_close(one.probabilities, other.probabilities, atol=1e-4, rtol=0)
    asked = AudioExplanationParameters(target=1)
    scores = [
        [stretch.score for stretch in each.explain_word(waves[0], asked).found.stretches]
        for each in (found, expected)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)
    gradients = AudioExplanationParameters(method="integrated_gradients", target=1)
    with pytest.raises(ImpossibleRequestError, match=r"occlusion: this network has no gradients"):
        found.explain_word(waves[0], gradients)


def test_int8_hears_as_well(tmp_path: Path) -> None:
    """Of 120 recordings in noise, of which float32 hears most, at most 0.3 points of words less."""
    shown = tmp_path / "shown"
    shown.mkdir()
    for index, (wave, _) in enumerate(sentences(20, seed=1)):
        soundfile.write(shown / f"{index}.wav", wave.numpy(), SAMPLE_RATE_HZ)
    int8 = {"quantization": "int8_static", "calibration": str(shown)}
    exact, quantized = Wav2Vec2Recognizer.load(DEMO), stage(tmp_path / "model", **int8)
    assert b'"i8"' in (tmp_path / "model" / OPENVINO_FILE).read_bytes()
    heard, as_well = (count_wrong_words(each, 120, seed=2) for each in (exact, quantized))
    assert heard < 0.2
    assert as_well <= heard + 0.003


def test_int8_answer_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    shown, waves = tmp_path / "shown", recordings()
    shown.mkdir()
    soundfile.write(shown / "one.wav", waves[0].numpy(), SAMPLE_RATE_HZ)
    int8 = {"quantization": "int8_static", "calibration": str(shown)}
    recognizer = stage(tmp_path / "model", **int8)
    together = recognizer.align(waves)
    for wave, beside in zip(waves, together, strict=True):
        (alone,) = recognizer.align([wave])
        torch.testing.assert_close(alone.probabilities, beside.probabilities, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            {"quantization": "int8_static"},
            r"^handler: value error, expected save_mode: openvino for quant",
        ),
        (
            {**OPENVINO, "target_lang": "fra"},
            r"^handler: value error, expected save_mode: pretrained for targ",
        ),
        ({**OPENVINO, "quantization": "int8_static"}, r"^handler\.calibration: expected a folder"),
        (
            {**OPENVINO, "quantization": "int8_static", "calibration": "nowhere"},
            r"^handler\.calibration: expected recordings in nowhere\.$",
        ),
        (
            {**OPENVINO, "quantization": "int8_static", "calibration": "examples"},
            r"^other_voices\.json: ",
        ),
    ],
)
def test_settings_that_cannot_be_built_are_told(
    keys: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises((SourceError, ValueError), match=said):
        stage_wav2vec2(str(DEMO), tmp_path, keys)


@pytest.mark.parametrize("family", UNTRACED)
def test_family_that_cannot_be_traced_is_told(family: str) -> None:
    with pytest.raises(SourceError, match=r"^handler\.save_mode: expected a network of samples"):
        convert_ctc(random_network(family))


def test_gpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^handler\.save_mode: expected a CPU with openvino, got"):
        load_openvino_network(tmp_path, None, torch.float32, torch.device("cuda"))
