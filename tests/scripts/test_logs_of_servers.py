"""Why a model could not be loaded is told, also where the log has the reason after the failure."""

import threading
from pathlib import Path

from serving.logs import find_failure, log_path

FAILURE = "2026-11-30T00:00:00,000 [ERROR] W-9000-m_1.0 wlm - Load model failed: m, error: 1\n"
REFUSAL = "2026-11-30T00:00:00,000 [INFO ] W-9000-m_1.0-stdout MODEL_LOG - speechtext.errors."
REASON = "model-config.yaml: expected a mapping, got a list."


def write_log(folder: Path, *lines: str) -> None:
    log_path(folder).parent.mkdir(exist_ok=True)
    with log_path(folder).open("a", encoding="utf-8") as log:
        log.writelines(lines)


def test_reason_that_is_logged_after_the_failure_is_told(tmp_path: Path) -> None:
    write_log(tmp_path, FAILURE)
    later = threading.Timer(0.5, write_log, (tmp_path, f"{REFUSAL}LoadError: {REASON}\n"))
    later.start()
    try:
        assert find_failure(tmp_path) == f"m: {REASON}"
    finally:
        later.join()


def test_worker_without_a_reason_is_told_by_its_last_lines(tmp_path: Path) -> None:
    write_log(tmp_path, f"{REFUSAL[:-18]}the last words\n", FAILURE)
    assert find_failure(tmp_path) == "m: its worker could not load it.\n  the last words"


def test_worker_that_took_too_long_is_told_by_the_key_to_change(tmp_path: Path) -> None:
    # As TorchServe 0.12 logged it.
    write_log(
        tmp_path,
        "2026-11-30T15:29:02,707 [ERROR] W-9000-m_1.0 org.pytorch.serve.wlm.WorkerThread - "
        "Backend worker error\n",
        "org.pytorch.serve.wlm.WorkerInitializationException: "
        "Backend worker did not respond in given time\n",
        FAILURE,
    )
    told = find_failure(tmp_path)
    assert told
    assert told.startswith("m: its worker took longer to load than startupTimeout")


def test_log_without_a_failure_tells_none(tmp_path: Path) -> None:
    assert find_failure(tmp_path) is None
    write_log(tmp_path, f"{REFUSAL}LoadError: {REASON}\n")
    assert find_failure(tmp_path) is None
