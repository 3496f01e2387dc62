"""The bookkeeping of beam search: prefixes, and the hypotheses of each recording."""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from speechtext.speech.rnnt.torchscript.hypotheses import Hypotheses


class Emissions:
    """Tokens emitted, each with the one before it: the paths on which hypotheses came about."""

    def __init__(self) -> None:
        self.before: list[int] = []
        self.tokens: list[int] = []
        self.frames: list[int] = []
        self.values: list[float] = []

    def add(self, before: int, token: int, frame: int, value: float) -> int:
        """Return the number of a new emission; the first of a path names -1 - its hypothesis."""
        self.before.append(before)
        self.tokens.append(token)
        self.frames.append(frame)
        self.values.append(value)
        return len(self.before) - 1

    def path(self, last: int) -> tuple[int, list[int]]:
        """Return the hypothesis with which the path to an emission begins, and the path."""
        path: list[int] = []
        while last >= 0:
            path.append(last)
            last = self.before[last]
        path.reverse()
        return -1 - last, path


class Beam:
    """The hypotheses of one recording at one frame, each a node of a `PrefixTree`.

    Those in `nodes`, with their `scores` and last emissions, `ends`, may still get tokens at this
    frame; the closed ones have moved on to the next. Scores are relative to `base`, that of the
    best one when the search began: float32 is too coarse for those of whole recordings.
    """

    def __init__(self, nodes: list[int], scores: list[float], frame: int) -> None:
        self.nodes = nodes
        self.base = scores[0]
        self.scores = [score - self.base for score in scores]
        self.ends = [-1 - index for index in range(len(nodes))]
        self.frame = frame
        self.closed: dict[int, float] = {}
        self.closed_ends: dict[int, int] = {}
        self.closed_peaks: dict[int, float] = {}

    def close(self, blank_scores: list[float]) -> None:
        """Close the open hypotheses, after a blank; the scores of equal prefixes are added up."""
        for index, node in enumerate(self.nodes):
            score = blank_scores[index]
            known = node in self.closed
            if not known or score > self.closed_peaks[node]:
                self.closed_peaks[node] = score
                self.closed_ends[node] = self.ends[index]
            self.closed[node] = add_logarithms(self.closed[node], score) if known else score

    def least_score(self, width: int) -> float:
        """Return the score above which a hypothesis is among the best `width` closed ones."""
        if len(self.closed) < width:
            return -float("inf")
        scores = list(self.closed.values())
        scores.sort(reverse=True)
        return scores[width - 1]

    def move(self, width: int, lengths: list[int]) -> None:
        """Open the closed hypotheses of most score per token for the next frame."""
        nodes = list(self.closed.keys())
        # One for the blank before the first token and one more, as torchaudio counts.
        keys = [(self.base + self.closed[node]) / (lengths[node] + 2) for node in nodes]
        best: list[int] = torch.tensor(keys).topk(min(width, len(keys))).indices.tolist()
        self.nodes = [nodes[index] for index in best]
        self.scores = [self.closed[node] for node in self.nodes]
        self.ends = [self.closed_ends[node] for node in self.nodes]
        self.closed.clear()
        self.closed_ends.clear()
        self.closed_peaks.clear()
        self.frame += 1


def add_logarithms(first: float, second: float) -> float:
    """Return the logarithm of the sum of two numbers that are given as logarithms."""
    most = max(first, second)
    return most + math.log1p(math.exp(min(first, second) - most))


def as_probability(value: float) -> float:
    """Return a probability that is given as logarithm; rounding may have put it beyond 1."""
    return math.exp(min(0.0, value))


class PrefixTree:
    """Token sequences as nodes, with what the prediction network says after them.

    The network runs once for each prefix, however often and at however many frames the search comes
    across it. A node's slot is its place in `predictions` and `states`, -1 as long as it has none.
    """

    def __init__(self, predictions: Tensor, states: Tensor, blank: int) -> None:
        self.predictions = predictions
        self.states = states
        self.used = predictions.size(0)
        self.tokens = blank + 1
        self.slots: list[int] = []
        self.lengths: list[int] = []
        self.children: dict[int, int] = {}

    def add(self, length: int) -> int:
        """Return a new node for a prefix of so many tokens."""
        self.slots.append(-1)
        self.lengths.append(length)
        return len(self.slots) - 1

    def child(self, node: int, token: int) -> int:
        """Return the node of a prefix with one token more."""
        key = node * self.tokens + token
        if key not in self.children:
            self.children[key] = self.add(self.lengths[node] + 1)
        return self.children[key]

    def plant(self, hypotheses: Hypotheses, first_slot: int) -> list[int]:
        """Return the nodes of a recording's hypotheses, which have the slots from the first on."""
        common = common_length(hypotheses.tokens)
        root = self.add(hypotheses.kept + common)
        nodes: list[int] = []
        for index, tokens in enumerate(hypotheses.tokens):
            node = root
            for token in tokens[common:]:
                node = self.child(node, token)
            self.slots[node] = first_slot + index
            nodes.append(node)
        return nodes

    def reserve(self, node: int) -> None:
        """Give a node the next slot."""
        self.slots[node] = self.used
        self.used += 1

    def fill(self, predictions: Tensor, states: Tensor) -> None:
        """Set the predictions and states of the slots that were reserved last."""
        first = self.used - predictions.size(0)
        if self.used > self.predictions.size(0):
            # Twice as many as needed, so that growing seldom copies.
            missing = 2 * self.used - self.predictions.size(0)
            self.predictions = pad(self.predictions, (0, 0, 0, missing))
            self.states = pad(self.states, (0, 0, 0, missing))
        self.predictions[first : self.used] = predictions
        self.states[:, :, first : self.used] = states


def common_length(sequences: list[list[int]]) -> int:
    """Return how many tokens, from the first on, are the same in all sequences."""
    length = min([len(each) for each in sequences])
    for place in range(length):
        for each in sequences:
            if each[place] != sequences[0][place]:
                return place
    return length


class BeamSearch:
    """The beams of a batch, and the tree of prefixes that they share."""

    def __init__(self, before: list[Hypotheses], blank: int, width: int) -> None:
        self.before = before
        self.blank = blank
        self.width = width
        predictions = torch.cat([each.predictions for each in before])
        states = torch.cat([each.states for each in before], dim=2)
        self.tree = PrefixTree(predictions, states, blank)
        self.emissions = Emissions()
        self.beams: list[Beam] = []
        slot = 0
        for each in before:
            nodes = self.tree.plant(each, slot)
            slot += len(nodes)
            self.beams.append(Beam(nodes, each.scores, each.frame))

    def open_hypotheses(self, rows: list[int]) -> tuple[list[int], list[int], list[float]]:
        """Return the rows, slots and scores of all open hypotheses of `rows`."""
        owners: list[int] = []
        slots: list[int] = []
        scores: list[float] = []
        for row in rows:
            owners.extend([row for _ in self.beams[row].nodes])
            slots.extend([self.tree.slots[node] for node in self.beams[row].nodes])
            scores.extend(self.beams[row].scores)
        return owners, slots, scores

    def close(self, rows: list[int], blank_scores: list[float]) -> None:
        """Close the open hypotheses of `rows`."""
        start = 0
        for row in rows:
            beam = self.beams[row]
            beam.close(blank_scores[start : start + len(beam.nodes)])
            start += len(beam.nodes)

    def expand(self, rows: list[int], totals: Tensor) -> tuple[list[int], list[int]]:
        """Open what the open hypotheses of `rows` become with the most promising tokens instead.

        `totals` of shape (open hypotheses, tokens) are the scores with each token. Returns the
        tokens for which the prediction network is to run, and the slots of what goes before them.
        """
        totals[:, self.blank] = -float("inf")
        slots: list[int] = []
        tokens: list[int] = []
        start = 0
        for row in rows:
            beam = self.beams[row]
            count = len(beam.nodes)
            if count > 0:
                best = totals[start : start + count].flatten().topk(self.width)
                values: list[float] = best.values.tolist()
                places: list[int] = best.indices.tolist()
                for parent, node, token in self._emit(beam, values, places, totals.size(1)):
                    if self.tree.slots[node] < 0:
                        self.tree.reserve(node)
                        slots.append(self.tree.slots[parent])
                        tokens.append(token)
            start += count
        return slots, tokens

    def _emit(
        self, beam: Beam, values: list[float], places: list[int], columns: int
    ) -> list[tuple[int, int, int]]:
        """Open the expansions that are good enough; return each one's parent, node and token."""
        least = beam.least_score(self.width)
        nodes: list[int] = []
        scores: list[float] = []
        ends: list[int] = []
        emitted: list[tuple[int, int, int]] = []
        for value, place in zip(values, places):  # noqa: B905, TorchScript's zip is not strict
            if value <= least:
                # The best come first.
                break
            index, token = place // columns, place % columns
            change = value - beam.scores[index]
            node = self.tree.child(beam.nodes[index], token)
            nodes.append(node)
            scores.append(value)
            ends.append(self.emissions.add(beam.ends[index], token, beam.frame, change))
            emitted.append((beam.nodes[index], node, token))
        beam.nodes, beam.scores, beam.ends = nodes, scores, ends
        return emitted

    def move(self, rows: list[int]) -> None:
        """Go to the next frame with the best hypotheses of `rows`."""
        for row in rows:
            self.beams[row].move(self.width, self.tree.lengths)

    def hypotheses(self) -> list[Hypotheses]:
        """Return the hypotheses of each row as it now is."""
        return [self._harvest(self.beams[row], each) for row, each in enumerate(self.before)]

    def _harvest(self, beam: Beam, before: Hypotheses) -> Hypotheses:
        tokens: list[list[int]] = []
        frames: list[list[int]] = []
        probabilities: list[list[float]] = []
        for end in beam.ends:
            origin, path = self.emissions.path(end)
            added = self.emissions
            tokens.append(before.tokens[origin] + [added.tokens[each] for each in path])
            frames.append(before.frames[origin] + [added.frames[each] for each in path])
            probabilities.append(
                before.probabilities[origin] + [as_probability(added.values[each]) for each in path]
            )
        slots = [self.tree.slots[node] for node in beam.nodes]
        index = torch.tensor(slots, device=self.tree.predictions.device)
        return Hypotheses(
            tokens,
            frames,
            probabilities,
            [beam.base + score for score in beam.scores],
            before.kept,
            beam.frame,
            self.tree.predictions[index],
            self.tree.states[:, :, index],
        )
