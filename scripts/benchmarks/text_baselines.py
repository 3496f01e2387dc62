"""The text tasks the way that the common example goes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from captum.attr import LayerIntegratedGradients
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

# What the common example pads each text to.
PADDED_LENGTH = 150


def _pad_all(tokenizer: Any, texts: list[str]) -> Any:
    length = {"padding": "max_length", "max_length": PADDED_LENGTH, "truncation": True}
    return tokenizer(texts, return_tensors="pt", **length)


def straightforward_classifier(folder: Path) -> Callable[[list[str]], list[int]]:
    """Return the way that the common example goes: every text padded, float32, one batch."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder).eval()

    def classify(texts: list[str]) -> list[int]:
        inputs = _pad_all(tokenizer, texts)
        with torch.no_grad():
            logits = model(inputs["input_ids"], inputs["attention_mask"]).logits
        labels: list[int] = logits.argmax(dim=1).tolist()
        return labels

    return classify


def straightforward_generator(folder: Path, new_tokens: int) -> Callable[[list[str]], list[str]]:
    """Return the way that the common example goes: prompts padded to one length, and no mask."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()

    def generate(prompts: list[str]) -> list[str]:
        inputs = _pad_all(tokenizer, prompts)
        made = model.generate(
            inputs["input_ids"],
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
        )
        texts: list[str] = tokenizer.batch_decode(made, skip_special_tokens=True)
        return texts

    return generate


def straightforward_explainer(folder: Path, steps: int) -> Callable[[str], torch.Tensor]:
    """Return the way that the common example goes: Captum as its tutorial calls it, in float32."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder).eval()

    def explain(text: str) -> torch.Tensor:
        inputs = tokenizer(text, return_tensors="pt", return_special_tokens_mask=True)
        ids, special = inputs["input_ids"], inputs["special_tokens_mask"].bool()
        baseline = torch.where(special, ids, tokenizer.pad_token_id)
        mask = inputs["attention_mask"]
        with torch.no_grad():
            target = int(model(ids, mask).logits.argmax())
        method = LayerIntegratedGradients(
            lambda rows, mask: model(rows, mask).logits, model.get_input_embeddings()
        )
        found = method.attribute(
            ids, baseline, target=target, additional_forward_args=(mask,), n_steps=steps
        )
        return torch.as_tensor(found).detach().sum(dim=-1)[0]

    return explain
