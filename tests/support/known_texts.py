"""Text models whose scores can be worked out by hand, and the vocabulary they read."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import BertConfig, PreTrainedTokenizerFast

from speechtext.errors import RequestError
from speechtext.text.base import LoadedModel
from speechtext.text.explanation.targets import Target
from speechtext.text.payloads import Example
from speechtext.text.predictor import TextPredictor
from speechtext.text.settings import TextSettings
from speechtext.text.tasks import find_task
from speechtext.text.windows import find_input_names

CPU = torch.device("cpu")
SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
}
WORDS = ["Ann", "Bob", "works", "lives", "in", "Paris", "who", "where", "a", ".", "?", "good"]
# The four bytes of "🙂", as tokenizers of bytes write them.
EMOJI = ["ð", "Ł", "Ļ", "Ĥ"]
# "Ljubljana" is Lj, ub, lj and ana.
VOCABULARY = [*SPECIAL.values(), *WORDS, "Lj", "##ub", "##lj", "##ana", *EMOJI]
IDS = {piece: index for index, piece in enumerate(VOCABULARY)}
PAIRS = {0: "O", 1: "B-PER", 2: "B-LOC", 3: "I-LOC"}
TEXT = "Ann lives in Ljubljana."
LONG = "Bob works in Ljubljana . Ann lives in Paris . where lives Bob ? " * 2


# How tokenizers frame a text and a pair of texts: BERT's, XLNet's and T5's.
FRAMES = {
    "first": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
    "last": ("$A [SEP] [CLS]", "$A [SEP] $B:1 [SEP]:1 [CLS]:1"),
    "none": ("$A [SEP]", "$A [SEP] $B:1 [SEP]:1"),
}


def make_tokenizer(model: Any, length: int = 512, classifier: str = "first") -> Any:
    """Return a tokenizer that frames texts as BERT's does, or as `FRAMES` has the classifier."""
    backend = Tokenizer(model)
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.TemplateProcessing(
        *FRAMES[classifier], [(name, IDS[name]) for name in ("[CLS]", "[SEP]")]
    )
    special = {
        name: token
        for name, token in SPECIAL.items()
        if name != "cls_token" or classifier != "none"
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        model_max_length=length,
        **special,
    )


def pieces(length: int = 512, classifier: str = "first") -> Any:
    return make_tokenizer(WordPiece(IDS, unk_token="[UNK]"), length, classifier)  # noqa: S106


def make_bert(model_class: Any, spread: float = 0.2, **keys: Any) -> Any:
    """Return a tiny BERT whose weights are drawn from a normal distribution."""
    sizes: dict[str, Any] = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    torch.manual_seed(3)
    model = model_class(BertConfig(**sizes, **keys)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=spread)
    return model


class Table(torch.nn.Module):
    """Gives each token what tables say of its id, shape (tokens, ...), whatever stands beside it.

    Says it of the first word alone, for the whole row, where `first` is true.
    """

    def __init__(self, *tables: torch.Tensor, first: bool = False) -> None:
        super().__init__()
        self.tables, self.first = tables, first

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ids = input_ids[:, 1] if self.first else input_ids
        return tuple(table[ids] for table in self.tables)


def table(scores: Mapping[str, Any], other: Any = 0.0) -> torch.Tensor:
    """Return the scores of each piece of the vocabulary, `other` for those not named."""
    return torch.tensor([scores.get(piece, other) for piece in VOCABULARY], dtype=torch.float32)


def make_predictor(
    mode: str,
    network: Any,
    labels: Mapping[int, str] = PAIRS,
    config: Any = None,
    positions: int = 512,
    tokenizer: Any = None,
    **keys: Any,
) -> TextPredictor:
    tokenizer = tokenizer or pieces()
    names = find_input_names(network, tokenizer)
    loaded = LoadedModel(network, tokenizer, config, labels, CPU, positions, names)
    return TextPredictor(find_task(mode)(loaded, TextSettings(mode=mode, **keys)), None)


def answers(predictor: TextPredictor, *payloads: Any, hub_client: bool = False) -> list[Any]:
    """Return what payloads are answered, which none is refused."""
    form = {"hub_client": True} if hub_client else {}
    found = predictor.answer([predictor.read(each, **form) for each in payloads])
    contents = []
    for each in found:
        assert not isinstance(each, RequestError), each
        contents.append(each.content)
    return contents


def read_to_explain(predictor: TextPredictor, payload: Any) -> Example:
    """Return the example of a request for an explanation."""
    return predictor.read(payload, explain=True)


def targets_of(predictor: TextPredictor, payload: Any) -> list[Target]:
    task = predictor.task
    (found,) = task.find_targets(task.encode([read_to_explain(predictor, payload)]))
    assert not isinstance(found, RequestError), found
    return found


def refused_target(predictor: TextPredictor, payload: Any) -> RequestError:
    task = predictor.task
    (found,) = task.find_targets(task.encode([read_to_explain(predictor, payload)]))
    assert isinstance(found, RequestError), found
    return found


def refusal(predictor: TextPredictor, payload: Any) -> RequestError:
    (found,) = predictor.answer([predictor.read(payload)])
    assert isinstance(found, RequestError), found
    return found


def windows_of(predictor: TextPredictor, payload: Any) -> list[list[int]]:
    """Return the ids of the tokens of each window of a payload."""
    batch = predictor.task.encode([predictor.read(payload)])
    return [window.pick(window.tokens.ids) for window in batch.windows]


def close(value: float) -> Any:
    return pytest.approx(value, rel=1e-4, abs=1e-6)


def alike(expected: Any) -> Any:
    """Return what equals the answer of a pipeline but for rounding of its scores."""
    if isinstance(expected, list):
        return [alike(each) for each in expected]
    score = close(float(expected["score"]))
    return {name: score if name == "score" else value for name, value in expected.items()}


CLASSES = {0: "bad", 1: "good", 2: "fair"}
LOGITS = {"Ann": [0.5, 2.0, 0.0], "Bob": [0.1, -0.5, -1.0], "good": [0.0, -1.0, 0.0]}


def classifier(problem: str | None = None, labels: int = 3) -> TextPredictor:
    """Return a predictor whose logits are those of the text's first word."""
    names = {index: CLASSES[index] for index in range(labels)}
    config: Any = BertConfig()
    config.problem_type, config.num_labels = problem, labels
    logits = table(LOGITS, [0.0] * 3)[:, :labels]
    return make_predictor(
        "sequence_classification",
        Table(logits, first=True),
        names,
        config,
        captum_explanation=True,
    )


QUESTION, CONTEXT = "who ?", "Bob lives in Ljubljana ."
STARTS, ENDS = {"##ub": 3.0, "Bob": 1.0}, {"##lj": 3.0, "in": 1.0}


def ask(question: str = QUESTION, context: str = CONTEXT, **more: Any) -> dict[str, Any]:
    return {"question": question, "context": context, **more}


def ask_pipeline(question: str, context: str, **parameters: Any) -> dict[str, Any]:
    return {"inputs": {"question": question, "context": context}, "parameters": parameters}


def finder(**keys: Any) -> TextPredictor:
    """Return a predictor whose answers begin with "ub" and end with "lj", where there are such."""
    network = Table(table(STARTS), table(ENDS))
    return make_predictor("question_answering", network, {}, captum_explanation=True, **keys)
