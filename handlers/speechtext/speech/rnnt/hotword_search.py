"""RNN-T beam search for hotwords: the search of the TorchScript file, with their scores added.

Shallow fusion: Zhao et al. 2019, "Shallow-Fusion End-to-End Contextual Biasing". Their tree is of
one sequence of pieces for each hotword; here it is of letters, through which a piece goes letter by
letter, so that a hotword counts in whatever pieces the model says it. The networks are those of the
file. The search itself runs in Python, on recordings with hotwords only.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from speechtext.allowance import check_time
from speechtext.speech.hotword_scores import HotwordScores, Step
from speechtext.speech.rnnt.torchscript.beams import Beam, BeamSearch
from speechtext.speech.rnnt.torchscript.hypotheses import Hypotheses

# Too high a boost makes tokens without end. Nobody says more than these in 40 ms.
MOST_TOKENS_HERE = 10


class Said(NamedTuple):
    """What a hypothesis said of the hotwords, as a state of their scores, and what that added."""

    state: int
    bonus: float


class PieceScores:
    """The scores of hotwords by piece; `pieces` are the texts of all labels, "" for silent ones."""

    def __init__(self, scores: HotwordScores, pieces: Sequence[str]) -> None:
        self._scores = scores
        self._pieces = pieces
        self._labels: dict[Hashable, list[int]] = {}
        for label, piece in enumerate(pieces):
            self._labels.setdefault(piece[:1], []).append(label)
        # Most pieces begin no hotword and go on with none, whatever was said.
        others = [self.step(scores.elsewhere, label).gain for label in range(len(pieces))]
        self._others = torch.tensor(others, dtype=torch.double)
        self._gains: dict[int, torch.Tensor] = {}

    def step(self, state: int, label: int) -> Step:
        """Return where a label leads, and what it adds to the score."""
        total = 0.0
        for letter in self._pieces[label]:
            state, gain = self._scores.step(state, letter)
            total += gain
        return Step(state, total)

    def gains(self, state: int) -> torch.Tensor:
        """Return what each label adds, shape (labels,)."""
        if state not in self._gains:
            firsts = {"", *self._scores.live_symbols(state)}
            live = [label for first in firsts for label in self._labels.get(first, ())]
            gains = self._others - self._scores.pending(state)
            gains[live] = gains.new_tensor([self.step(state, label).gain for label in live])
            self._gains[state] = gains.float()
        return self._gains[state]

    def finish(self, said: Said) -> float:
        """Return what hotwords added to a text that ends."""
        return said.bonus + self._scores.finish(said.state)


@dataclass
class HotwordTrack:
    """The hotwords of a recording, and what each of its hypotheses said of them."""

    scores: PieceScores
    said: list[Said] = field(default_factory=lambda: [Said(HotwordScores.start, 0.0)])


class HotwordBeamSearch(BeamSearch):
    """The search of one recording, whose scores have those of the hotwords in them.

    What hypotheses of the same tokens get of hotwords is the same, so that they add up as without.
    """

    def __init__(self, before: Hypotheses, track: HotwordTrack, blank: int, width: int) -> None:
        with_bonus = [
            score + said.bonus for score, said in zip(before.scores, track.said, strict=True)
        ]
        super().__init__([before._replace(scores=with_bonus)], blank, width)
        self._scores = track.scores
        self._said = dict(zip(self.beams[0].nodes, track.said, strict=True))

    def gains(self) -> torch.Tensor:
        """Return what each label adds to each open hypothesis, shape (hypotheses, labels)."""
        states = [self._said[node].state for node in self.beams[0].nodes]
        return torch.stack([self._scores.gains(state) for state in states])

    def _emit(
        self, beam: Beam, values: list[float], places: list[int], columns: int
    ) -> list[tuple[int, int, int]]:
        first = len(self.emissions.values)
        emitted = super()._emit(beam, values, places, columns)
        for place, (parent, node, token) in enumerate(emitted, start=first):
            state, bonus = self._said[parent]
            after, gain = self._scores.step(state, token)
            self._said.setdefault(node, Said(after, bonus + gain))
            # The probabilities that people see are the model's.
            self.emissions.values[place] -= gain
        return emitted

    def result(self) -> tuple[Hypotheses, list[Said]]:
        """Return the hypotheses with the model's own scores, and what each said of hotwords."""
        (found,) = self.hypotheses()
        said = [self._said[node] for node in self.beams[0].nodes]
        scores = [score - each.bonus for score, each in zip(found.scores, said, strict=True)]
        return found._replace(scores=scores), said


def search_hotwords(
    decoder: Any,
    encodings: torch.Tensor,
    before: Hypotheses,
    track: HotwordTrack,
    width: int,
    most_here: int,
) -> Hypotheses:
    """Return what the hypotheses `before` of a recording become, the best `width`.

    `encodings` have shape (frames, dimension); `track` is moved on with them. As `Decoder.beam`,
    with at most `MOST_TOKENS_HERE` tokens at a frame. Raises `DeadlineError`.
    """
    for start in range(0, len(encodings), decoder.frames_per_search):
        check_time()
        search = HotwordBeamSearch(before, track, decoder.blank, width)
        for encoding in encodings[start : start + decoder.frames_per_search]:
            _search_frame(decoder, search, encoding[None], min(most_here, MOST_TOKENS_HERE))
        before, track.said = search.result()
    return before


def _search_frame(
    decoder: Any, search: HotwordBeamSearch, encoding: torch.Tensor, most_here: int
) -> None:
    tree, device = search.tree, encoding.device
    for tokens_here in range(most_here + 1):
        _, slots, scores = search.open_hypotheses([0])
        if not slots:
            break
        index = torch.tensor(slots, device=device)
        totals = torch.tensor(scores, device=device)[:, None] + decoder.joiner(
            encoding.expand(len(slots), -1), tree.predictions[index]
        )
        # The joint network's further columns are no labels.
        totals[:, : search.blank + 1] += search.gains().to(device)
        search.close([0], totals[:, search.blank].tolist())
        if tokens_here < most_here:
            slots, tokens = search.expand([0], totals)
            if tokens:
                states = tree.states[:, :, torch.tensor(slots, device=device)]
                tree.fill(*decoder.predictor(torch.tensor(tokens, device=device), states))
    search.move([0])


def finish_hotwords(found: Hypotheses, track: HotwordTrack) -> Hypotheses:
    """Return the hypotheses of a recording that ended, the best one first.

    A hotword that was begun and not ended counts no more. Their order is that of the score for each
    token, as between frames.
    """
    totals = [
        (score + track.scores.finish(said)) / (found.kept + len(tokens) + 2)
        for score, said, tokens in zip(found.scores, track.said, found.tokens, strict=True)
    ]
    order = sorted(range(len(totals)), key=totals.__getitem__, reverse=True)
    track.said = [track.said[index] for index in order]
    place = torch.tensor(order, device=found.predictions.device)
    return found._replace(
        tokens=[found.tokens[index] for index in order],
        frames=[found.frames[index] for index in order],
        probabilities=[found.probabilities[index] for index in order],
        scores=[found.scores[index] for index in order],
        predictions=found.predictions[place],
        states=found.states[:, :, place],
    )
