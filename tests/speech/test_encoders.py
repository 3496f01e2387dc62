"""Families of speech models: frames are those of transformers, alone and in any batch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForAudioXVector,
    AutoModelForCTC,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
)

from speechtext.devices import CPU
from speechtext.speech.audio_checkpoints import AudioSettings, check_family, load_network
from speechtext.speech.chunks import FrameGrid, Windows, plan_chunks
from speechtext.speech.ctc.loading import find_head
from speechtext.speech.encoders import ENCODERS, open_encoder
from speechtext.speech.frame_models import FrameModel, compute_frames
from support.audio_models import extractor_of, write_model
from support.encoders import (
    ADAPTER,
    GROUP_NORM,
    LABELS,
    SAMPLES,
    VARIANTS,
    cut_whole,
    name_of,
    random_network,
    waveforms_of,
)
from support.speech import as_frame_model

# The share of frames whose outputs are most alike those of the same frame in the whole.
NEAREST = 0.9


# Random weights say much the same of every frame otherwise.
def ask_transformers(network: Any, extractor: Any, waveform: torch.Tensor) -> torch.Tensor:
    """Return the logits of the frames that are none of padding."""
    asked = extractor(waveform.numpy(), sampling_rate=16_000, return_tensors="pt")
    logits: torch.Tensor = network(**asked).logits[0]
    return logits[: count_frames(network, asked)]


def count_frames(network: Any, asked: Any, add_adapter: bool | None = None) -> int | None:
    """Return how many frames are none of padding, in transformers' words."""
    # Wav2Vec2's own extractor has no mask where nothing is padded.
    mask = asked.get("attention_mask")
    if mask is None:
        return None
    if network.config.model_type == "parakeet_ctc":
        return int(network._get_output_attention_mask(mask).sum())
    return int(network._get_feat_extract_output_lengths(mask.sum(), add_adapter))


@torch.inference_mode()
@pytest.mark.parametrize(("family", "sizes"), VARIANTS, ids=name_of)
def test_frames_are_those_of_transformers(family: str, sizes: dict[str, Any]) -> None:
    network, extractor = random_network(family, **sizes), extractor_of(family)
    long = [each for each in waveforms_of() if len(each) >= 5_120]
    expected = [ask_transformers(network, extractor, each) for each in long]
    model = FrameModel(open_encoder(network.base_model, extractor), find_head(network))
    found = compute_frames(model, long, Windows(20, 2))
    for waveform, frames, reference in zip(long, found, expected, strict=True):
        assert len(frames) == model.encoder.grid.count_frames(len(waveform))
        torch.testing.assert_close(frames, reference, atol=1e-4, rtol=0)


# PyTorch says so of WavLM's attention under a mask.
@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")
@torch.inference_mode()
@pytest.mark.parametrize(("family", "sizes"), VARIANTS, ids=name_of)
def test_frames_are_the_same_alone_and_in_any_batch(family: str, sizes: dict[str, Any]) -> None:
    network = random_network(family, **sizes)
    model = FrameModel(open_encoder(network.base_model, extractor_of(family)), find_head(network))
    samples = SAMPLES if model.encoder.pads else (24_321,) * 3
    pieces = [cut_whole(model.encoder, waveform) for waveform in waveforms_of(samples)]
    for piece, frames, count in zip(pieces, model.run(pieces), samples, strict=True):
        assert len(frames) == model.encoder.grid.count_frames(count)
        torch.testing.assert_close(frames, model.run([piece])[0], atol=1e-4, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize(("family", "sizes"), VARIANTS, ids=name_of)
def test_shortest_recordings_have_a_frame(family: str, sizes: dict[str, Any]) -> None:
    network = random_network(family, **sizes)
    model = FrameModel(open_encoder(network.base_model, extractor_of(family)), find_head(network))
    for frames in compute_frames(model, waveforms_of((1, 2, 399, 400, 560)), Windows(20, 2)):
        assert frames.shape == (1, LABELS)


@torch.inference_mode()
@pytest.mark.parametrize(("family", "sizes"), VARIANTS, ids=name_of)
def test_windows_follow_one_another(family: str, sizes: dict[str, Any]) -> None:
    """A window's output for a frame is most alike that of the whole for the same frame."""
    network = random_network(family, **sizes)
    model = FrameModel(open_encoder(network.base_model, extractor_of(family)), find_head(network))
    (waveform,) = waveforms_of((70_000,))
    grid, short = model.encoder.grid, Windows(2, 0.5)
    (whole,) = compute_frames(model, [waveform], Windows(20, 2))
    (joined,) = compute_frames(model, [waveform], short)
    assert len(joined) == len(whole) == grid.count_frames(len(waveform))
    for chunk in plan_chunks(grid, len(waveform), short):
        kept = slice(chunk.first_kept, chunk.last_kept)
        # With random weights all frames of a window share something, too.
        windows, frames = (each[kept] - each[kept].mean(dim=0) for each in (joined, whole))
        likeness = torch.nn.functional.cosine_similarity(windows[:, None], frames[None], dim=-1)
        nearest = likeness.argmax(dim=1) == torch.arange(len(frames))
        assert nearest.float().mean() > NEAREST


@torch.inference_mode()
@pytest.mark.parametrize(("family", "sizes"), VARIANTS, ids=name_of)
def test_hidden_states_of_all_layers_are_those_of_transformers(
    family: str, sizes: dict[str, Any]
) -> None:
    network, extractor = random_network(family, **sizes), extractor_of(family)
    (waveform,) = waveforms_of((20_000,))
    asked = extractor(waveform.numpy(), sampling_rate=16_000, return_tensors="pt")
    expected = network.base_model(**asked, output_hidden_states=True).hidden_states
    frames = count_frames(network, asked, add_adapter=False)
    encoder = open_encoder(network.base_model, extractor)
    (found,) = encoder.encode([cut_whole(encoder, waveform, layers=True)], layers=True)
    assert len(found) == len(expected) == encoder.layer_count
    assert found.shape[1] == encoder.layer_grid.count_frames(len(waveform))
    for layer, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(layer, reference[0, :frames], atol=1e-4, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        ("sew", {"squeeze_factor": 2}),
        ("sew-d", {"squeeze_factor": 3}),
        ("wav2vec2", ADAPTER),
        ("wav2vec2-bert", ADAPTER),
        ("wav2vec2-bert", {}),
    ],
    ids=name_of,
)
def test_layers_of_windows_are_those_of_transformers(family: str, sizes: dict[str, Any]) -> None:
    """Of frames that lie elsewhere than those of the output, each window keeps its own."""
    # An encoder changes the network that it is given.
    own, network = (random_network(family, **sizes).base_model for _ in range(2))
    extractor = extractor_of(family)
    model = FrameModel(open_encoder(own, extractor), lambda layers: layers[1], layers=True)
    (waveform,) = waveforms_of((70_000,))
    (found,) = compute_frames(model, [waveform], Windows(2, 0.5))
    asked = extractor(waveform.numpy(), sampling_rate=16_000, return_tensors="pt")
    (values,) = asked.get("input_values", asked.get("input_features"))
    assert found.shape == network(values[None], output_hidden_states=True).hidden_states[1][0].shape
    chunks = plan_chunks(model.grid, len(waveform), Windows(2, 0.5))
    assert len(chunks) > 2
    for chunk in chunks:
        # Features of wav2vec2-bert are a frame each.
        field, stride = (1, 1) if family == "wav2vec2-bert" else model.grid
        stop = len(values) if chunk is chunks[-1] else (chunk.stop - 1) * stride + field
        piece = values[chunk.start * stride : stop]
        seen = network(piece[None], output_hidden_states=True).hidden_states[1][0]
        expected = seen[chunk.first_kept - chunk.start : chunk.last_kept - chunk.start]
        kept = found[chunk.first_kept : chunk.last_kept]
        torch.testing.assert_close(kept, expected, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_full_size_model_says_the_same_in_a_batch() -> None:
    network = Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=LABELS, **GROUP_NORM)).eval()
    waveforms = [torch.randn(samples) for samples in (16_000, 5_000, 24_000)]
    expected = [network(waveform[None]).logits[0] for waveform in waveforms]
    model = as_frame_model(network)
    for frames, alone in zip(model.run(waveforms), expected, strict=True):
        torch.testing.assert_close(frames, alone, atol=1e-4, rtol=0)


def test_grids() -> None:
    encoders = {
        name_of(family) + name_of(sizes): open_encoder(
            random_network(family, **sizes).base_model, extractor_of(family)
        )
        for family, sizes in VARIANTS
    }
    grids = {name: (each.grid, each.layer_grid) for name, each in encoders.items()}
    assert grids["wav2vec2group"] == (FrameGrid(400, 320), FrameGrid(400, 320))
    assert grids["wavlmgroup-True-2-48"] == (FrameGrid(400, 1280), FrameGrid(400, 320))
    assert grids["wav2vec2-bertplain"] == (FrameGrid(560, 320), FrameGrid(560, 320))
    assert grids["wav2vec2-bertTrue-2-48-True"] == (FrameGrid(560, 1280), FrameGrid(560, 320))
    assert grids["sewgroup-2"] == (FrameGrid(400, 320), FrameGrid(720, 640))


def test_other_families_are_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "whisper"}')
    with pytest.raises(ValueError, match=r"expected model_type to be one of .*, got 'whisper'"):
        check_family(tmp_path, AutoModelForCTC)
    (tmp_path / "config.json").write_text('{"model_type": "hubert"}')
    check_family(tmp_path, AutoModelForCTC)
    with pytest.raises(ValueError, match="has AutoModelForAudioXVector, got 'hubert'"):
        check_family(tmp_path, AutoModelForAudioXVector)


def test_each_family_is_tested() -> None:
    assert {family for family, _ in VARIANTS} == set(ENCODERS)


def test_checkpoint_without_its_head_is_no_answer(tmp_path: Path) -> None:
    """Somebody may put an archive together by hand; transformers would make up the head."""
    write_model(tmp_path, AutoModel, "wav2vec2")
    with pytest.raises(ValueError, match=r"fine-tuned for ctc, got one without lm_head\.bias"):
        load_network(AutoModelForCTC, tmp_path, AudioSettings(), CPU)
