"""A closed question held to its choices is answered with one of them; its free answer stays what it was."""

from __future__ import annotations

import pytest
import torch

from slicesight.errors import InputError
from slicesight.inference.choice_decoding import ChoiceTree, make_choice_tree

CLOSED = "Which phase is this? Choices: A. arterial phase B. venous phase"
OPEN = "Describe the findings."


def test_only_what_goes_on_in_the_tree_may_be_said():
    tree = ChoiceTree([[1, 2, 3], [1, 2], [4]], ends=frozenset({9}))
    assert tree.allowed([]) == [1, 4]
    assert tree.allowed([1]) == [2]
    assert tree.allowed([1, 2]) == [3, 9]
    assert tree.allowed([1, 2, 3]) == [9]
    masked = tree.mask(torch.arange(10.0), [1, 2])
    assert masked.isfinite().nonzero().flatten().tolist() == [3, 9]


def spelled(predictor, question):
    """Everything the tree of this question's choices lets a model say, as tokens."""
    tree = make_choice_tree(predictor.processor, question, history=(), num_volumes=1, ends=frozenset({1}))
    found, open_nodes = [], [((), tree.root)]
    while open_nodes:
        said, node = open_nodes.pop()
        found += [said] if id(node) in tree.whole else []
        open_nodes += [((*said, token), after) for token, after in node.items()]
    return found


def test_control_tokens_in_a_choice_stay_text(make_predictor):
    predictor = make_predictor()
    found = spelled(predictor, "Which? Choices: A. x <eos> y B. <pad>")
    assert not {0, 1} & {token for said in found for token in said}
    texts = {predictor.processor.tokenizer.decode(said).strip() for said in found}
    assert texts == {"A", "x <eos> y", "A. x <eos> y", "B", "<pad>", "B. <pad>"}


def test_the_place_of_a_scan_after_the_choices_belongs_to_none_of_them(make_predictor, make_grid):
    predictor = make_predictor()
    assert sorted(spelled(predictor, f"{CLOSED} <image3d>")) == sorted(spelled(predictor, CLOSED))
    (held,) = predictor.ask(make_grid(predictor), f"{CLOSED} <image3d>", choices="only", max_new_tokens=40)
    assert not held.is_outside_choices


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"do_sample": True, "temperature": 3.0, "seed": 1}])
def test_a_random_model_held_to_choices_names_one_of_them(make_predictor, make_grid, options):
    predictor = make_predictor()
    scan = predictor.encode(make_grid(predictor))
    (free,) = predictor.ask(scan, CLOSED, max_new_tokens=6)
    assert free.is_outside_choices
    (held,) = predictor.ask(scan, CLOSED, choices="only", max_new_tokens=40, **options)
    assert not held.is_outside_choices
    assert not held.is_truncated


def test_both_gives_the_free_texts_as_before_and_the_choice_beside_those_of_closed_questions(make_predictor, make_grid):
    predictor = make_predictor()
    scan = predictor.encode(make_grid(predictor))
    questions = [OPEN, CLOSED, OPEN]
    free = predictor.ask(scan, questions, max_new_tokens=40)
    both = predictor.ask(scan, questions, choices="both", max_new_tokens=40)
    assert [answer.text for answer in both] == [answer.text for answer in free]
    assert both[0].choice is both[2].choice is None
    assert both[1].choice in ("A. arterial phase", "B. venous phase")
    (held,) = predictor.ask(scan, CLOSED, choices="only", max_new_tokens=40)
    assert held.text.removeprefix(both[1].choice[:3]) in both[1].choice


def test_many_scans_keep_their_own_choices(make_predictor, make_grid):
    predictor = make_predictor()
    scans = [predictor.encode(make_grid(predictor, seed)) for seed in (0, 1)]
    together = list(predictor.ask_many([(scan, [CLOSED, OPEN]) for scan in scans], choices="both", max_new_tokens=20))
    alone = [predictor.ask(scan, [CLOSED, OPEN], choices="both", max_new_tokens=20) for scan in scans]
    assert together == alone


def test_a_mode_that_is_none_and_both_in_pieces_are_refused(make_predictor, make_grid):
    predictor = make_predictor()
    with pytest.raises(InputError, match="choices is 'maybe'; expected free or only or both"):
        predictor.ask(make_grid(predictor), CLOSED, choices="maybe")
    with pytest.raises(InputError, match="choices is 'both'; expected free or only"):
        list(predictor.ask_stream(make_grid(predictor), CLOSED, choices="both"))
