"""How many words get the speaker who said them, in conversations of voices never heard."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from demo_models.conversations import Conversation, Turn
from demo_models.espeak import SAMPLE_RATE_HZ
from speechtext.speech.transcripts import Word


def count_wrong(words: Sequence[Word], conversation: Conversation) -> tuple[int, int]:
    """Return how many words have another speaker than the one who said them, and how many are told.

    The names of speakers are those that fit best. A word is said by who speaks most while it lasts.
    """
    names = sorted({word.speaker or "" for word in words})
    said = [(names.index(word.speaker or ""), _speaker_of(word, conversation)) for word in words]
    counts = np.zeros((len(names), 1 + max((speaker for _, speaker in said), default=0)))
    for name, speaker in said:
        counts[name, speaker] += 1
    right = counts[linear_sum_assignment(counts, maximize=True)].sum()
    return len(words) - int(right), len(words)


def _speaker_of(word: Word, conversation: Conversation) -> int:
    return max(conversation.turns, key=lambda turn: _overlap_s(turn, word)).speaker


def _overlap_s(turn: Turn, word: Word) -> float:
    start_s, end_s = turn.start / SAMPLE_RATE_HZ, turn.stop / SAMPLE_RATE_HZ
    return min(end_s, word.end_s) - max(start_s, word.start_s)
