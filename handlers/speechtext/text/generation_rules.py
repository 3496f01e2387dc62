"""What a checkpoint's own generation_config.json asks of each next token."""

import copy
import logging
from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor

from speechtext.text.sampling import GenerationParameters
from speechtext.text.settings import TextSettings

logger = logging.getLogger(__name__)

# What requests and the YAML say, whatever a checkpoint does; the last ones only where it samples.
ASKED = ("do_sample", "repetition_penalty", "temperature", "top_k", "top_p")
SAMPLED = ASKED[2:]
# Keys that need more than the logits of one row, with the values that change nothing.
NOT_FOLLOWED: dict[str, Any] = {
    "dola_layers": None,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1,
    "guidance_scale": 1,
    "max_time": None,
    "num_beam_groups": 1,
    "num_beams": 1,
    "penalty_alpha": 0,
    # A row that is not of numbers is not answered.
    "remove_invalid_values": False,
    "stop_strings": None,
    "token_healing": False,
}


class GenerationRules:
    """The processors of logits that a network's generation_config asks for, of each row its own.

    Raises `ValueError` where those are not for this network; the log names what is not followed.
    """

    def __init__(self, network: Any, settings: TextSettings) -> None:
        self._network = network
        if ignored := find_ignored(network.generation_config, settings):
            logger.warning(
                "generation_config.json: the YAML and requests say how tokens are chosen; not "
                "followed: %s.",
                ", ".join(ignored),
            )
        self._any = bool(self._try())

    def choose(
        self, parameters: GenerationParameters, prompt_tokens: int
    ) -> Sequence[LogitsProcessor]:
        """Return what is done to the logits of each next token of a row, in transformers' order."""
        return self._make(parameters, prompt_tokens) if self._any else parameters.processors()

    def _make(self, parameters: GenerationParameters, prompt_tokens: int) -> list[LogitsProcessor]:
        network = self._network
        config = copy.copy(network.generation_config)
        for name in NOT_FOLLOWED:
            setattr(config, name, None)
        for name in ("bad_words_ids", "sequence_bias"):
            # Empty, they ask for nothing, but transformers refuses them.
            setattr(config, name, getattr(config, name) or None)
        for name in ASKED:
            setattr(config, name, getattr(parameters, name))
        config.max_length = prompt_tokens + parameters.max_new_tokens
        ends = find_ends(config)
        if not ends:
            config.exponential_decay_length_penalty = None
        config._eos_token_tensor = torch.tensor(ends, device=network.device) if ends else None
        return list(network._get_logits_processor(config, prompt_tokens, device=network.device))

    def _try(self) -> list[LogitsProcessor]:
        """Return the processors of a row for which nothing is asked, which run."""
        device, size = self._network.device, self._network.config.get_text_config().vocab_size
        try:
            found = self._make(GenerationParameters(do_sample=True), 1)
            for process in found:
                process(
                    torch.zeros(1, 1, dtype=torch.long, device=device),
                    torch.zeros(1, size, device=device),
                )
        except Exception as error:
            raise ValueError(
                f"generation_config.json: expected rules that fit the model. {error}"
            ) from error
        return found


def find_ends(config: GenerationConfig) -> list[int]:
    """Return the tokens that end a text."""
    end = config.eos_token_id
    return [] if end is None else list(end) if isinstance(end, list) else [end]


def find_ignored(config: GenerationConfig, settings: TextSettings) -> list[str]:
    """Return the keys of a checkpoint that change what is generated and are not followed."""
    ignored = [
        name
        for name, nothing in NOT_FOLLOWED.items()
        if getattr(config, name, None) not in (None, nothing)
    ]
    asked = ASKED if config.do_sample else tuple(name for name in ASKED if name not in SAMPLED)
    return ignored + [
        name for name in asked if getattr(config, name) not in (None, getattr(settings, name))
    ]
