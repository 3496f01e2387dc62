"""The words that an answer depends on most, whose loss the metrics of an explanation measure."""

from speechtext.text.explanation.explainer import TOP_WORDS, _find_top_positions
from speechtext.text.explanation.targets import Explained, Target
from speechtext.text.tokens import Tokens, Window


def test_words_for_an_answer_come_before_those_against_it() -> None:
    count = 10
    places = list(range(count))
    spans = [(place, place + 1) for place in places]
    tokens = Tokens(places, [0] * count, [0] * count, list(places), spans)
    window = Window(tokens, places, 0)
    target = Target(window, 0, 0, "label", [True] * count)
    importances = [-9.0, 0.5, -8.0, 0.1, 2.0, 0.0, 0.2, -0.3, 0.4, 0.3]
    assert round(TOP_WORDS * count) == 2
    assert _find_top_positions(Explained(target, importances, 0.0, 50)) == [4, 1]
