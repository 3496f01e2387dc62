"""The prediction and joint networks of an RNN-T, for one step at a time."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from speechtext.cpu.int8 import Int8Product

# Rows of a matrix, in which a CPU multiplies without a remainder.
ALIGNED_ROWS = 16


class StepMatrix(torch.nn.Module):
    """A large matrix that is multiplied with a few rows at a time, and added a bias to.

    Reading it is what takes the time, in float32 about as long as for one row if it lies column by
    column in memory, and in bfloat16 if the rows come second. Measured on an Intel Xeon with AMX,
    1024 by 4096 with 8 rows: 1.8 ms as a linear layer, 0.7 ms so, 0.4 ms in bfloat16.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().clone())
        bias = torch.zeros(len(weight)) if bias is None else bias
        self.register_buffer("bias", bias.detach().clone())
        self.in_int8 = Int8Product()

    @torch.jit.export
    def quantize(self) -> None:
        """Multiply in int8 from now on, for good."""
        self.in_int8.load(self.weight, 1)
        self.weight = self.weight[:0].clone()

    @torch.jit.export
    def set_dtype(self, dtype: torch.dtype) -> None:
        """Convert the matrix, and lay it out for this dtype."""
        weight = self.weight.to(dtype)
        self.weight = weight if dtype == torch.bfloat16 else weight.t().contiguous().t()

    def forward(self, rows: Tensor) -> Tensor:
        """Return shape (batch, out), float32, for `rows` of shape (batch, in), float32."""
        if self.in_int8.is_loaded:
            product: Tensor = self.in_int8(rows)
            return product + self.bias
        if self.weight.dtype == torch.bfloat16:
            columns = rows.to(self.weight.dtype).t()
            # One column alone would take another kernel, which is slower.
            products = torch.mm(self.weight, columns.expand(-1, 2) if len(rows) == 1 else columns)
            return products[:, : len(rows)].t().contiguous().float() + self.bias
        return linear(rows.to(self.weight.dtype), self.weight).float() + self.bias


class RecurrentLayer(torch.nn.Module):
    """torchaudio's LSTM with layer norm; `weight` is that of all that its gates depend on."""

    def __init__(self, lstm: Any, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.gates = StepMatrix(weight, bias)
        self.norm_gates = lstm.g_norm
        self.norm_cell = lstm.c_norm

    def forward(self, gates: Tensor, cell: Tensor) -> Tensor:
        """Return the next hidden and cell state, shape (2, batch, hidden)."""
        new, forget, change, out = self.norm_gates(gates).chunk(4, 1)
        cell = self.norm_cell(forget.sigmoid() * cell + new.sigmoid() * change.tanh())
        return torch.stack([out.sigmoid() * cell.tanh(), cell])

    @torch.jit.export
    def set_dtype(self, dtype: torch.dtype) -> None:
        """Convert the matrix."""
        self.gates.set_dtype(dtype)

    @torch.jit.export
    def quantize(self) -> None:
        """Multiply in int8."""
        self.gates.quantize()


class Predictor(torch.nn.Module):
    """The prediction network: from the last token and its own state to a prediction.

    What a token's embedding adds to the gates of the first layer is looked up in a table.
    """

    inputs: Tensor

    def __init__(self, predictor: Any) -> None:
        super().__init__()
        first, *others = predictor.lstm_layers
        with torch.no_grad():
            embedded = predictor.input_layer_norm(predictor.embedding.weight)
            self.register_buffer("inputs", first.x2g(embedded))
        layers = [RecurrentLayer(first, first.p2g.weight, None)]
        for lstm in others:
            weight = torch.cat([lstm.x2g.weight, lstm.p2g.weight], dim=1)
            layers.append(RecurrentLayer(lstm, weight, lstm.x2g.bias))
        self.layers: Any = torch.nn.ModuleList(layers)
        self.width = int(first.hidden_dim)
        self.output = StepMatrix(predictor.linear.weight, predictor.linear.bias)
        self.norm_output = predictor.output_layer_norm

    def start(self, batch: int) -> Tensor:
        """Return the state before the first token, shape (layers, 2, batch, hidden)."""
        return torch.zeros(len(self.layers), 2, batch, self.width, device=self.inputs.device)

    def forward(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return predictions, shape (batch, dimension), and the next state, for tokens (batch,)."""
        hidden = tokens
        states: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            if index == 0:
                gates = self.inputs[tokens] + layer.gates(state[index][0])
            else:
                gates = layer.gates(torch.cat([hidden, state[index][0]], dim=1))
            states.append(layer(gates, state[index][1]))
            hidden = states[-1][0]
        return self.norm_output(self.output(hidden)), torch.stack(states)

    @torch.jit.export
    def set_dtype(self, dtype: torch.dtype) -> None:
        """Convert the matrices; what they are multiplied with stays float32."""
        self.output.set_dtype(dtype)
        for layer in self.layers:
            layer.set_dtype(dtype)

    @torch.jit.export
    def quantize(self) -> None:
        """Multiply in int8."""
        self.output.quantize()
        for layer in self.layers:
            layer.quantize()


class Joiner(torch.nn.Module):
    """The joint network: from encodings and predictions to a distribution over the tokens."""

    def __init__(self, joiner: Any) -> None:
        super().__init__()
        self.activation = joiner.activation
        weight, bias = joiner.linear.weight, joiner.linear.bias
        # Tokens that do not exist have the probability 0.
        missing = -len(weight) % ALIGNED_ROWS
        bias = pad(bias, (0, missing), value=-float("inf"))
        self.output = StepMatrix(pad(weight, (0, 0, 0, missing)), bias)

    def forward(self, encodings: Tensor, predictions: Tensor) -> Tensor:
        """Return log-probabilities, shape (batch, tokens), of two inputs (batch, dimension)."""
        logits: Tensor = self.output(self.activation(encodings + predictions))
        return logits.log_softmax(dim=1)

    @torch.jit.export
    def set_dtype(self, dtype: torch.dtype) -> None:
        """Convert the matrix; the distribution stays float32."""
        self.output.set_dtype(dtype)

    @torch.jit.export
    def quantize(self) -> None:
        """Multiply in int8."""
        self.output.quantize()
