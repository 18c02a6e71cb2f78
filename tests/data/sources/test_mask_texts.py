"""Do the wordings of questions from label maps say what they should, and are held-back ones never taught?"""

from __future__ import annotations

import numpy as np
import pytest

from slicesight.data.sources.mask_texts import TEXTS, draw
from slicesight.data.sources.mask_texts_held_back import HELD_BACK


def plain(text: str) -> str:
    """Without what makes no other wording: capitals, full stops, articles."""
    return " ".join(word for word in text.lower().rstrip("?.").split() if word not in ("the", "a"))


@pytest.mark.parametrize("topic", TEXTS)
def test_a_held_back_wording_is_neither_taught_nor_asked_in_another_split(topic) -> None:
    rng = np.random.default_rng(0)
    taught = {plain(draw(text, rng)) for text in TEXTS[topic] for _ in range(1500)}
    held = {split: {plain(text) for text in texts[topic]} for split, texts in HELD_BACK.items()}
    assert held["val"]
    assert held["test"]
    assert not held["val"] & held["test"]
    assert not taught & (held["val"] | held["test"])


@pytest.mark.parametrize("topic", TEXTS)
def test_every_wording_names_its_structures_and_leaves_no_bracket(topic) -> None:
    rng = np.random.default_rng(1)
    places = {("{0}" in text, "{1}" in text) for text in TEXTS[topic]}
    assert len(places) == 1
    for text in [drawn for text in TEXTS[topic] for drawn in [draw(text, rng) for _ in range(60)]]:
        assert {("{0}" in text, "{1}" in text)} == places
        assert not set("[]|") & set(text)
        assert "  " not in text
        assert text.format("larynx", "mandible")
