"""How a layer is stored is worked out once a card and choice of bands, and never taken from another card."""

from dataclasses import replace

from swath.data import decode
from swath.data.card import Card, LayerCard
from swath.data.decode import Storage


def card(*bands):
    return Card("c", layers=(LayerCard("sentinel2-l2a", bands=bands),))


def test_the_same_question_has_the_same_answer():
    one = card("blue", "green", "red")
    first = Storage.of(one, one.layers[0], ["red", "blue"])
    assert first.index == (2, 0) and Storage.of(one, one.layers[0], ["red", "blue"]) is first
    assert Storage.of(one, one.layers[0]).index == (0, 1, 2)


def test_another_card_never_gets_it(monkeypatch):
    monkeypatch.setattr(decode, "MOST_KEPT", 4)
    for turn in range(200):  # cards die and their ids come back
        bands = ("blue", "green", "red") if turn % 2 else ("red", "green", "blue")
        now = card(*bands)
        now = replace(now, title=str(turn))
        assert Storage.of(now, now.layers[0], ["red"]).index == (bands.index("red"),)
        assert len(decode._KEPT) <= 4
