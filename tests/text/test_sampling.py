"""One continuation: what its next token is drawn from, how it reads, when it ends, what is told."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GPT2Config,
    PreTrainedTokenizerFast,
)

from speechtext.errors import OutOfMemoryError, RequestError
from speechtext.text.sampling import (
    Continuation,
    Ending,
    GeneratedToken,
    GenerationParameters,
    TokenEvent,
)

PIECES = ["</s>", "\u2581a", "\u2581cat", "s", "\u2581sat", ".", "\u2581mat", "\u2581papa"]
END, A, CAT, S, SAT, DOT, MAT, PAPA = range(8)


@cache
def words() -> Any:
    """Return a tokenizer of pieces with their spaces in front, as that of Llama."""
    backend = Tokenizer(
        models.WordLevel({piece: index for index, piece in enumerate(PIECES)}, unk_token="</s>")  # noqa: S106
    )
    backend.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="</s>",  # noqa: S106
        clean_up_tokenization_spaces=False,
    )


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPELLING = ["<unk>", "<s>", "</s>", *BYTES, "\u2581", "\u2581a", "b", "\u2581cat"]
BEGIN, SPACE, SPACE_A, B, SPACE_CAT = 1, 259, 260, 261, 262


@cache
def spelling() -> Any:
    """Return a tokenizer as that of Llama 2, which spells other characters in bytes."""
    pieces = {piece: index for index, piece in enumerate(SPELLING)}
    backend = Tokenizer(models.BPE(pieces, [], unk_token="<unk>", byte_fallback=True))  # noqa: S106
    first_space = decoders.Strip(" ", 1, 0)
    spaces = decoders.Replace("\u2581", " ")
    parts = [spaces, decoders.ByteFallback(), decoders.Fuse(), first_space]
    backend.decoder = decoders.Sequence(parts)
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def spell(text: str) -> list[int]:
    return [SPELLING.index(f"<0x{byte:02X}>") for byte in text.encode()]


@cache
def tidy() -> Any:
    """Return a tokenizer that cleans up the spaces of a text, as those of BERT did."""
    pieces = ["[UNK]", "it", "'", "s", "is", ",", "do", "n", "t", "not"]
    backend = Tokenizer(
        models.WordPiece({each: index for index, each in enumerate(pieces)}, unk_token="[UNK]")  # noqa: S106
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",  # noqa: S106
        clean_up_tokenization_spaces=True,
    )


@cache
def octets() -> Any:
    """Return a tokenizer of which each token is a byte of UTF-8."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({each: index for index, each in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        eos_token="</s>",  # noqa: S106
    )


def begin(
    prompt: Sequence[int] = (A,),
    tokenizer: Any = None,
    end_ids: Sequence[int] = (END,),
    on_token: Any = None,
    **parameters: Any,
) -> Continuation:
    given = GenerationParameters(**parameters)
    return Continuation(prompt, given, tokenizer or words(), end_ids, on_token)


def take_all(row: Continuation, ids: Sequence[int]) -> Continuation:
    """Add tokens, each of which is as probable as a row of logits says."""
    for token_id in ids:
        logits = torch.full((1, len(PIECES)), 0.0)
        logits[0, token_id] = 5.0
        row.weigh(logits)
        row.take(token_id)
    return row


def pieces(row: Continuation) -> list[str]:
    return [token.text for token in row.tokens]


def test_text_is_what_follows_the_prompt() -> None:
    """With the space that the tokenizer writes only behind another token."""
    row = take_all(begin([A]), [CAT, S, SAT])
    assert row.read() == " cats sat"
    assert take_all(begin([]), [CAT, S]).read() == "cats"
    assert row.ids == [CAT, S, SAT]
    assert row.all_ids == [A, CAT, S, SAT]
    assert len(row) == 4
    assert row.finish_reason is None


def test_a_long_prompt_is_no_part_of_the_text() -> None:
    row = take_all(begin([A, CAT, SAT] * 30, details=True), [CAT, S])
    assert row.read() == " cats"
    assert pieces(row) == [" cat", "s"]
    assert len(row) == 92


def test_most_tokens_are_the_prompts_and_all_new_ones() -> None:
    row = begin([A, A, CAT], max_new_tokens=7)
    assert row.most_tokens == 10
    take_all(row, [CAT, S])
    assert (row.most_tokens, len(row)) == (10, 5)


@pytest.mark.parametrize(
    ("parameters", "plain"),
    [
        ({}, True),
        ({"stop": ["x"], "max_new_tokens": 3, "seed": 2}, True),
        ({"temperature": 0.5, "top_k": 3, "top_p": 0.4}, True),
        ({"do_sample": True}, False),
        ({"repetition_penalty": 1.1}, False),
        ({"details": True}, False),
        ({"stream": True}, False),
    ],
)
def test_row_is_plain_where_the_largest_logit_is_all_that_counts(
    parameters: dict[str, Any], plain: bool
) -> None:
    assert begin(**parameters).plain is plain


@pytest.mark.parametrize(
    ("parameters", "ids", "reason", "text"),
    [
        ({}, [CAT, END], "eos_token", " cat"),
        ({"max_new_tokens": 2}, [CAT, END], "eos_token", " cat"),
        ({"max_new_tokens": 2}, [CAT, S], "length", " cats"),
        ({"max_new_tokens": 3}, [CAT, S], None, " cats"),
        ({}, [], None, ""),
        ({"stop": ["cats"]}, [CAT, S], "stop_sequence", " cats"),
        ({"stop": ["cats"], "max_new_tokens": 2}, [CAT, S], "stop_sequence", " cats"),
        ({"stop": ["x", "t"]}, [CAT], "stop_sequence", " cat"),
        ({"stop": ["at", "ca"]}, [CAT], "stop_sequence", " ca"),
        ({"stop": [" c", "at", "zz"]}, [CAT], "stop_sequence", " c"),
        ({"stop": ["pa"]}, [CAT, PAPA], "stop_sequence", " cat pa"),
        ({"stop": ["a cat"]}, [CAT], None, " cat"),
        ({"stop": ["x"]}, [CAT], None, " cat"),
    ],
)
def test_row_ends_for_the_reason_told(
    parameters: dict[str, Any], ids: list[int], reason: str | None, text: str
) -> None:
    """Stop sequences are looked for in the new text alone, and are its end."""
    row = take_all(begin([A], seed=4, **parameters), ids)
    assert row.finish_reason == reason
    assert row.read() == text
    assert row.ending() == Ending(reason, len(ids), 4, 1)


def test_end_of_several_tokens_is_any_of_them() -> None:
    for end in (DOT, END):
        assert take_all(begin(end_ids=[DOT, END]), [CAT, end]).finish_reason == "eos_token"
    assert take_all(begin(end_ids=[]), [END]).finish_reason is None


def test_row_that_has_ended_takes_nothing_more() -> None:
    row = take_all(begin(details=True), [CAT, END, SAT, SAT])
    assert row.ids == [CAT, END]
    assert len(row.tokens) == 2
    row.fail(OutOfMemoryError("OutOfMemory", "Expected less."))
    row.cancel()
    assert (row.finish_reason, row.error) == ("eos_token", None)


def test_row_fails_once() -> None:
    first, second = (RequestError(kind, "Expected less.") for kind in ("First", "Second"))
    row = take_all(begin(), [CAT])
    row.fail(first)
    row.fail(second)
    row.cancel()
    assert (row.finish_reason, row.error) == ("failed", first)
    row.take(CAT)
    assert row.ids == [CAT]


def test_row_that_is_cancelled_has_no_error() -> None:
    row = begin()
    row.cancel()
    assert (row.finish_reason, row.error) == ("cancelled", None)


def test_character_is_told_with_its_last_byte() -> None:
    ids = octets()("a\u00e9 \U0001f642!")["input_ids"]
    row = begin([], octets(), details=True, max_new_tokens=20)
    for token_id in ids:
        row.take(token_id)
    assert pieces(row) == ["a", "", "\u00e9", " ", "", "", "", "\U0001f642", "!"]
    assert [token.id for token in row.tokens] == ids


def test_character_that_is_not_complete_is_told_at_the_end() -> None:
    """As what a tokenizer writes for it, so that the pieces are the text."""
    ids = octets()("b\U0001f642")["input_ids"][:3]
    row = begin([], octets(), details=True, max_new_tokens=3)
    for token_id in ids:
        row.take(token_id)
    assert row.finish_reason == "length"
    assert pieces(row)[:2] == ["b", ""]
    assert "".join(pieces(row)) == row.read() == "b\ufffd"


THAI = "\u0e02\u0e2d\u0e1a\u0e04\u0e38\u0e13"


@pytest.mark.parametrize(
    "prompt",
    [
        # Whose last sixteen tokens begin with each of the bytes of a character.
        *[[BEGIN, *spell(THAI), *[SPACE] * count] for count in range(3)],
        spell("a" + "\U0001f642" * 5),
        # Whose first tokens are cut off, as of one that is too long.
        *[[BEGIN, *spell("\U0001f642" * 3)[start:], SPACE_A] for start in range(4)],
        [],
        [BEGIN],
    ],
)
@pytest.mark.parametrize(
    "added",
    [
        spell("\u0e04\u0e23\u0e31\u0e1a"),
        [*spell("\u65e5b\U0001f642"), SPACE_CAT, *spell("\u672c")],
        [SPACE_A, B, *spell("\xe9"), SPACE_CAT],
    ],
)
def test_characters_in_bytes_are_read_behind_every_prompt(
    prompt: list[int], added: list[int]
) -> None:
    """As the tokenizer reads the whole, which is right of a prompt that nothing was cut off."""
    tokenizer = spelling()
    expected = tokenizer.decode([SPACE, B, *added], skip_special_tokens=True).lstrip()[1:]
    if not tokenizer.decode(prompt, skip_special_tokens=True):
        expected = expected.removeprefix(" ")
    for asked in ({}, {"details": True}, {"stop": ["zz"]}):
        row = begin(prompt, tokenizer, max_new_tokens=len(added), **asked)
        for token_id in added:
            row.take(token_id)
        assert row.read() == expected
        assert "".join(pieces(row)) == (expected if asked == {"details": True} else "")


@pytest.mark.parametrize("cut", [1, 2])
def test_characters_before_one_that_is_not_complete_are_kept(cut: int) -> None:
    """Of a tokenizer that writes none of a row of bytes of which one is wrong."""
    added = [*spell("\u0e04\u0e23\u0e31\u0e1a")[:-cut]]
    for asked in ({}, {"details": True}, {"stop": ["zz"]}):
        row = begin([SPACE_A], spelling(), max_new_tokens=len(added), **asked)
        for token_id in added:
            row.take(token_id)
        # One mark for each byte, as the tokenizer has it.
        assert row.read() == "\u0e04\u0e23\u0e31" + "\ufffd" * (3 - cut)
        assert "".join(pieces(row)) in ("", row.read())


def test_what_was_told_stands_whatever_follows() -> None:
    """A byte that is no character, and one that goes on: the stream is the text."""
    told: list[TokenEvent] = []
    added = [*spell("\u65e5"), SPELLING.index("<0xE6>"), SPACE_CAT, *spell("\u672c")]
    row = begin([SPACE_A], spelling(), on_token=told.append, stream=True, max_new_tokens=8)
    for token_id in added:
        row.take(token_id)
    expected = "\u65e5\ufffd cat\u672c"
    assert row.read() == told[-1].generated_text == expected
    assert "".join(event.token.text for event in told) == expected
    whole = begin([SPACE_A], spelling(), max_new_tokens=8)
    for token_id in added:
        whole.take(token_id)
    assert whole.read() == expected


def test_spaces_are_told_as_they_are_in_a_stream_and_in_the_whole() -> None:
    """Cleaned up, a text would change behind what was told."""
    ids = tidy()("it ' s not, do n ' t")["input_ids"]
    expected = " it ' s not, do n ' t"
    for stream in (False, True):
        row = begin(tidy()("is")["input_ids"], tidy(), max_new_tokens=len(ids), stream=stream)
        for token_id in ids:
            row.take(token_id)
        assert row.read() == expected
        assert "".join(pieces(row)) == (expected if stream else "")


def test_pieces_end_where_the_text_is_stopped() -> None:
    row = take_all(begin(stop=["ca"], details=True), [CAT])
    assert pieces(row) == [" ca"]


@pytest.mark.parametrize("watching", ["details", "stream"])
def test_tokens_are_told_with_what_they_are(watching: str) -> None:
    asked: dict[str, Any] = {watching: True}
    row = begin([A], **asked)
    for chosen in (CAT, END):
        shares = torch.full((1, 7), 0.1)
        shares[0, chosen] = 0.4
        row.weigh(shares.log())
        row.take(chosen)
    # The logarithm of 0.4 to six digits.
    assert row.tokens == [
        GeneratedToken(CAT, " cat", -0.916291, False),
        GeneratedToken(END, "", -0.916291, True),
    ]
    assert row.top_tokens == [[], []]


def test_tokens_of_a_row_that_is_not_watched_are_not_kept() -> None:
    row = take_all(begin(top_n_tokens=2), [CAT, S])
    assert (row.tokens, row.top_tokens) == ([], [])


def test_alternatives_are_the_most_probable_tokens_in_the_place_of_each() -> None:
    row = begin([A], details=True, top_n_tokens=3)
    for chosen in (CAT, S):
        shares = torch.tensor([[0.05, 0.05, 0.05, 0.05, 0.05, 0.15, 0.1]])
        shares[0, chosen] = 0.55
        row.weigh(shares.log())
        row.take(chosen)
    for alternatives, best, text in zip(row.top_tokens, (CAT, S), (" cat", "s"), strict=True):
        assert [each.id for each in alternatives] == [best, DOT, MAT]
        assert [each.text for each in alternatives] == [text, ".", " mat"]
        logarithms = [math.log(share) for share in (0.55, 0.15, 0.1)]
        assert [each.logprob for each in alternatives] == pytest.approx(logarithms, abs=1e-6)
        assert not any(each.special for each in alternatives)


def test_alternatives_begin_a_text_where_there_is_no_prompt() -> None:
    row = begin([], details=True, top_n_tokens=2)
    for _ in range(2):
        row.weigh(torch.tensor([[0.0, 0.0, 4.0, 0.0, 3.0, 0.0, 0.0]]))
        row.take(CAT)
    told = [[each.text for each in alternatives] for alternatives in row.top_tokens]
    assert told == [["cat", "sat"], [" cat", " sat"]]


@pytest.mark.parametrize("tokenizer", [octets, spelling])
def test_alternatives_are_told_as_tokens_are(tokenizer: Any) -> None:
    """Of a character of several tokens, with the last one; the token that is taken among them."""
    spelled = [B, *spell("\u65e5\u672c"), B]
    ids = spelled if tokenizer is spelling else octets()("b\u65e5\u672cb")["input_ids"]
    letter = ids[0]
    row = begin([], tokenizer(), details=True, top_n_tokens=2, max_new_tokens=len(ids))
    for token_id in ids:
        logits = torch.zeros(1, len(tokenizer()))
        logits[0, letter], logits[0, token_id] = 3.0, 5.0
        row.weigh(logits)
        row.take(token_id)
    assert pieces(row) == ["b", "", "", "\u65e5", "", "", "\u672c", "b"]
    assert [tops[0] for tops in row.top_tokens] == row.tokens
    others = [tops[1].text for tops in row.top_tokens[1:-1]]
    assert (others[0], others[3]) == ("b", "b")
    # Behind a character that it would leave without an end.
    assert [text.lstrip("\ufffd") for text in others] == ["b"] * 6


def test_alternatives_that_were_cut_off_are_none() -> None:
    row = begin(details=True, top_n_tokens=5, do_sample=True, top_k=2, seed=1)
    row.weigh(torch.tensor([[0.0, 1.0, 3.0, 0.0, 2.0, 0.0, 0.0]]))
    row.take(CAT)
    probability = 1 / (1 + math.exp(-1))
    assert [each.id for each in row.top_tokens[0]] == [CAT, SAT]
    assert [each.logprob for each in row.top_tokens[0]] == [
        pytest.approx(math.log(probability), abs=2e-6),
        pytest.approx(math.log(1 - probability), abs=2e-6),
    ]


def test_there_are_no_more_alternatives_than_tokens() -> None:
    row = begin([], octets(), details=True, top_n_tokens=5)
    row.weigh(torch.tensor([[1.0, 2.0, 3.0]]))
    row.take(2)
    assert [each.id for each in row.top_tokens[0]] == [2, 1, 0]


def test_events_tell_each_token_and_with_the_last_one_the_end() -> None:
    told: list[TokenEvent] = []
    row = begin([A, CAT], on_token=told.append, stream=True, top_n_tokens=1, seed=6)
    take_all(row, [SAT, DOT, END])
    assert [event.index for event in told] == [1, 2, 3]
    assert [event.token for event in told] == row.tokens
    assert [event.top_tokens for event in told] == row.top_tokens
    assert [event.token.text for event in told] == [" sat", ".", ""]
    assert [event.generated_text for event in told] == [None, None, " sat."]
    assert [event.ending for event in told] == [None, None, Ending("eos_token", 3, 6, 2)]


@pytest.mark.parametrize("parameters", [{"details": True}, {}])
def test_events_are_for_those_that_ask_for_a_stream(parameters: dict[str, Any]) -> None:
    told: list[TokenEvent] = []
    take_all(begin(on_token=told.append, **parameters), [CAT, END])
    assert told == []
    row = take_all(begin(stream=True), [CAT])
    assert pieces(row) == [" cat"]


@cache
def network() -> Any:
    config = GPT2Config(vocab_size=40, n_embd=8, n_layer=1, n_head=1, n_positions=16)
    return AutoModelForCausalLM.from_config(config)


VALUES: dict[str, list[Any]] = {
    "do_sample": [False, True],
    "temperature": [1.0, 0.4, 3.0],
    "top_k": [0, 1, 5],
    "top_p": [1.0, 0.6],
    "repetition_penalty": [1.0, 1.7, 0.8],
}


@pytest.mark.parametrize("values", list(itertools.product(*VALUES.values())))
def test_logits_are_processed_as_transformers_does(values: tuple[Any, ...]) -> None:
    asked = dict(zip(VALUES, values, strict=True))
    config = GenerationConfig(**asked, eos_token_id=None, pad_token_id=None)
    reference = network()._get_logits_processor(config, 3)
    found = GenerationParameters(**asked).processors()
    assert [type(each).__name__ for each in found] == [type(each).__name__ for each in reference]
    torch.manual_seed(1)
    ids, logits = torch.randint(40, (1, 9)), torch.randn(1, 40) * 3
    processed = logits
    for process in found:
        processed = process(ids, processed)
    torch.testing.assert_close(processed, reference(ids, logits.clone()))


def test_penalty_is_for_tokens_of_the_prompt_and_of_what_was_added() -> None:
    row = begin([A, CAT], repetition_penalty=2.0)
    logits = torch.tensor([[3.0, 2.0, -2.0, 4.0, 1.0, 1.0, -1.0]])
    assert row.weigh(logits.clone()).tolist() == [[3.0, 1.0, -4.0, 4.0, 1.0, 1.0, -1.0]]
    row.take(S)
    assert row.weigh(logits.clone()).tolist() == [[3.0, 1.0, -4.0, 2.0, 1.0, 1.0, -1.0]]


def test_without_sampling_the_logits_are_the_weights() -> None:
    logits = torch.randn(1, 7)
    for parameters in ({}, {"temperature": 9.0, "top_k": 1, "seed": 3}, {"details": True}):
        assert torch.equal(begin(**parameters).weigh(logits), logits)


def test_samples_come_as_often_as_they_are_probable() -> None:
    """Of a row's tokens, and of the first ones of many seeds."""
    shares = [0.05, 0.1, 0.4, 0.0, 0.3, 0.15, 0.0]
    logits = torch.tensor([shares]).log()
    count = 3000
    one = begin(do_sample=True, seed=11)
    drawn = [int(one.weigh(logits).argmax()) for _ in range(count)]
    seeds = [int(begin(do_sample=True, seed=seed).weigh(logits).argmax()) for seed in range(count)]
    for found in (Counter(drawn), Counter(seeds)):
        for token_id, share in enumerate(shares):
            deviation = math.sqrt(share * (1 - share) / count)
            assert abs(found[token_id] / count - share) <= 4 * deviation


def test_seed_alone_decides_what_is_drawn() -> None:
    logits = torch.zeros(1, 500)
    drawn: dict[int | None, list[int]] = {}
    for seed in (0, 1, 2**63 - 1, None):
        rows = [begin(do_sample=True, seed=seed) for _ in range(2)]
        first, second = ([int(row.weigh(logits).argmax()) for _ in range(6)] for row in rows)
        torch.manual_seed(7)
        assert first == second
        drawn[seed] = first
    assert len(set(map(tuple, drawn.values()))) == 4
    assert all(len(set(each)) > 3 for each in drawn.values())


def test_log_probability_is_that_of_the_token_drawn() -> None:
    """Not of the most probable one; and of the logits after all that cuts them."""
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    kept = torch.tensor([4.0, 5.0, 6.0]).div(2.0).log_softmax(dim=0)
    found = set()
    for seed in range(12):
        row = begin(do_sample=True, temperature=2.0, top_k=3, details=True, seed=seed, end_ids=[])
        token_id = int(row.weigh(logits).argmax())
        row.take(token_id)
        assert row.tokens[0].logprob == pytest.approx(float(kept[token_id - 4]), abs=1e-6)
        found.add(token_id)
    assert len(found) > 1
