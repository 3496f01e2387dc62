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
            product = (self.in_int8(rows) + self.bias).to(rows.dtype)
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
        """Return the layer's output and all keys and values: those of `left`, then its own.

        `hidden` has shape (batch, frames, width), `left` (batch, left frames, 2 * width). `seen`,
        of shape (batch * windows, keys), tells which rows of the keys and values each window's
        queries may look at: all of its recording where there is one window. `mask`, of shape
        (batch * windows, 1, queries, keys), is 0 where one does, else minus infinity.
        """
        width = hidden.size(2)
        normed = self.norm_input(hidden)
        history = torch.cat([left, self.key_value(normed)], dim=1)
        one_window = seen.size(0) == hidden.size(0)
        looked_at = history if one_window else embedding(seen, history.flatten(0, 1))
        keys, values = looked_at.split(width, dim=2)
        queries = self.query(normed).view(seen.size(0), -1, width)
        attended = scaled_dot_product_attention(
            self._split(queries), self._split(keys), self._split(values), attn_mask=mask
        )
        residual = self.out(attended.transpose(1, 2).reshape(hidden.shape)) + hidden
        return self.norm_output(self.feed_forward(residual) + residual), history.flatten(0, 1)

    @torch.jit.export
    def pack(self, rows: int, in_int8: bool = False) -> None:
        """Pack all weights."""
        self.query.pack(rows, in_int8)
        self.key_value.pack(rows, in_int8)
        self.out.pack(rows, in_int8)
        self.feed_forward.pack(rows, in_int8)

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
        self.segments_per_window = SEGMENTS_PER_WINDOW
        self.input = encoder.input_linear
        self.layers: Any = torch.nn.ModuleList(map(EncoderLayer, emformer.emformer_layers))
        self.output = PackedProduct(encoder.output_linear)
        self.norm = encoder.layer_norm

    @torch.jit.export
    def start(self, batch: int) -> Tensor:
        """Return the left context of recordings that begin, for `forward`."""
        shape = (len(self.layers), batch, self.left, 2 * self.width)
        weight = self.input.weight
        return torch.zeros(shape, dtype=weight.dtype, device=weight.device)

    @torch.jit.export
    def pack(self, rows: int, in_int8: bool = False) -> None:
        """Lay the layers' weights out for a CPU that multiplies about so many rows, for good."""
        for layer in self.layers:
            layer.pack(rows, in_int8)
        self.output.pack(rows, in_int8)

    def forward(
        self, features: Tensor, frames: Tensor, left: Tensor, before: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return encodings, shape (batch, frames, dimension), float32, and the next left context.

        `features`, of shape (batch, stride * (frames of whole segments + right context), bands),
        are zero behind a row's last. `frames`, of shape (batch,), are each row's own, a multiple of
        the segment's unless the recording ends there; `before` those of the calls before; `left` is
        of `start` or of the call before. Encodings behind a row's `frames` mean nothing.
        """
        reduced = self._reduce(features)
        own_frames = reduced.size(1) - self.right
        segments = own_frames // self.segment
        windows = (segments + self.segments_per_window - 1) // self.segments_per_window
        per_window = (segments + windows - 1) // windows
        hidden = self._cut(reduced, frames, windows * per_window)
        seen, visible = self._look(frames, before, windows, per_window)
        seen = self._in_flat_batch(seen, hidden.size(1))
        mask = torch.zeros(visible.shape, dtype=hidden.dtype, device=hidden.device)
        mask = mask.masked_fill(~visible, -float("inf")).flatten(0, 1)[:, None]
        kept = frames[:, None] + torch.arange(-self.left, 0, device=frames.device)
        kept = self._in_flat_batch(self._row_of(kept), hidden.size(1))
        kept = kept.flatten()
        next_left = torch.empty_like(left)
        for index, layer in enumerate(self.layers):
            hidden, history = layer(hidden, left[index], seen.flatten(0, 1), mask)
            torch.index_select(history, 0, kept, out=next_left[index].flatten(0, 1))
        hidden = hidden.unflatten(1, (-1, self.right + self.segment))[:, :, self.right :]
        own = hidden.flatten(1, 2)[:, :own_frames]
        return self.norm(self.output(own)).float(), next_left

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
        rows = torch.cat([self._row_of(position[:, : self.left]), self.left + behind], dim=1)
        start = segment[:, None] * self.segment
        near = (offset >= start) & (offset < start + self.left + self.segment)
        real = (position >= -before[:, None, None]) & (position < frames[:, None, None])
        copied = torch.arange(slots, device=device).repeat(per_window) < self.right
        copied = torch.cat([torch.zeros(self.left, dtype=torch.bool, device=device), copied])
        owner = torch.cat(
            [torch.full((self.left,), -1, device=device), segment.repeat_interleave(slots)]
        )
        visible = torch.where(copied, segment[:, None] == owner, near & real[:, :, None])
        return rows.expand(batch, windows, rows.size(1)), visible.repeat_interleave(slots, dim=2)

    def _slots(self) -> int:
        return self.right + self.segment

    def _row_of(self, position: Tensor) -> Tensor:
        """Return where a frame's keys are: in the left context, or in a segment, behind copies."""
        segment = position.div(self.segment, rounding_mode="floor")
        own = segment * self._slots() + self.right + position - segment * self.segment
        return self.left + torch.where(position < 0, position, own)

    def _in_flat_batch(self, rows: Tensor, frames: int) -> Tensor:
        offset = torch.arange(rows.size(0), device=rows.device) * (self.left + frames)
        return rows + offset.view([-1] + [1] * (rows.dim() - 1))
