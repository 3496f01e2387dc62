"""The Emformer encoder in linear time: attention over each segment's own window.

torchaudio's `RNNT.transcribe` builds attention over the whole utterance and masks most of it away:
a segment sees itself, the frames of its left context and copies of those of its right context. Here
only that window is computed, from the same weights, for all segments of a batch at once. Keys and
values of the last frames go from one call to the next, so that a recording may come in pieces.

Shi et al. 2021, "Emformer: Efficient Memory Transformer Based Acoustic Model For Low Latency
Streaming Speech Recognition", without its memory bank, as the base model has none.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding, gelu, linear, pad, scaled_dot_product_attention

from speechtext.cpu.int8 import Int8Product

# So many segments share one window of keys: fewer copies of keys, larger matrix products. Measured
# on an Intel Xeon with AMX, full size, 10 s: 1.2 ms a layer instead of 3.7 in float32.
SEGMENTS_PER_WINDOW = 4


class PackedProduct(torch.nn.Module):
    """A linear layer, and the GELU behind it, whose weight a CPU multiplies faster once packed.

    It is `speechtext.cpu.packed.PackedLinear` for TorchScript. A file has the weight as it is.
    """

    weight: Tensor
    bias: Tensor
    packed: Tensor

    def __init__(self, layer: torch.nn.Linear, with_gelu: bool = False) -> None:
        super().__init__()
        self.with_gelu = with_gelu
        self.after = "gelu" if with_gelu else "none"
        self.register_buffer("weight", layer.weight.detach().clone())
        self.register_buffer("bias", layer.bias.detach().clone())
        self.packed = torch.zeros(0)
        self.is_packed = False
        self.in_int8 = Int8Product()

    @torch.jit.export
    def pack(self, rows: int, in_int8: bool = False) -> None:
        """Lay the weight out for products of about so many rows, on this CPU, in its dtype."""
        if self.is_packed or self.in_int8.is_loaded:
            return
        if in_int8:
            self.in_int8.load(self.weight, rows)
        else:
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, rows)
            self.is_packed = True
        self.weight = self.weight[:0].clone()

    def forward(self, rows: Tensor) -> Tensor:
        """Return shape (..., out) for rows of shape (..., in)."""
        if self.in_int8.is_loaded:
            product = self.in_int8(rows).add_(self.bias).to(rows.dtype)
            return gelu(product) if self.with_gelu else product
        if self.is_packed:
            packed: Tensor = torch.ops.mkldnn._linear_pointwise(
                rows, self.packed, self.bias, self.after, [], "none"
            )
            return packed
        product = linear(rows, self.weight, self.bias)
        return gelu(product) if self.with_gelu else product


class FeedForward(torch.nn.Module):
    """The feed-forward block of a layer."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        norm, first, activation, _dropout, second, _dropout = block
        self.norm = norm
        with_gelu = isinstance(activation, torch.nn.GELU) and activation.approximate == "none"
        self.first = PackedProduct(first, with_gelu)
        self.activation = torch.nn.Identity() if with_gelu else activation
        self.second = PackedProduct(second)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return shape (batch, frames, width) for such a shape."""
        made: Tensor = self.second(self.activation(self.first(self.norm(hidden))))
        return made

    @torch.jit.export
    def pack(self, rows: int, in_int8: bool = False) -> None:
        """Pack both weights."""
        self.first.pack(rows, in_int8)
        self.second.pack(rows, in_int8)


class EncoderLayer(torch.nn.Module):
    """One layer of the Emformer."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.heads = int(layer.attention.num_heads)
        self.norm_input = layer.layer_norm_input
        self.query = PackedProduct(layer.attention.emb_to_query)
        self.key_value = PackedProduct(layer.attention.emb_to_key_value)
        self.out = PackedProduct(layer.attention.out_proj)
        self.feed_forward = FeedForward(layer.pos_ff)
        self.norm_output = layer.layer_norm_output

    def forward(
        self, hidden: Tensor, left: Tensor, seen: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the layer's output and its own keys and values, shape (rows, 2 * width).

        `hidden` has shape (batch, frames, width), `left` (2, batch, heads, keys, width / heads),
        with room for all frames behind the left context where each recording has one window.
        `seen`, of shape (batch * windows, keys), tells which keys each window's queries may look
        at. `mask` is 0 where one does, else minus infinity; its shape is (batch * heads, queries,
        keys) where there is one window, else (batch * windows, 1, queries, keys).
        """
        normed = self.norm_input(hidden)
        queries, made = self.query(normed), self.key_value(normed)
        if seen.size(0) == hidden.size(0):
            attended = self._attend_in_place(queries, made, left, mask)
        else:
            attended = self._attend_to_windows(queries, made, left, seen, mask)
        residual = self.out(attended.transpose(1, 2).reshape(hidden.shape)) + hidden
        return self.norm_output(self.feed_forward(residual) + residual), made.flatten(0, 1)

    @torch.jit.export
    def pack(self, rows: int, in_int8: bool = False) -> None:
        """Pack all weights."""
        self.query.pack(rows, in_int8)
        self.key_value.pack(rows, in_int8)
        self.out.pack(rows, in_int8)
        self.feed_forward.pack(rows, in_int8)

    def _attend_in_place(self, queries: Tensor, made: Tensor, left: Tensor, mask: Tensor) -> Tensor:
        """Return what each recording's only window sees, shape (batch, heads, frames, features).

        PyTorch's own attention gains nothing of a second thread for so few queries: 0.6 ms of it
        are 0.3 of its products for 32 recordings.
        """
        batch, frames, _ = queries.shape
        own = made.unflatten(2, (2, self.heads, -1))
        left[:, :, :, -frames:].copy_(own.permute(2, 0, 3, 1, 4))
        keys, values = left.flatten(1, 2).unbind(0)
        split = self._split(queries).flatten(0, 1)
        scale = split.size(2) ** -0.5
        scores = torch.baddbmm(mask, split, keys.transpose(1, 2), alpha=scale)
        attended: Tensor = torch.bmm(scores.softmax(dim=2), values)
        return attended.view(batch, self.heads, frames, -1)

    def _attend_to_windows(
        self, queries: Tensor, made: Tensor, left: Tensor, seen: Tensor, mask: Tensor
    ) -> Tensor:
        """Return what several windows see, shape (batch * windows, heads, queries, features)."""
        context = left.permute(1, 3, 0, 2, 4).flatten(2)
        history = torch.cat([context, made], dim=1).flatten(0, 1)
        keys, values = embedding(seen, history).split(queries.size(2), dim=2)
        queries = queries.view(seen.size(0), -1, queries.size(2))
        return scaled_dot_product_attention(
            self._split(queries), self._split(keys), self._split(values), attn_mask=mask
        )

    def _split(self, states: Tensor) -> Tensor:
        batch, frames, width = states.shape
        return states.view(batch, frames, self.heads, width // self.heads).transpose(1, 2)


class SegmentEncoder(torch.nn.Module):
    """The encoder of an `RNNT`, for pieces of recordings that consist of whole segments.

    Frames and lengths here are those after time reduction, by `stride`. Raises `ValueError` for an
    encoder with a memory bank.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        emformer = encoder.transformer
        if emformer.use_mem:
            raise ValueError("Expected an Emformer without memory: transformer_max_memory_size 0.")
        self.stride = int(encoder.time_reduction.stride)
        self.segment = int(emformer.segment_length)
        self.right = int(emformer.right_context_length)
        self.left = int(emformer.left_context_length)
        self.width = int(emformer.emformer_layers[0].attention.input_dim)
        self.heads = int(emformer.emformer_layers[0].attention.num_heads)
        self.segments_per_window = SEGMENTS_PER_WINDOW
        self.input = encoder.input_linear
        self.layers: Any = torch.nn.ModuleList(map(EncoderLayer, emformer.emformer_layers))
        self.output = PackedProduct(encoder.output_linear)
        self.norm = encoder.layer_norm

    @torch.jit.export
    def start(self) -> Tensor:
        """Return the left context of a recording that begins: keys and values of no frames.

        Its shape is (layers, 2, 1, heads, left frames, width / heads).
        """
        shape = (len(self.layers), 2, 1, self.heads, self.left, self.width // self.heads)
        weight = self.input.weight
        return torch.zeros(shape, dtype=weight.dtype, device=weight.device)

    @torch.jit.export
    def keep(self, left: Tensor, made: Tensor, frames: int, before: int) -> None:
        """Write the last of a recording's new keys and values over the oldest of its left context.

        `made`, of shape (layers, frames, 2 * width), is of `forward`, with the recording's `frames`
        and those `before`. A frame's place is its number modulo that of the places.
        """
        count = min(self.left, frames)
        own = made[:, None, made.size(1) - count :].unflatten(3, (2, self.heads, -1))
        own = own.permute(0, 3, 1, 4, 2, 5)
        done = 0
        while done < count:
            place = (before + frames - count + done) % self.left
            length = min(count - done, self.left - place)
            left.narrow(4, place, length).copy_(own.narrow(4, done, length))
            done += length

    @torch.jit.export
    def pack(self, rows: int, in_int8: bool = False) -> None:
        """Lay the layers' weights out for a CPU that multiplies about so many rows, for good."""
        for layer in self.layers:
            layer.pack(rows, in_int8)
        self.output.pack(rows, in_int8)

    def forward(
        self, features: Tensor, frames: Tensor, left: list[Tensor], before: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return encodings, shape (batch, frames, dimension), float32, and keys and values.

        `features`, of shape (batch, stride * (frames of whole segments + right context), bands),
        are zero behind a row's last. `frames`, of shape (batch,), are each row's own, a multiple of
        the segment's unless the recording ends there; `before` those of the calls before; `left`
        the left context of each row. Encodings behind a row's `frames` mean nothing. Keys and
        values, of shape (layers, batch, frames, 2 * width), are those of each row's last frames,
        for `keep`.
        """
        reduced = self._reduce(features)
        own_frames = reduced.size(1) - self.right
        segments = own_frames // self.segment
        windows = (segments + self.segments_per_window - 1) // self.segments_per_window
        per_window = (segments + windows - 1) // windows
        hidden = self._cut(reduced, frames, windows * per_window)
        seen, visible = self._look(frames, before, windows, per_window)
        mask = self._mask(visible, before, hidden.dtype)
        seen = self._in_flat_batch(seen, self.left + hidden.size(1)).flatten(0, 1)
        kept = self._find_last(frames, own_frames, hidden.size(1))
        made = hidden.new_empty([len(self.layers), kept.size(0), kept.size(1), 2 * self.width])
        kept = kept.flatten()
        context = self._make_room(left, hidden.size(1) if windows == 1 else 0)
        # A CPU reads each of them once, and a GPU would have to be told of each copy.
        parts = [torch.cat(left, dim=2)] if hidden.is_cuda else left
        places = context[:, :, :, : self.left].split([part.size(2) for part in parts], dim=1)
        for index, layer in enumerate(self.layers):
            for place, part in zip(places, parts):  # noqa: B905, TorchScript's zip is not strict
                place.copy_(part[index])
            hidden, own = layer(hidden, context, seen, mask)
            torch.index_select(own, 0, kept, out=made[index].flatten(0, 1))
        hidden = hidden.unflatten(1, (-1, self._slots()))[:, :, self.right :]
        return self.norm(self.output(hidden.flatten(1, 2)[:, :own_frames])).float(), made

    def _find_last(self, frames: Tensor, own_frames: int, row_length: int) -> Tensor:
        """Return where each row's last frames are, at most those of a left context, in the batch.

        A row of fewer has its first one in place of those that are missing.
        """
        last = torch.arange(-min(self.left, own_frames), 0, device=frames.device)
        places = self._place_of((frames[:, None] + last).clamp(min=0))
        return self._in_flat_batch(places, row_length)

    def _make_room(self, left: list[Tensor], room: int) -> Tensor:
        """Return an empty left context of a layer for a batch, with room for frames behind it."""
        _, _, _, heads, _, features = left[0].shape
        return left[0].new_empty([2, len(left), heads, self.left + room, features])

    def _reduce(self, features: Tensor) -> Tensor:
        """Return shape (batch, frames, width): as many frames side by side as are in a stride."""
        batch, frames, _ = features.shape
        projected: Tensor = self.input(features.to(self.input.weight.dtype))
        return projected.reshape(batch, frames // self.stride, self.width)

    def _cut(self, reduced: Tensor, frames: Tensor, segments: int) -> Tensor:
        """Return the segments, copies of its right context in front of each, in one sequence.

        A row's last segment has the frames behind the row's own as its right context, however short
        it is. Shape (batch, segments * (right + segment frames), width).
        """
        batch = reduced.size(0)
        ends = torch.arange(1, segments + 1, device=frames.device) * self.segment
        ends = torch.minimum(ends[None], frames[:, None])
        copied = ends[:, :, None] + torch.arange(self.right, device=frames.device)
        rows = torch.arange(batch, device=frames.device)[:, None, None]
        missing = segments * self.segment + self.right - reduced.size(1)
        own = pad(reduced, (0, 0, 0, missing))[:, : segments * self.segment]
        own = own.unflatten(1, (segments, self.segment))
        return torch.cat([reduced[rows, copied], own], dim=2).flatten(1, 2)

    def _look(
        self, frames: Tensor, before: Tensor, windows: int, per_window: int
    ) -> tuple[Tensor, Tensor]:
        """Return which keys each window sees and which of them each of its queries sees.

        A window's keys are its left context and its segments, each behind its right context, in the
        order in which a layer has them. Shapes (batch, windows, keys) and (batch, windows, queries,
        keys).
        """
        device, batch, slots = frames.device, frames.size(0), self._slots()
        segment = torch.arange(per_window, device=device)
        # Where a key is in its window, a copy where the frame is that it stands before.
        within = torch.arange(slots, device=device).sub(self.right).clamp(min=0)
        own = (self.left + segment[:, None] * self.segment + within).flatten()
        offset = torch.cat([torch.arange(self.left, device=device), own])
        first = torch.arange(windows, device=device)[:, None] * (per_window * self.segment)
        position = first + offset - self.left
        behind = torch.arange(windows * per_window * slots, device=device).view(windows, -1)
        rows = self._row_of(position[:, : self.left], before)
        own_rows = (self.left + behind).expand(batch, windows, behind.size(1))
        rows = torch.cat([rows, own_rows], dim=2)
        start = segment[:, None] * self.segment
        near = (offset >= start) & (offset < start + self.left + self.segment)
        real = (position >= -before[:, None, None]) & (position < frames[:, None, None])
        copied = torch.arange(slots, device=device).repeat(per_window) < self.right
        copied = torch.cat([torch.zeros(self.left, dtype=torch.bool, device=device), copied])
        owner = torch.cat(
            [torch.full((self.left,), -1, device=device), segment.repeat_interleave(slots)]
        )
        visible = torch.where(copied, segment[:, None] == owner, near & real[:, :, None])
        return rows, visible.repeat_interleave(slots, dim=2)

    def _mask(self, visible: Tensor, before: Tensor, dtype: torch.dtype) -> Tensor:
        """Return what a layer adds to its scores; an only window's keys stay in their places."""
        batch, windows, _, keys = visible.shape
        if windows == 1:
            order = torch.arange(keys, device=before.device).repeat(batch, 1)
            order[:, : self.left] = (order[:, : self.left] - before[:, None]) % self.left
            visible = visible.gather(3, order[:, None, None].expand_as(visible))
            visible = visible.expand(-1, self.heads, -1, -1)
        visible = visible.flatten(0, 1)
        mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
        mask = mask.masked_fill(~visible, -float("inf"))
        return mask if windows == 1 else mask[:, None]

    def _slots(self) -> int:
        return self.right + self.segment

    def _place_of(self, position: Tensor) -> Tensor:
        """Return where a frame is among segments, each behind copies of its right context."""
        segment = position.div(self.segment, rounding_mode="floor")
        return segment * self._slots() + self.right + position - segment * self.segment

    def _row_of(self, position: Tensor, before: Tensor) -> Tensor:
        """Return where a frame's keys are: in the left context, or behind it."""
        place = (before[:, None, None] + position) % self.left
        return torch.where(position < 0, place, self.left + self._place_of(position))

    def _in_flat_batch(self, rows: Tensor, row_length: int) -> Tensor:
        offset = torch.arange(rows.size(0), device=rows.device) * row_length
        return rows + offset.view([-1] + [1] * (rows.dim() - 1))
