"""Every cell of Tables 3, 4 and 5 against a loop written from the equations, one slice and one prompt at a time."""

import itertools

import pytest
import torch

QUESTIONS = ["What is shown in this image?", "Is the liver enlarged?"]
FUSIONS = ("3d", "2d", "3d+2d")
AGGREGATIONS = ("random", "max", "mean", "text_guided")
SCORING = [["text", "3d", "2d"], ["text", "3d"], ["text", "2d"], ["3d", "2d"], ["3d"], ["2d"]]


def expected_slice_vector(tokens_3d, tokens_2d, j, inputs):
    """Eq. 4: the mean over the tokens the scores may look at."""
    bin_size = len(tokens_2d) // len(tokens_3d)
    chosen = [tokens_3d[j // bin_size]] * ("3d" in inputs) + [tokens_2d[j]] * ("2d" in inputs)
    return torch.cat(chosen).mean(dim=0)


def expected_scores(model, tokens_3d, tokens_2d, embeds, inputs):
    """Eq. 5 and 6, or the linear layer when the text is off."""
    relevance = []
    for j in range(len(tokens_2d)):
        vector = expected_slice_vector(tokens_3d, tokens_2d, j, inputs)
        if "text" in inputs:
            relevance.append(embeds.mean(dim=0) @ vector)
        else:
            relevance.append(model.scorer.slice_linear.weight[0] @ vector + model.scorer.slice_linear.bias[0])
    exponentials = (model.config.score_scale * torch.stack(relevance)).exp()
    return exponentials / exponentials.sum()


def encode(make_model, make_processor, volumes, **overrides):
    model = make_model(**overrides)
    batch = make_processor(model)(QUESTIONS, volumes=volumes[:2])
    features = model.encode_volumes(volumes[:2])
    embeds = [model.embed_tokens(batch["input_ids"])[row][batch["question_mask"][row]] for row in range(2)]
    return model, batch, features, embeds


def read_visual(model, batch, monkeypatch, volumes):
    """The embeddings that stand where the placeholders stood."""
    seen = {}
    inner = model.language_model.forward

    def catch(*args, **kwargs):
        seen["embeds"] = kwargs["inputs_embeds"]
        return inner(*args, **kwargs)

    monkeypatch.setattr(model.language_model, "forward", catch)
    output = model(**{**batch, "volumes": volumes[:2]})
    return [seen["embeds"][row][batch["input_ids"][row] == 2] for row in range(2)], output.slice_scores


@pytest.mark.parametrize(("fusion", "inputs"), list(itertools.product(FUSIONS, SCORING)))
def test_text_guided_fusions_and_scoring_inputs(make_model, make_processor, volumes, monkeypatch, fusion, inputs):
    model, batch, features, embeds = encode(make_model, make_processor, volumes, fusion=fusion, scoring_inputs=inputs)
    visual, scores = read_visual(model, batch, monkeypatch, volumes)
    for row in range(2):
        tokens_3d = None if features.tokens_3d_VKPD is None else features.tokens_3d_VKPD[row]
        expected = []
        if "3d" in fusion:
            expected.append(tokens_3d.reshape(-1, tokens_3d.shape[-1]))
        if "2d" in fusion:
            tokens_2d = features.tokens_2d_VNLD[row]
            bins = tokens_3d if tokens_3d is not None else torch.zeros(4, 1, 1)
            weights = expected_scores(model, bins, tokens_2d, embeds[row], inputs)
            torch.testing.assert_close(scores[row, 0], weights, rtol=1e-4, atol=1e-6)
            expected.append(sum(weight * tokens for weight, tokens in zip(weights, tokens_2d, strict=True)))
        torch.testing.assert_close(visual[row], torch.cat(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("fusion", "aggregation"), list(itertools.product(FUSIONS[1:], AGGREGATIONS)))
def test_aggregations(make_model, make_processor, volumes, monkeypatch, fusion, aggregation):
    model, batch, features, embeds = encode(make_model, make_processor, volumes, fusion=fusion, aggregation=aggregation)
    visual, scores = read_visual(model, batch, monkeypatch, volumes)
    for row in range(2):
        tokens_2d = features.tokens_2d_VNLD[row]
        if aggregation == "max":
            expected = tokens_2d[0]
            for slice_tokens in tokens_2d[1:]:
                expected = torch.maximum(expected, slice_tokens)
        elif aggregation == "mean":
            expected = sum(tokens_2d) / 8
        elif aggregation == "random":
            assert len(set(scores[row, 0].tolist())) == 8
            expected = sum(weight * tokens for weight, tokens in zip(scores[row, 0], tokens_2d, strict=True))
        else:
            inputs = ["text", *fusion.split("+")]
            bins = features.tokens_3d_VKPD[row] if "3d" in fusion else torch.zeros(4, 1, 1)
            weights = expected_scores(model, bins, tokens_2d, embeds[row], inputs)
            expected = sum(weight * tokens for weight, tokens in zip(weights, tokens_2d, strict=True))
        torch.testing.assert_close(visual[row][-len(expected) :], expected, rtol=1e-4, atol=1e-5)
        assert scores[row].sum().item() == pytest.approx(1, abs=1e-5)


def test_random_scores_are_fresh_in_training_and_fixed_per_question_in_evaluation(make_model, make_processor, volumes):
    model, batch, features, _ = encode(make_model, make_processor, volumes, aggregation="random")
    first, again = model(**batch).slice_scores, model(**batch).slice_scores
    assert torch.equal(first, again)
    model.train()
    assert not torch.equal(model(**batch).slice_scores, model(**batch).slice_scores)
    other = make_model(aggregation="random", random_seed=1)
    assert not torch.equal(other.score_slices(features, **batch), first)


def test_parts_a_cell_does_not_use_are_not_built(make_model):
    only_3d = make_model(fusion="3d")
    assert only_3d.vision2d is None
    assert only_3d.scorer is None
    assert make_model(fusion="2d").vision3d is None
    assert make_model(fusion="2d", scoring_inputs=["text", "3d"]).vision3d is not None
    assert make_model(fusion="3d+2d", aggregation="mean").num_visual_tokens == 24
    assert only_3d.num_visual_tokens == 8


def test_three_d_only_answers_without_scores(make_model, make_processor, volumes):
    model = make_model(fusion="3d")
    output = model(**make_processor(model)(QUESTIONS, volumes=volumes[:2], answers=["a", "b"]))
    assert output.slice_scores is None
    assert torch.isfinite(output.loss)


@pytest.mark.parametrize("settings", [{"score_norm": "l2"}, {"score_dim": 6}, {"learn_score_scale": True}])
def test_the_improved_scores_are_the_formula_with_their_one_change(make_model, make_processor, volumes, settings):
    model, batch, features, embeds = encode(make_model, make_processor, volumes, score_scale=4.0, **settings)
    with torch.no_grad():
        if model.scorer.log_scale is not None:
            assert model.scorer.log_scale.exp().item() == pytest.approx(4.0)
            model.scorer.log_scale.add_(0.5)
    scores = model(**batch).slice_scores
    for row in range(2):
        question = embeds[row].mean(dim=0)
        relevance = []
        for j in range(8):
            vector = expected_slice_vector(features.tokens_3d_VKPD[row], features.tokens_2d_VNLD[row], j, ("3d", "2d"))
            asked = question
            if "score_dim" in settings:
                asked, vector = model.scorer.narrow_question(question), model.scorer.narrow_slice(vector)
            if "score_norm" in settings:
                asked, vector = asked / asked.norm(), vector / vector.norm()
            relevance.append(asked @ vector)
        scale = 4.0 * (2.718281828**0.5 if "learn_score_scale" in settings else 1)
        torch.testing.assert_close(
            scores[row, 0], torch.softmax(scale * torch.stack(relevance), dim=0), rtol=1e-4, atol=1e-6
        )
    if "learn_score_scale" in settings:
        model.train()(**{**batch, "labels": batch["input_ids"]}).loss.backward()
        assert model.scorer.log_scale.grad.abs() > 0


def test_score_dropout_drops_weights_in_training_only_and_leaves_the_reported_scores(
    make_model, make_processor, volumes, monkeypatch
):
    model, batch, features, _ = encode(make_model, make_processor, volumes, score_dropout=0.5, fusion="2d")
    calm, scores = read_visual(model, batch, monkeypatch, volumes)
    for row in range(2):
        tokens_2d = features.tokens_2d_VNLD[row]
        weighted = sum(weight * tokens for weight, tokens in zip(scores[row, 0], tokens_2d, strict=True))
        torch.testing.assert_close(calm[row], weighted, rtol=1e-4, atol=1e-5)
    model.train()
    torch.manual_seed(0)
    shaken, same_scores = read_visual(model, batch, monkeypatch, volumes)
    torch.testing.assert_close(scores, same_scores)
    assert (calm[0] - shaken[0]).abs().max() > 1e-3
