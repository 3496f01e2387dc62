"""Names that sources and archives share."""

WEIGHTS_FILE = "model.safetensors"
SCRIPTED_FILE = "model.pt"
# The source of models that torchaudio itself offers.
TORCHAUDIO = "torchaudio"
# The labels of facebook/wav2vec2-base-960h, in its order.
BASE_960H_LABELS = ("<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")
