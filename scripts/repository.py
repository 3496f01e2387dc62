"""Where the repository keeps what its commands work on."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
HANDLER_FOLDER = ROOT / "handlers"
CONFIG_FOLDER = ROOT / "model_configs"
MODEL_STORE = ROOT / "model_store"
SERVER_FOLDER = ROOT / ".build" / "server"
