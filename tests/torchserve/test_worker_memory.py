"""The garbage collector passes over what a worker has loaded."""

import gc
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.local import load_archive

# A loaded worker has some 400,000 objects.
MANY = 100_000


@pytest.mark.parametrize(
    "name", ["wav2vec2", "emformer_asr", "emformer_asr_live", "bert_seq_classification"]
)
def test_collector_passes_over_what_is_loaded(name: str, unpacked: Callable[[str], Path]) -> None:
    gc.unfreeze()
    model = load_archive(unpacked(name))
    assert gc.get_freeze_count() > MANY
    assert model.handler.initialized
