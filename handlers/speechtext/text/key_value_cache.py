"""What a network of transformers remembers of the rows that it continues, as rows come and go."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

# Positions that there is room for beside those in use, and their share of those.
LEAST_ROOM, ROOM_SHARE = 64, 4


class RoomyLayer(DynamicLayer):
    """The keys and values of a layer, in tensors with room for those of further tokens.

    transformers' own layer copies all of them for each token. Both have the shape
    (rows, heads, positions, features).
    """

    _rooms: list[torch.Tensor]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add those of new tokens; return all."""
        new = (key_states, value_states)
        if not self.is_initialized:
            self.lazy_initialization(*new)
            return self._put(*new)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if end > self._rooms[0].shape[-2]:
            positions = end + max(LEAST_ROOM, end // ROOM_SHARE)
            self._rooms = [_make_room(each, start, positions) for each in self._rooms]
        for room, states in zip(self._rooms, new, strict=True):
            room[..., start:end, :] = states
        self.keys, self.values = (room[..., :end, :] for room in self._rooms)
        return self.keys, self.values

    def add_rows(self, other: "RoomyLayer", width: int) -> None:
        """Take the rows of another layer; the first of `width` positions are padding."""
        pairs = zip(self._used(), other._used(), strict=True)
        self._put(*(torch.cat([_pad_front(each, width) for each in pair]) for pair in pairs))

    def keep_rows(self, kept: Sequence[int], first: int) -> None:
        """Forget all rows but those, and the positions before `first`."""
        self._put(*(each[kept, :, first:] for each in self._used()))

    def _used(self) -> list[torch.Tensor]:
        return [room[..., : self.get_seq_length(), :] for room in self._rooms]

    def _put(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self._rooms = [keys, values]
        self.keys, self.values = keys, values
        return keys, values


class RoomyCache(DynamicCache):
    """The layers of a network, of rows that come and go where each layer has a place for those."""

    def __init__(self, config: Any) -> None:
        super().__init__(config=config)
        own: Any = RoomyLayer
        self.layers = [own() if type(each) is DynamicLayer else each for each in self.layers]

    @property
    def has_rows(self) -> bool:
        """Tell whether rows can be added and removed.

        Layers of sliding windows and recurrent ones have no place for each position.
        """
        return bool(self.layers) and all(isinstance(each, RoomyLayer) for each in self.layers)

    def add_rows(self, other: "RoomyCache") -> None:
        """Take the rows of another cache; what is shorter gets padding in front."""
        width = max(cache.get_seq_length() for cache in (self, other))
        layers: Any = zip(self.layers, other.layers, strict=True)
        for mine, others in layers:
            mine.add_rows(others, width)

    def keep_rows(self, kept: Sequence[int], first: int) -> None:
        """Forget all rows but those, and the positions before `first`."""
        layers: Any = self.layers
        for layer in layers:
            layer.keep_rows(kept, first)


def make_cache(network: Any) -> Any:
    """Return an empty cache for a network, None for one that brings a kind of its own."""
    if hasattr(network, "make_cache"):
        return network.make_cache()
    if not network._supports_default_dynamic_cache():
        return None
    return RoomyCache(network.config.get_text_config(decoder=True))


def has_rows(cache: Any) -> bool:
    """Tell whether rows can be added to a cache, and removed from it."""
    return bool(getattr(cache, "has_rows", False))


def _make_room(given: torch.Tensor, used: int, positions: int) -> torch.Tensor:
    """Return a tensor of so many positions, of which the first are those in use."""
    rows, heads, _, features = given.shape
    room = given.new_empty(rows, heads, positions, features)
    room[..., :used, :] = given[..., :used, :]
    return room


def _pad_front(given: torch.Tensor, width: int) -> torch.Tensor:
    return pad(given, (0, 0, width - given.shape[-2], 0))
