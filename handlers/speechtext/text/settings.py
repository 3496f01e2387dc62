"""The `handler` keys of a text archive's YAML."""

from typing import Literal

from pydantic.dataclasses import dataclass

from speechtext.devices import DtypeName
from speechtext.ranges import (
    Count,
    PositiveCount,
    RepetitionPenalty,
    Temperature,
    TopP,
    WindowTokens,
)
from speechtext.settings import STRICT


@dataclass(frozen=True, config=STRICT)
class TextSettings:
    """How a text archive answers; `text_tasks.TASKS` says which modes there are."""

    model_name: str = ""
    mode: str = "sequence_classification"
    do_lower_case: bool | None = None
    num_labels: int | None = None
    save_mode: Literal["pretrained", "torchscript", "openvino"] = "pretrained"
    dtype: DtypeName = "float32"
    quantization: (
        Literal["int8_dynamic", "int8_static", "int8_weight_only", "int4_weight_only"] | None
    ) = None
    # A file of requests, one a line, that the builder chooses the scales of `int8_static` by.
    calibration: str | None = None
    attn_implementation: str | None = None
    BetterTransformer: bool = False
    model_parallel: bool = False
    threads: int | None = None

    # The longest row of tokens that the model is given, special ones included, and what happens to
    # texts that are longer: those of entities and contexts become several overlapping rows.
    max_length: WindowTokens = 150
    truncation: bool = True
    stride: Count | None = None
    max_batch_tokens: PositiveCount | None = None

    max_answer_len: PositiveCount = 15
    handle_impossible_answer: bool = False

    max_new_tokens: PositiveCount = 50
    max_new_tokens_limit: PositiveCount = 512
    do_sample: bool = True
    temperature: Temperature = 1.0
    top_p: TopP = 0.95
    top_k: Count = 60
    repetition_penalty: RepetitionPenalty = 1.0
    prompt_lookup_num_tokens: PositiveCount | None = None

    captum_explanation: bool = False
    n_steps: PositiveCount = 50
    max_explanation_steps: PositiveCount = 500
    max_explanation_tokens: PositiveCount = 512
    max_explanation_targets: PositiveCount = 20
    embedding_name: str | None = None
