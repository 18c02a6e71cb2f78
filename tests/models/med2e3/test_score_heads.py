"""Several heads score slices on their own, and their scores are averaged."""

from __future__ import annotations

import pytest
import torch

from slicesight.errors import ModelError


def score(model, processor, volumes):
    inputs = processor(["Where is the lesion?"], volumes=volumes[:1])
    with torch.inference_mode():
        features = model.encode_volumes(inputs.pop("volumes"))
        return model.score_slices(features, **inputs)[:, 0]


def test_the_scores_are_the_mean_of_each_heads_own_softmax(make_model, make_processor, volumes):
    both = make_model(score_dim=4, score_heads=2, score_scale=2e4)
    processor = make_processor(both)
    single = []
    for head in range(2):
        one = make_model(score_dim=4, score_scale=2e4)
        weights = dict(both.state_dict())
        for name in ("scorer.narrow_question.weight", "scorer.narrow_slice.weight"):
            weights[name] = weights[name].chunk(2)[head]
        one.load_state_dict(weights)
        single.append(score(one, processor, volumes))
    assert not torch.allclose(*single, atol=1e-3)
    torch.testing.assert_close(score(both, processor, volumes), torch.stack(single).mean(dim=0))
    assert score(both, processor, volumes).sum().item() == pytest.approx(1)


@pytest.mark.parametrize("words", [{"score_heads": 2}, {"score_heads": 0, "score_dim": 4}])
def test_heads_that_mean_nothing_are_refused(make_config, words):
    with pytest.raises(ModelError, match="score_heads"):
        make_config(**words)
