"""Names that sources and archives share."""

WEIGHTS_FILE = "model.safetensors"
SCRIPTED_FILE = "model.pt"
# The source of models that torchaudio itself offers.
TORCHAUDIO = "torchaudio"
