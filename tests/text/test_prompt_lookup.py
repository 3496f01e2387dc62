"""Guesses of what follows: what did before, about as much of it as was right lately."""

from hypothesis import given
from hypothesis import strategies as st

from speechtext.text.prompt_lookup import FIRST_GUESS, MATCHED_TOKENS, PromptLookup


def last_place(ids: list[int]) -> int | None:
    """Return the place behind the last tokens where they were last before."""
    wanted = ids[-MATCHED_TOKENS:]
    for place in range(len(ids) - 1, MATCHED_TOKENS - 1, -1):
        if ids[place - MATCHED_TOKENS : place] == wanted:
            return place
    return None


@given(
    st.lists(st.integers(0, 2), max_size=40),
    st.lists(st.integers(1, 5), max_size=10),
    st.integers(0, 9),
)
def test_guess_is_what_followed_before(ids: list[int], steps: list[int], most: int) -> None:
    """However much of the text comes between two guesses."""
    lookup = PromptLookup(FIRST_GUESS)
    ends = [sum(steps[: count + 1]) for count in range(len(steps))]
    for end in [*(each for each in ends if each < len(ids)), len(ids)]:
        seen = ids[:end]
        place = last_place(seen) if len(seen) >= MATCHED_TOKENS else None
        expected = []
        if place is not None:
            whole = list(seen)
            for _ in range(min(most, FIRST_GUESS)):
                whole.append(whole[place + len(whole) - len(seen)])
            expected = whole[len(seen) :]
        assert lookup.guess(seen, most) == expected


def test_guesses_are_as_long_as_they_were_right() -> None:
    lookup, ids = PromptLookup(20), [5] * 10
    lengths = []
    for right in (4, 8, 16, 3, 0, 1, 2, 2):
        guess = lookup.guess(ids, 100)
        lengths.append(len(guess))
        lookup.note(len(guess), right)
    assert lengths == [FIRST_GUESS, 8, 16, 20, 3, 1, 2, 4]
    assert set(guess) == {5}
    # Where nothing was guessed, nothing is learned.
    lookup.note(0, 0)
    assert len(lookup.guess(ids, 100)) == 2


def test_nothing_is_guessed_without_leave() -> None:
    assert PromptLookup(0).guess([1] * 20, 10) == []
    assert PromptLookup(8).guess([1] * 20, 0) == []
    assert PromptLookup(8).guess([1] * MATCHED_TOKENS, 10) == []
    assert PromptLookup(8).guess([1] * (MATCHED_TOKENS - 1), 10) == []
    assert PromptLookup(2).guess([1] * 20, 10) == [1, 1]
