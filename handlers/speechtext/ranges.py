"""The ranges of numbers that settings and requests have in common, each defined once."""

from typing import Annotated

from pydantic import Field as KeyOptions

# Beyond it no text, batch or list of answers is any larger; it is a C int, too.
MOST = 2**31 - 1

Count = Annotated[int, KeyOptions(ge=0, le=MOST)]
PositiveCount = Annotated[int, KeyOptions(ge=1, le=MOST)]
# Answers to a question: of each window, twice as many spans are looked at.
MOST_ANSWERS = 100
AnswerCount = Annotated[int, KeyOptions(ge=1, le=MOST_ANSWERS)]
# Alternatives that are told of each token.
TopTokens = Annotated[int, KeyOptions(ge=0, le=5)]
# What torch takes for a seed.
Seed = Annotated[int, KeyOptions(ge=0, lt=2**63)]
# Logits are divided by both: so that float32 holds them after the smallest of each.
LEAST_TEMPERATURE, LEAST_PENALTY = 1e-6, 0.01
Temperature = Annotated[float, KeyOptions(ge=LEAST_TEMPERATURE, le=100)]
RepetitionPenalty = Annotated[float, KeyOptions(ge=LEAST_PENALTY, le=10)]
TopP = Annotated[float, KeyOptions(gt=0, le=1)]
# Tokens of a window: the special ones, those of a question, and some more.
WindowTokens = Annotated[int, KeyOptions(ge=8, le=MOST)]
