"""Answers as models write them are read as a person reads them, and follow the choices when these change places."""

from __future__ import annotations

import re
import time
from collections import Counter
from itertools import permutations

import pytest
from corpus_answers import ANSWERS, HELD_OUT
from hypothesis import given, settings
from hypothesis import strategies as st

from slicesight.data.answer_text import final_text
from slicesight.data.choices import LETTERS, OUTCOMES, WAYS, is_right, legacy_right, read_choice
from slicesight.data.manifest import Conversation

MARK = re.compile("«(.)»")
EVERYTHING = (*ANSWERS, *HELD_OUT)
STYLES = list(dict.fromkeys(style for style, *_ in EVERYTHING))


def in_place(said: str, places: list[int]) -> str:
    """The answer with the letter of each choice's new place, in the alphabet and case it was written in."""

    def moved(mark: re.Match[str]) -> str:
        letter = plain(mark.group(1)).upper()
        if LETTERS.find(letter) >= len(places):
            return mark.group(1)
        return chr(ord(mark.group(1)) + places[LETTERS.index(letter)] - LETTERS.index(letter))

    return MARK.sub(moved, said)


def plain(sign: str) -> str:
    """A letter of any alphabet as it stands in ABCD."""
    for first in ("A", "a", "Ａ", "ａ", "Ⓐ", "ⓐ", "⒜", "𝐀", "🅰"):
        if 0 <= ord(sign) - ord(first) < 4:
            return LETTERS[ord(sign) - ord(first)]
    return sign


def read(said: str, choices: tuple[str, ...]) -> str:
    found = read_choice(said, choices)
    assert (found.letter is not None) == (found.outcome in ("letter", "text"))
    assert found.outcome in OUTCOMES
    assert found.way in WAYS
    return found.letter or found.outcome


def test_the_corpus_holds_enough_answers_in_enough_styles():
    assert len({(said, choices) for _, choices, said, _ in EVERYTHING}) == len(EVERYTHING) >= 300
    assert len(STYLES) >= 12
    assert min(Counter(style for style, *_ in EVERYTHING).values()) >= 6


@pytest.mark.parametrize("style", STYLES)
def test_every_answer_is_read_as_a_person_reads_it(style):
    misread = [
        (said, wanted, found)
        for name, choices, written, wanted in EVERYTHING
        if name == style and (found := read(said := MARK.sub(r"\1", written), choices)) != wanted
    ]
    assert misread == []


def test_a_choice_that_changes_places_takes_its_letter_along():
    """The choices in every order, with the letters of the answer as they then are."""
    wrong = []
    for _, choices, written, wanted in EVERYTHING:
        for order in permutations(range(len(choices))):
            shuffled = tuple(choices[index] for index in order)
            places = [order.index(index) for index in range(len(choices))]
            expected = LETTERS[places[LETTERS.index(wanted)]] if wanted in LETTERS else wanted
            found = read(said := in_place(written, places), shuffled)
            if found != expected:
                wrong.append((said, shuffled, expected, found))
    assert wrong == []


def test_the_same_answer_to_shuffled_choices_is_never_read_as_words_that_it_does_not_say():
    """Words follow their choice, a letter stays where it is, and a letter with another choice's words names none."""
    wrong, num_moved = [], 0
    for _, choices, written, wanted in EVERYTHING:
        if wanted not in LETTERS:
            continue
        said = MARK.sub(r"\1", written)
        letters = {plain(sign).upper() for sign in MARK.findall(written)}
        for order in permutations(range(len(choices))):
            shuffled = tuple(choices[index] for index in order)
            follows = LETTERS[order.index(LETTERS.index(wanted))]
            found = read_choice(said, shuffled).letter
            allowed = {follows} if not letters else {None, *letters}
            num_moved += found == follows != wanted
            if found not in allowed:
                wrong.append((said, shuffled, allowed, found))
    assert wrong == []
    assert num_moved > 500


def test_the_papers_rule_misses_most_of_them_and_is_right_by_accident_in_some():
    """`B.` anywhere: kept beside ours because published numbers are counted so."""
    said = [(MARK.sub(r"\1", written), wanted) for _, _, written, wanted in EVERYTHING]
    missed = sum(not legacy_right(text, wanted) for text, wanted in said if wanted in LETTERS)
    accidents = sum(any(legacy_right(text, letter) for letter in LETTERS if letter != wanted) for text, wanted in said)
    assert missed > 200
    assert accidents > 30


WORDS = ["the", "answer", "is", "A", "B", "(D)", "or", "not", "liver", "spleen", "because", "option", ":", ",", "?"]
WORDS += ["\n", "**", "Yes", "no", "</think>", "<answer>", "{"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join), st.permutations(range(3)))
def test_whatever_is_written_words_alone_follow_their_choice(text, order):
    """Without letters in it, an answer's reading depends on the words of the choices, not on their places."""
    text = re.sub(r"\b[A-D]\b", "x", text)
    choices = ("liver", "spleen", "kidney")
    first = read_choice(text, choices).letter
    second = read_choice(text, tuple(choices[index] for index in order)).letter
    assert (first and choices[LETTERS.index(first)]) == (second and choices[order[LETTERS.index(second)]])


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80))
def test_no_text_breaks_the_reading(text):
    assert read_choice(text, ("liver", "spleen")).outcome in OUTCOMES
    assert final_text(text).text == final_text(final_text(text).text).text or final_text(text).wrapping


@pytest.mark.parametrize(
    "piece",
    [".:", "(", "A. liver or B. spleen ", "option A ", "the answer is ", "<think>", "\\boxed{", '{"a":', "\n", "not "],
)
def test_a_text_that_never_ends_is_read_quickly(piece):
    began = time.process_time()
    read_choice(piece * (12000 // len(piece)), ("liver", "spleen"))
    assert time.process_time() - began < 4


def test_reasoning_is_taken_off_and_counted():
    found = final_text("<think>one two three</think>The liver is large.")
    assert (found.text, found.num_reasoning_words, found.is_unfinished) == ("The liver is large.", 3, False)
    cut = final_text("<think>one two")
    assert (cut.text, cut.num_reasoning_words, cut.is_unfinished) == ("", 2, True)
    plain_text = "The liver (A) is large; 3 < 5 cm."
    assert final_text(plain_text).text == plain_text


@pytest.mark.parametrize(
    "said",
    ["spleen", "<think>liver</think>Spleen.", "<answer>spleen</answer>", '{"answer": "spleen"}', "\\boxed{spleen}"],
)
def test_an_open_answer_is_right_behind_its_reasoning_and_in_its_wrapping(said):
    asked = Conversation(task="open", topic="organ", question="Which?", answer="spleen")
    assert is_right(said, asked)
    assert not is_right(said.replace("pleen", "tomach"), asked)


def test_nothing_is_right_where_no_one_wrote_the_truth():
    asked = Conversation(task="open", topic="organ", question="Which?", answer="")
    assert not is_right("", asked)
    assert not is_right("spleen", asked)
