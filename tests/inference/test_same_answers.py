"""The shipped model, over a hundred questions about phantoms: through the scheduler and by `generate`, one by one."""

from __future__ import annotations

import pytest
import torch

import slicesight
from slicesight.phantoms.rendering import make_phantom
from slicesight.phantoms.texts import conversation_rng, phantom_conversations

SEED, COUNT = 31_000, 10


@pytest.fixture(scope="module")
def scans():
    """(volume, its eleven questions), coarse so that they are quick to make."""
    made = [make_phantom(SEED, case, pixel_mm=(2.5, 3.0)) for case in range(COUNT)]
    return [
        (
            phantom.volume,
            [
                pair.prompt
                for pair in phantom_conversations(
                    phantom.truth, conversation_rng(SEED, case), num_slices=phantom.volume.num_source_slices
                )
            ],
        )
        for case, phantom in enumerate(made)
    ]


def test_the_shipped_model_says_the_same_tokens_either_way(scans, answer_together, generate_alone):
    predictor = slicesight.load("phantom-tiny")
    encoded = [predictor.encode(volume) for volume, _ in scans]
    jobs = [(scan, questions) for scan, (_, questions) in zip(encoded, scans, strict=True)]
    together, _ = answer_together(predictor, jobs, max_new_tokens=60, batch_size=16)
    asked = [(scan, question) for scan, questions in jobs for question in questions]
    assert len(together) == len(asked) >= 100
    for (scan, question), ids in zip(asked, together, strict=True):
        assert ids == generate_alone(predictor, scan, question, max_new_tokens=60), question
    assert torch.get_default_dtype() == torch.float32
