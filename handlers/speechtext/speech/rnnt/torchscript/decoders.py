"""RNN-T decoding of whole batches, piece by piece: greedy and beam search.

Graves 2012, "Sequence Transduction with Recurrent Neural Networks".
"""

import torch
import torchaudio
from torch import Tensor

from speechtext.speech.rnnt.torchscript.beams import BeamSearch
from speechtext.speech.rnnt.torchscript.greedy_rows import GreedyRow, unfinished
from speechtext.speech.rnnt.torchscript.hypotheses import Hypotheses
from speechtext.speech.rnnt.torchscript.networks import Joiner, Predictor

# Frames that greedy decoding looks at while it expects blanks: the joint network's matrix is read
# once for all of them. More rows than these take longer on a CPU.
MOST_FRAMES_AHEAD = 8
MOST_ROWS_AHEAD = 32
# After so many frames, beam search forgets the prefixes that it no longer follows.
FRAMES_PER_SEARCH = 64


class Decoder(torch.nn.Module):
    """Predictor, joiner and the two ways to search with them."""

    def __init__(self, model: torchaudio.models.RNNT) -> None:
        super().__init__()
        self.predictor = Predictor(model.predictor)
        self.joiner = Joiner(model.joiner)
        self.blank = int(model.joiner.linear.out_features) - 1
        self.most_frames_ahead = MOST_FRAMES_AHEAD
        self.most_rows_ahead = MOST_ROWS_AHEAD
        self.frames_per_search = FRAMES_PER_SEARCH

    @torch.jit.export
    def set_dtype(self, dtype: torch.dtype) -> None:
        """Convert the large matrices to float32 or bfloat16; all else stays float32."""
        self.predictor.set_dtype(dtype)
        self.joiner.set_dtype(dtype)

    @torch.jit.export
    def quantize(self) -> None:
        """Multiply the large matrices in int8 from now on, for good."""
        self.predictor.quantize()
        self.joiner.quantize()

    @torch.jit.export
    def start(self) -> Hypotheses:
        """Return what a recording has said before it begins."""
        blank = torch.tensor([self.blank], device=self.predictor.inputs.device)
        predictions, states = self.predictor(blank, self.predictor.start(1))
        no_tokens: list[int] = []
        no_values: list[float] = []
        return Hypotheses([no_tokens], [no_tokens], [no_values], [0.0], 0, 0, predictions, states)

    @torch.jit.export
    def greedy(
        self, encodings: Tensor, frames: list[int], before: list[Hypotheses], most_here: int
    ) -> list[Hypotheses]:
        """Return what `before`, one hypothesis a row, become with encodings (batch, frames, dim).

        A row has `frames` of its own, and at most `most_here` tokens at each of them. The
        prediction network runs after tokens only; as long as blanks come, the joint network looks
        at several frames together. Bataev et al. 2024, "Label-Looping: Highly Efficient Decoding
        for Transducers".
        """
        predictions = torch.cat([each.predictions for each in before])
        states = torch.cat([each.states for each in before], dim=2)
        rows = [GreedyRow(each, frames[index]) for index, each in enumerate(before)]
        active = unfinished(rows)
        while len(active) > 0:
            emitting, tokens = self._step(encodings, predictions, rows, active, most_here)
            if len(tokens) > 0:
                index = torch.tensor(emitting, device=encodings.device)
                new = torch.tensor(tokens, device=encodings.device)
                predictions[index], states[:, :, index] = self.predictor(new, states[:, :, index])
            active = unfinished(rows)
        return [
            row.finish(predictions[index : index + 1], states[:, :, index : index + 1])
            for index, row in enumerate(rows)
        ]

    def _step(
        self,
        encodings: Tensor,
        predictions: Tensor,
        rows: list[GreedyRow],
        active: list[int],
        most_here: int,
    ) -> tuple[list[int], list[int]]:
        """Take the next frames of the active rows; return the rows with a token, and these."""
        ahead = self.most_frames_ahead
        if encodings.device.type == "cpu":
            ahead = max(1, min(ahead, self.most_rows_ahead // len(active)))
        index = torch.tensor(active, device=encodings.device)
        starts = torch.tensor([rows[row].at for row in active], device=encodings.device)
        seen = starts[:, None] + torch.arange(ahead, device=encodings.device)
        seen = seen.clamp(max=encodings.size(1) - 1)
        best = self.joiner(
            encodings[index[:, None], seen].flatten(0, 1),
            predictions[index].repeat_interleave(ahead, dim=0),
        ).max(dim=1)
        labels: list[list[int]] = best.indices.view(-1, ahead).tolist()
        values: list[list[float]] = best.values.view(-1, ahead).tolist()
        emitting: list[int] = []
        tokens: list[int] = []
        for place, row in enumerate(active):
            token = rows[row].take(labels[place], values[place], self.blank, most_here)
            if token != self.blank:
                emitting.append(row)
                tokens.append(token)
        return emitting, tokens

    @torch.jit.export
    def beam(
        self,
        encodings: Tensor,
        frames: list[int],
        before: list[Hypotheses],
        width: int,
        most_here: int,
    ) -> list[Hypotheses]:
        """Return what the hypotheses `before` of each row become, the best `width`.

        As `greedy`, but each row follows several hypotheses and adds up those of the same tokens:
        the search of `torchaudio.models.RNNTBeamSearch`.
        """
        for start in range(0, max(frames), self.frames_per_search):
            counts = [max(0, min(self.frames_per_search, count - start)) for count in frames]
            search = BeamSearch(before, self.blank, width)
            for frame in range(max(counts)):
                rows: list[int] = []
                for row, count in enumerate(counts):
                    if frame < count:
                        rows.append(row)
                self._search_frame(search, encodings[:, start + frame], rows, most_here)
            before = search.hypotheses()
        return before

    def _search_frame(
        self, search: BeamSearch, encodings: Tensor, rows: list[int], most_here: int
    ) -> None:
        """Give the hypotheses of `rows` up to `most_here` tokens at a frame.

        `encodings` of shape (batch, dimension) are those of the frame.
        """
        device = encodings.device
        for tokens_here in range(most_here + 1):
            owners, slots, scores = search.open_hypotheses(rows)
            if len(slots) == 0:
                break
            totals = torch.tensor(scores, device=device)[:, None] + self.joiner(
                encodings[torch.tensor(owners, device=device)],
                search.tree.predictions[torch.tensor(slots, device=device)],
            )
            blank_scores: list[float] = totals[:, self.blank].tolist()
            search.close(rows, blank_scores)
            if tokens_here < most_here:
                slots, tokens = search.expand(rows, totals)
                if len(tokens) > 0:
                    states = search.tree.states[:, :, torch.tensor(slots, device=device)]
                    predictions, states = self.predictor(
                        torch.tensor(tokens, device=device), states
                    )
                    search.tree.fill(predictions, states)
        search.move(rows)

    @torch.jit.export
    def align(self, encodings: Tensor, tokens: list[int], frames: list[int]) -> Tensor:
        """Return the log-probabilities along a path, shape (frames + tokens, labels).

        `encodings` have shape (frames, dimension), and a token goes with the frame at which it was
        emitted. A frame has a row for each of its tokens and one for the blank that ends it.
        """
        start = self.start()
        predictions = [start.predictions]
        states = start.states
        for token in tokens:
            last = torch.tensor([token], device=encodings.device)
            prediction, states = self.predictor(last, states)
            predictions.append(prediction)
        rows: list[int] = []
        known: list[int] = []
        place = 0
        for frame in range(encodings.size(0)):
            rows.append(frame)
            known.append(place)
            while place < len(tokens) and frames[place] == frame:
                place += 1
                rows.append(frame)
                known.append(place)
        values: Tensor = self.joiner(
            encodings[torch.tensor(rows, device=encodings.device)],
            torch.cat(predictions)[torch.tensor(known, device=encodings.device)],
        )
        return values[:, : self.blank + 1]
