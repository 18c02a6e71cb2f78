"""Which questions pass the language model together?"""

from __future__ import annotations

from types import SimpleNamespace

import torch

from slicesight.inference.scheduler import GenerationRequest, Scheduler


def blocks(lengths: list[int], *, block_tokens: int, prefixes: list[object] | None = None) -> list[list[int]]:
    requests = [
        GenerationRequest(
            number=number,
            prefix=None if prefixes is None else prefixes[number],
            suffix_TD=torch.zeros(length, 2),
            max_new_tokens=1,
        )
        for number, length in enumerate(lengths)
    ]
    return list(Scheduler._blocks(SimpleNamespace(block_tokens=block_tokens), requests))


def test_a_block_is_filled_to_its_last_token_and_no_further():
    assert blocks([4, 4, 4, 4], block_tokens=8) == [[0, 1], [2, 3]]
    assert blocks([4, 4, 4, 4], block_tokens=7) == [[0], [1], [2], [3]]
    assert blocks([3, 4, 1, 8], block_tokens=8) == [[0, 1, 2], [3]]


def test_a_question_longer_than_a_block_is_alone():
    assert blocks([2, 9, 2], block_tokens=8) == [[0], [1], [2]]


def test_questions_about_two_volumes_never_share_a_block():
    one, other = object(), object()
    assert blocks([1, 1, 1, 1], block_tokens=8, prefixes=[one, one, other, one]) == [[0, 1], [2], [3]]
