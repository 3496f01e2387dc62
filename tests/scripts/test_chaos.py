"""What the trials break is broken as it is meant to be."""

from pathlib import Path

from archives.configs import read_configs
from serving.local import load_archive
from trials.chaos import build_variant, use_small_device
from trials.good_traffic import REVIEWS


def test_model_on_a_small_device_answers_in_parts_and_refuses_what_never_fits(
    tmp_path: Path,
) -> None:
    archive = build_variant(read_configs()["bert_seq_classification"], tmp_path, "small")
    use_small_device(archive)
    model = load_archive(archive)
    replies = model.answer([{"body": text} for text in (*REVIEWS, "good food " * 60)])
    assert [reply.status for reply in replies] == [200, 200, 200, 507]
    assert [reply.answer for reply in replies[:3]] == ["Accepted", "Not Accepted", "Accepted"]
