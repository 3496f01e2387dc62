"""The `handler` keys of a text archive's YAML."""

from typing import Annotated, Literal

from pydantic import Field as KeyOptions
from pydantic.dataclasses import dataclass

from speechtext.devices import DtypeName
from speechtext.settings import STRICT


@dataclass(frozen=True, config=STRICT)
class TextSettings:
    """How a text archive answers; `text_tasks.TASKS` says which modes there are."""

    model_name: str = ""
    mode: str = "sequence_classification"
    do_lower_case: bool | None = None
    num_labels: int | None = None
    save_mode: Literal["pretrained", "torchscript"] = "pretrained"
    dtype: DtypeName = "float32"
    quantization: Literal["int8_dynamic"] | None = None
    attn_implementation: str | None = None
    BetterTransformer: bool = False
    model_parallel: bool = False
    threads: int | None = None

    # The longest row of tokens that the model is given, special ones included, and what happens to
    # texts that are longer: those of entities and contexts become several overlapping rows.
    max_length: Annotated[int, KeyOptions(ge=8)] = 150
    truncation: bool = True
    stride: Annotated[int, KeyOptions(ge=0)] | None = None
    max_batch_tokens: Annotated[int, KeyOptions(ge=1)] | None = None

    max_answer_len: Annotated[int, KeyOptions(ge=1)] = 15
    handle_impossible_answer: bool = False

    max_new_tokens: Annotated[int, KeyOptions(ge=1)] = 50
    max_new_tokens_limit: Annotated[int, KeyOptions(ge=1)] = 512
    do_sample: bool = True
    temperature: Annotated[float, KeyOptions(gt=0)] = 1.0
    top_p: Annotated[float, KeyOptions(gt=0, le=1)] = 0.95
    top_k: Annotated[int, KeyOptions(ge=0)] = 60
    repetition_penalty: Annotated[float, KeyOptions(gt=0)] = 1.0

    captum_explanation: bool = False
    n_steps: Annotated[int, KeyOptions(ge=1)] = 50
    max_explanation_steps: Annotated[int, KeyOptions(ge=1)] = 500
    max_explanation_tokens: Annotated[int, KeyOptions(ge=1)] = 512
    max_explanation_targets: Annotated[int, KeyOptions(ge=1)] = 20
    embedding_name: str | None = None
