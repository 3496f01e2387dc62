"""Prompts that are continued together, each to its own end; others may join at any token.

Continuous batching: Yu et al. 2022, "Orca: A Distributed Serving System for Transformer-Based
Generative Models".
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.nn.functional import pad
from transformers.generation.utils import ALL_CACHE_NAMES

from speechtext.allowance import check_time
from speechtext.batching import plan_groups
from speechtext.devices import free_memory
from speechtext.errors import DeadlineError
from speechtext.failures import as_request_error
from speechtext.finite import find_finite, not_finite
from speechtext.measurements import note_padding, stage
from speechtext.text.key_value_cache import has_rows, make_cache
from speechtext.text.prompt_lookup import PromptLookup
from speechtext.text.sampling import Continuation
from speechtext.text.windows import pad_rows

# Tokens of prompts and of their continuations that are in memory together, at most, and what a call
# costs beside them, counted in tokens: it has a step for each new one.
MOST_TOKENS, CALL_TOKENS = 32_768, 4096


class Decoder:
    """Adds a token at a time to each of the rows that are open; to one alone, several.

    A row is added to the others' cache when it comes, and removed when it ends; where a network's
    cache has no rows, those that come together stay by themselves. A failure is that of the rows
    that have it alone. With `guessed_tokens`, so many that follow may be guessed and read at once.
    Where the network `pads` none, each row stays by itself; where it `takes_turns` with none, each
    comes to its end before the next begins. Raises `ValueError` for a network without a cache.
    """

    def __init__(
        self,
        network: Any,
        pad_id: int,
        most_tokens: int | None = None,
        guessed_tokens: int | None = None,
        pads: bool = True,
        takes_turns: bool = True,
    ) -> None:
        _check_cache(network)
        self._network = network
        self._pad_id = pad_id
        self._guessed_tokens = guessed_tokens or 0
        self._most_tokens = most_tokens or MOST_TOKENS
        # In a group of its own, as it would be without padding.
        self._pads = pads and takes_turns
        self._takes_turns = takes_turns
        self._waiting: list[Continuation] = []
        self._groups: list[_Group] = []

    @property
    def rows(self) -> list[Continuation]:
        """Return the rows that have no end yet."""
        return [row for group in self._groups for row in group.open_rows] + self._waiting

    def add(self, rows: Sequence[Continuation]) -> None:
        """Continue further rows from the next step on, as soon as there is memory for them."""
        self._waiting += rows

    def run(self) -> None:
        """Continue all rows to their ends; raises `DeadlineError`."""
        while self.rows:
            check_time()
            self.step()

    @torch.inference_mode()
    def step(self) -> None:
        """Add a token to each row."""
        self._begin_waiting()
        for group in list(self._groups):
            self._try(group)
        self._tidy()

    def remove(self, row: Continuation) -> None:
        """Forget a row that nobody waits for any more."""
        row.cancel()
        self._waiting = [each for each in self._waiting if each is not row]
        self._tidy()

    def _begin_waiting(self) -> None:
        """Begin rows that wait, in their order, while there is room for them."""
        if not self._waiting or (self._groups and not self._takes_turns):
            return
        open_ = [row.most_tokens for group in self._groups for row in group.open_rows]
        count = 0
        for row in self._waiting:
            open_.append(row.most_tokens)
            if len(open_) > 1 and not self._has_room(open_):
                break
            count += 1
        rows, self._waiting = self._waiting[:count], self._waiting[count:]
        # Each alone, where there is room for none beside it.
        most_tokens = self._most_tokens if self._pads else 0
        for group in plan_groups([len(row) for row in rows], most_tokens, CALL_TOKENS):
            chosen = [rows[index] for index in group]
            self._groups.append(self._make_group(chosen, apart=not self._pads))

    def _has_room(self, most_tokens: Sequence[int]) -> bool:
        """Tell whether several rows may be open, of which each may have so many tokens."""
        total = len(most_tokens) * max(most_tokens)
        return self._takes_turns and total <= self._most_tokens

    def _try(self, group: "_Group") -> None:
        try:
            group.step()
            return
        except DeadlineError:
            raise
        except Exception as error:
            if len(group.rows) == 1:
                group.rows[0].fail(as_request_error(error))
                return
        # Outside the except block: the traceback would keep the failed step's tensors alive.
        for each in self._split(group):
            self._try(each)

    def _split(self, group: "_Group") -> list["_Group"]:
        """Replace a group by one for each of its rows, which begins again; return those."""
        place = self._groups.index(group)
        alone = [self._make_group([row], apart=True) for row in group.open_rows]
        self._groups[place : place + 1] = alone
        # Whoever called still has the group: its cache is what each row alone needs the room of.
        group.forget()
        free_memory()
        return alone

    def _make_group(self, rows: Sequence[Continuation], apart: bool = False) -> "_Group":
        return _Group(self._network, rows, self._pad_id, self._guessed_tokens, apart)

    def _tidy(self) -> None:
        """Remove what has ended, and join what can be."""
        self._groups = [each for each in self._groups if each.open_rows]
        for group in list(self._groups):
            self._attempt(group.remove_ended, group)
        for group in list(self._groups):
            first = next(each for each in self._groups if each is group or each.joins(group))
            if first is not group and self._attempt(partial(first.join, group), first, group):
                self._groups.remove(group)

    def _attempt(self, change: Callable[[], None], *groups: "_Group") -> bool:
        """Change groups; where that fails, their caches are lost, and each row goes on alone."""
        try:
            change()
            return True
        except Exception as error:
            # For the log: what is not about memory is nobody's mistake but ours.
            as_request_error(error)
        for group in groups:
            self._split(group)
        return False


class _Group:
    """Rows that go through the network together; `apart` from all others, which never join."""

    def __init__(
        self,
        network: Any,
        rows: Sequence[Continuation],
        pad_id: int,
        guessed_tokens: int,
        apart: bool,
    ) -> None:
        self.rows = list(rows)
        self._network = network
        self._pad_id = pad_id
        self._guessed_tokens = guessed_tokens
        self._lookup = PromptLookup(guessed_tokens)
        self._apart = apart
        self._begun = False
        self._ids = torch.zeros(len(rows), 0, dtype=torch.long)
        # Tensors of the shape (rows, tokens), and the cache.
        self._state: dict[str, Any] = {}

    @property
    def open_rows(self) -> list[Continuation]:
        """Return the rows that have no end yet."""
        return [row for row in self.rows if row.finish_reason is None]

    def step(self) -> None:
        """Add a token to each row; to a row alone, also those that were guessed and are right."""
        if not self._begun:
            self._read_prompts()
        guess = self._guess()
        with stage("model"):
            output = self._run(guess)
            logits = output.logits[:, -1 - len(guess) :].float()
            right, taken = 0, self._take(logits[:, 0])
            while taken == guess[right : right + 1]:
                right += 1
                taken = self._take(logits[:, right])
        self._lookup.note(len(guess), right)
        self._keep(output, 1 + right, len(guess) - right)
        self._ids = torch.tensor([[token_id or 0] for token_id in taken], device=self._ids.device)

    def _read_prompts(self) -> None:
        prompts = [row.all_ids for row in self.rows]
        self._ids = pad_rows(prompts, self._pad_id, "left").to(self._network.device)
        mask = pad_rows([[1] * len(each) for each in prompts], 0, "left")
        self._state = _begin(self._network, mask)
        note_padding(mask.numel(), int(mask.sum()))

    def _guess(self) -> list[int]:
        """Return what the only row may go on with, nothing where there are others."""
        if not self._guessed_tokens or len(self.rows) > 1 or not self._begun or not self._has_rows:
            return []
        (row,) = self.rows
        return self._lookup.guess(row.all_ids, row.most_tokens - len(row) - 1)

    def _run(self, guess: Sequence[int]) -> Any:
        """Return what the network says of the next tokens, and of those behind each guess."""
        network, state, count = self._network, dict(self._state), len(guess)
        if guess:
            state = network._update_model_kwargs_for_generation({}, state, num_new_tokens=count)
        if "logits_to_keep" in state:
            state["logits_to_keep"] = 1 + count
        ids = torch.cat([self._ids, self._ids.new_tensor([guess])], dim=1) if guess else self._ids
        inputs = network.prepare_inputs_for_generation(
            ids,
            next_sequence_length=1 + count if self._begun else None,
            is_first_iteration=not self._begun,
            **state,
        )
        output = network(**inputs, return_dict=True)
        self._begun = True
        return output

    def _keep(self, output: Any, tokens: int, wrong: int) -> None:
        """Remember that the network has read so many tokens; forget the guesses behind them."""
        network = self._network
        self._state = network._update_model_kwargs_for_generation(
            output, self._state, num_new_tokens=tokens
        )
        if wrong:
            self._state["past_key_values"].crop(-wrong)

    def _take(self, logits: torch.Tensor) -> list[int | None]:
        """Give each row its next token, by logits of the shape (rows, vocabulary); return them."""
        chosen = choose_tokens(self.rows, logits)
        for row, token_id in zip(self.rows, chosen, strict=True):
            if token_id is None:
                row.fail(as_request_error(not_finite()))
            else:
                row.take(token_id)
        return chosen

    def forget(self) -> None:
        """Drop ids and cache; a group of which the rows go on elsewhere."""
        self._state, self._ids = {}, self._ids[:0]

    def joins(self, other: "_Group") -> bool:
        """Tell whether the rows of another group can be added."""
        groups = (self, other)
        return all(each._begun and not each._apart and each._has_rows for each in groups)

    @property
    def _has_rows(self) -> bool:
        return has_rows(self._state.get("past_key_values"))

    def join(self, other: "_Group") -> None:
        """Add the rows of another group."""
        for name in self._tensors:
            self._state[name] = _join_rows(self._state[name], other._state[name])
        self._state["past_key_values"].add_rows(other._state["past_key_values"])
        self._ids = torch.cat([self._ids, other._ids])
        self.rows += other.rows
        # Nothing is known yet of a text that stays by itself.
        self._lookup = PromptLookup(self._guessed_tokens)

    def remove_ended(self) -> None:
        """Forget the rows that have ended, where the cache has rows, and padding that all have."""
        kept = [index for index, row in enumerate(self.rows) if row.finish_reason is None]
        if len(kept) == len(self.rows) or not (self._begun and self._has_rows):
            return
        mask = self._state["attention_mask"]
        first = mask.shape[1] - int(mask[kept].sum(dim=1).max())
        for name in self._tensors:
            self._state[name] = self._state[name][kept, first:]
        self._state["past_key_values"].keep_rows(kept, first)
        self._ids = self._ids[kept]
        self.rows = [self.rows[index] for index in kept]

    @property
    def _tensors(self) -> list[str]:
        return [name for name, value in self._state.items() if isinstance(value, torch.Tensor)]


def choose_tokens(rows: Sequence[Continuation], logits: torch.Tensor) -> list[int | None]:
    """Return the next token of each row, None where the logits, (rows, vocabulary), are none."""
    finite = find_finite(logits)
    weights = logits
    if not all(row.plain for row in rows):
        weights = logits.clone()
        for index, row in enumerate(rows):
            if not row.plain and row.finish_reason is None:
                weights[index] = row.weigh(logits[index : index + 1])[0]
    # In one copy: a GPU is waited for once a step.
    chosen = torch.stack([_find_largest(weights), finite.long()], dim=1).tolist()
    return [token_id if is_finite else None for token_id, is_finite in chosen]


def _find_largest(weights: torch.Tensor) -> torch.Tensor:
    """Return where each row, shape (rows, vocabulary), has its largest number, shape (rows,)."""
    if weights.device.type != "cpu":
        return weights.argmax(dim=-1)
    # NumPy's takes a tenth of PyTorch's time on a CPU.
    return torch.from_numpy(weights.numpy().argmax(axis=-1))


def _find_inputs(network: Any) -> set[str]:
    """Return the names of what a network is given."""
    # One that is compiled passes on whatever it is given, under any name.
    return {*inspect.signature(getattr(network, "_orig_mod", network).forward).parameters}


def _check_cache(network: Any) -> None:
    """Raise `ValueError` for a network that would read a whole text again for each new token."""
    if _find_inputs(network).isdisjoint(ALL_CACHE_NAMES):
        kind = getattr(getattr(network, "config", None), "model_type", "another")
        raise ValueError(
            "config.json: expected a model with a cache of what it has read (past_key_values), "
            f"got {kind}."
        )


def _begin(network: Any, attention_mask: torch.Tensor) -> dict[str, Any]:
    """Return what a network is given beside ids, as transformers' `generate` begins it."""
    mask = attention_mask.to(network.device)
    state: dict[str, Any] = {"attention_mask": mask, "use_cache": True}
    taken = _find_inputs(network)
    if "position_ids" in taken:
        state["position_ids"] = network._prepare_position_ids_for_generation(mask, state)
    if "logits_to_keep" in taken:
        state["logits_to_keep"] = 1
    cache = make_cache(network)
    if cache is not None:
        # Recurrent networks have another name for it.
        state["past_key_values" if "past_key_values" in taken else "cache_params"] = cache
    return state


def _join_rows(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the rows of both, shape (rows, tokens), the shorter ones with zeros in front."""
    width = max(one.shape[1], other.shape[1])
    return torch.cat([pad(each, (width - each.shape[1], 0)) for each in (one, other)])
