"""Groups of rows for the model: the cheapest there are, and each within the budget."""

import itertools
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from speechtext.batching import plan_groups


def splits(items: list[int]) -> Iterator[list[list[int]]]:
    for cuts in itertools.product([False, True], repeat=max(0, len(items) - 1)):
        groups = [[items[0]]]
        for item, cut in zip(items[1:], cuts, strict=True):
            if cut:
                groups.append([])
            groups[-1].append(item)
        yield groups


def cost(groups: list[list[int]], call_tokens: int) -> int:
    return sum(len(group) * max(group) + call_tokens for group in groups)


@settings(max_examples=200)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=9),
    budget=st.integers(1, 100),
    call_tokens=st.integers(0, 60),
)
def test_groups_are_the_cheapest_within_the_budget(
    lengths: list[int], budget: int, call_tokens: int
) -> None:
    groups = plan_groups(lengths, budget, call_tokens)
    assert sorted(itertools.chain(*groups)) == list(range(len(lengths)))
    found = [[lengths[index] for index in group] for group in groups]
    assert all(len(group) == 1 or len(group) * max(group) <= budget for group in found)
    possible = [
        split
        for split in splits(sorted(lengths))
        if all(len(group) == 1 or len(group) * max(group) <= budget for group in split)
    ]
    assert cost(found, call_tokens) == min(cost(split, call_tokens) for split in possible)


def test_no_rows_make_no_groups() -> None:
    assert plan_groups([], 100, 10) == []
