"""An Emformer RNN-T in int8: what it multiplies, what it hears, and what it needs."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from archives.configs import read_configs
from archives.emformer import load_emformer
from repository import ROOT
from serving.local import build_with_settings, load_archive
from speechtext.cpu.int8 import Int8Product
from speechtext.devices import CPU
from speechtext.speech.live_sessions import LiveRecognizer, LiveSettings
from speechtext.speech.pcm import PcmFormat
from speechtext.speech.rnnt.features import load_features
from speechtext.speech.rnnt.recognizer import EmformerSettings, load_recognizer
from speechtext.speech.rnnt.torchscript.recognizer import ScriptedEmformer, save_recognizer
from speechtext.speech.rnnt.transducer import Quantization, Transducer
from support.common import EXAMPLES
from support.speech import count_wrong_words, read_waveform

FOLDER = ROOT / "demo_models" / "emformer_asr"
FRONT_END = load_features(FOLDER / "global_stats.json")
INT8: Quantization = "int8_dynamic"
pytestmark = pytest.mark.skipif(
    not torch.cpu._is_vnni_supported(), reason="This processor does not multiply int8."
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the demo model's TorchScript file and its pieces."""
    path = tmp_path_factory.mktemp("emformer")
    save_recognizer(load_emformer(FOLDER), FRONT_END, path / "model.pt")
    (path / "spm.model").symlink_to(FOLDER / "spm.model")
    return path


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 20),
    st.integers(1, 70),
    st.integers(1, 90),
    st.integers(-6, 6),
    st.integers(0, 2**32),
)
@torch.inference_mode()
def test_product_is_the_exact_one_but_for_rounding_and_no_row_depends_on_others(
    rows: int, out: int, width: int, exponent: int, seed: int
) -> None:
    generator = torch.manual_seed(seed)
    weight = torch.randn(out, width, generator=generator)
    # Rows of all sizes beside each other, and one of nothing.
    given = torch.randn(rows, width, generator=generator) * 10.0**exponent
    given[rows // 2 :] *= 1e-4
    given[-1] = 0
    product = Int8Product()
    product.load(weight, rows)
    found = product(given)
    for row, one in zip(given, found, strict=True):
        exact, most = weight @ row, weight.abs().amax(dim=1) * row.abs().max() * width
        # Half a step of 127 on either side.
        assert ((one - exact).abs() <= most / 127 * 1.01 + 1e-30).all()
        assert torch.equal(product(row[None])[0], one)


@torch.inference_mode()
@pytest.mark.parametrize("segments", [1, 2, 5, 130])
def test_full_size_encodings_are_about_as_exact_as_in_bfloat16(segments: int) -> None:
    torch.manual_seed(0)
    model = torchaudio.models.emformer_rnnt_base(4097).eval()
    exact, quantized = (torch.jit.script(ScriptedEmformer(model, FRONT_END)) for _ in range(2))
    quantized.encoder.pack(512, in_int8=True)
    encoder = exact.encoder
    frames = segments * encoder.segment
    features = torch.randn(2, (frames + encoder.right) * encoder.stride, 80)
    counts, before = torch.tensor([frames, frames - 1]), torch.zeros(2, dtype=torch.int64)
    left = [encoder.start()] * 2
    expected, found = (
        each.encoder(features, counts, left, before)[0] for each in (exact, quantized)
    )
    assert (found - expected).norm() < 0.025 * expected.norm()


@cache
def words_wrong(folder: Path, chosen: EmformerSettings) -> float:
    """Return what share of words a recogniser with some settings has wrong."""
    recognizer = load_recognizer(folder, chosen, CPU, "model.pt")
    return count_wrong_words(recognizer, 120 if chosen.beam_width is None else 40, seed=2)


@pytest.mark.parametrize(("dtype", "beam_width"), [("float32", None), ("auto", None), ("auto", 4)])
def test_int8_hears_as_well(folder: Path, dtype: Any, beam_width: int | None) -> None:
    """Of 120 recordings in noise, of which float32 hears most, at most 0.3 points of words less."""
    heard = words_wrong(folder, EmformerSettings(beam_width=beam_width))
    quantized = EmformerSettings(beam_width=beam_width, dtype=dtype, quantization=INT8)
    as_well = words_wrong(folder, quantized)
    assert heard < 0.25
    assert as_well <= heard + 0.003


def test_live_speech_is_heard_as_a_whole_recording_is(folder: Path) -> None:
    waveform = read_waveform(EXAMPLES / "turn_on_the_kitchen_lights.wav")
    samples = (waveform * 32767).to(torch.int16)
    chosen = EmformerSettings(quantization=INT8)
    (expected,) = load_recognizer(folder, chosen, CPU, "model.pt").transcribe([samples / 32768])
    live = LiveRecognizer.load(folder, LiveSettings(quantization=INT8))
    session = live.begin(PcmFormat(16_000, endian="LITTLE"))
    for piece in samples.split(2000):
        session.accept(piece.numpy().tobytes())
    assert session.finish().text == expected.text == "turn on the kitchen lights"


@pytest.mark.parametrize("name", ["emformer_asr", "emformer_asr_live"])
def test_archive_with_the_setting_answers(name: str, tmp_path: Path) -> None:
    archive = build_with_settings(read_configs()[name], FOLDER, tmp_path, quantization=INT8)
    model = load_archive(archive)
    recording = (EXAMPLES / "turn_on_the_kitchen_lights.wav").read_bytes()
    (reply,) = model.answer([{"body": recording}], [{"ts_request_sequence_end": "true"}])
    assert "turn on the kitchen lights" in str(reply.answer).lower()
    loaded = model.handler.recognizer
    transducer = getattr(loaded, "transducer", None) or loaded._transducer
    assert transducer.model.decoder.joiner.output.in_int8.is_loaded
    assert transducer.model.encoder.output.in_int8.is_loaded


class OlderDecoder(torch.nn.Module):
    """One whose methods are those of archives that were built before."""

    def forward(self) -> int:
        """Return anything."""
        return 1


def test_what_cannot_multiply_in_int8_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: tuple[Any, ...] = "float32", 100, None, INT8
    older = torch.nn.Module()
    older.encoder = torch.jit.load(folder / "model.pt").encoder
    older.decoder = torch.jit.script(OlderDecoder())
    with pytest.raises(ValueError, match=r"quantization: expected a TorchScript file of this ver"):
        Transducer(older, CPU, *limits)
    model = torch.jit.load(folder / "model.pt")
    with pytest.raises(ValueError, match=r"expected a CPU with AVX-512 VNNI.*, got cuda:0\.$"):
        Transducer(model, torch.device("cuda:0"), *limits)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    with pytest.raises(ValueError, match=r"which multiplies int8, got one without\.$"):
        Transducer(model, CPU, *limits)
