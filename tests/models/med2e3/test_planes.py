import pytest
import torch
from torch.nn import functional

from slicesight.errors import ModelError
from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration
from slicesight.models.med2e3.planes import cut_planes, describe_planes, regroup_bins

ALL = ["axial", "coronal", "sagittal"]
QUESTIONS = ["What is shown in this image?", "Is the liver enlarged?"]


def test_each_plane_is_an_upright_picture_of_its_own_cut():
    volume = torch.rand(1, 1, 6, 6, 6)
    slices = cut_planes(volume, ALL)[0]
    cube = volume[0, 0]
    for j in range(6):
        assert torch.equal(slices[j], cube[j])
        for row in range(6):
            for column in range(6):
                assert slices[6 + j, row, column] == cube[5 - row, j, column]
                assert slices[12 + j, row, column] == cube[5 - row, column, j]


def test_a_bright_spot_appears_where_anatomy_says():
    volume = torch.zeros(1, 1, 8, 32, 32)
    volume[0, 0, 6, 4:8, 24:28] = 1  # superior, anterior, patient-left
    slices = cut_planes(volume, ALL)[0].unflatten(0, (3, 8))
    axial, coronal, sagittal = (plane.flatten(1).sum(1).argmax().item() for plane in slices)
    assert (axial, coronal, sagittal) == (6, 1, 6)
    rows = slices[1, 1].sum(1).argmax().item(), slices[2, 6].sum(1).argmax().item()
    assert all(row < 16 for row in rows), "superior is at the top of a coronal and a sagittal picture"


def test_positions_beyond_n_are_averages_of_neighbours_and_rows_are_interpolated():
    volume = torch.rand(2, 1, 4, 8, 12)
    coronal = cut_planes(volume, ["coronal"])
    assert coronal.shape == (2, 4, 8, 12)
    expected = functional.interpolate(
        volume[:, 0, :, 2:4].mean(dim=2).flip(1)[:, None], size=(8, 12), mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(coronal[:, 1], expected[:, 0])


def test_bins_of_a_plane_hold_the_tokens_along_its_axis():
    tokens = torch.randn(1, 2, 12, 5)
    cells = tokens.reshape(2, 3, 4, 5)
    for plane, count in zip(ALL, (2, 3, 4), strict=True):
        bins = regroup_bins(tokens, (2, 3, 4), plane)[0]
        assert len(bins) == count
        for b in range(count):
            where = tuple(b if name == plane else slice(None) for name in ALL)
            assert torch.equal(bins[b], cells[where].reshape(-1, 5))


@pytest.fixture
def model(make_model):
    return make_model(planes=ALL)


def test_bins_that_do_not_divide_the_slices_of_a_plane_serve_the_slices_that_lie_in_them():
    tokens_3d, tokens_2d = torch.randn(1, 2, 3, 5), torch.randn(1, 16, 4, 5)
    found = describe_planes(tokens_3d, tokens_2d, planes=["axial", "coronal"], grid=(2, 3, 1), num_slices=8)
    for j, bin_number in enumerate([0, 0, 0, 1, 1, 1, 2, 2]):
        expected = torch.cat([tokens_3d[0, :, bin_number], tokens_2d[0, 8 + j]]).mean(0)
        torch.testing.assert_close(found[0, 8 + j], expected)


def test_all_slices_share_one_softmax_written_as_a_loop(model, make_processor, volumes):
    batch = make_processor(model)(QUESTIONS, volumes=volumes[:1])
    features = model.encode_volumes(volumes[:1])
    assert features.tokens_2d_VNLD.shape[1] == 24
    scores = model(**batch).slice_scores
    cells = features.tokens_3d_VKPD.reshape(2, 2, 2, 32)
    for row in range(2):
        question = model.embed_tokens(batch["input_ids"])[row][batch["question_mask"][row]].mean(0)
        relevance = []
        for number in range(3):
            for j in range(8):
                around = cells.movedim(number, 0)[j // 4].reshape(-1, 32)
                own = features.tokens_2d_VNLD[0, 8 * number + j]
                relevance.append(question @ torch.cat([around, own]).mean(0))
        expected = torch.softmax(50 * torch.stack(relevance), dim=0)
        torch.testing.assert_close(scores[row, 0], expected, rtol=1e-4, atol=1e-6)


def test_tokens_carry_their_plane_and_position(model, volumes):
    tokens = model.encode_volumes(volumes).tokens_2d_VNLD
    with torch.no_grad():
        model.plane_embedding.plane[1] += 1
        model.plane_embedding.position[2] += 10
    change = (model.encode_volumes(volumes).tokens_2d_VNLD - tokens).mean(dim=(0, 2, 3))
    expected = [10.0 * (j == 2) + 1.0 * (number == 1) for number in range(3) for j in range(8)]
    torch.testing.assert_close(change, torch.tensor(expected), rtol=1e-3, atol=1e-4)


def test_the_number_of_visual_tokens_and_prompts_do_not_change(make_model):
    assert make_model(planes=ALL).num_visual_tokens == make_model().num_visual_tokens


@pytest.mark.parametrize("aggregation", ["random", "max", "mean", "text_guided"])
def test_every_aggregation_trains_and_answers_over_three_planes(
    make_model, make_processor, volumes, aggregation, tmp_path
):
    model = make_model(planes=ALL, aggregation=aggregation)
    processor = make_processor(model)
    output = model.train()(**processor(QUESTIONS, volumes=volumes[:2], answers=["a", "b"]))
    output.loss.backward()
    assert model.plane_embedding.plane.grad.abs().max() > 0
    assert output.slice_scores.shape == (2, 1, 24)
    torch.testing.assert_close(output.slice_scores.sum(-1), torch.ones(2, 1))
    model.eval().save_pretrained(tmp_path)
    again = Med2E3ForConditionalGeneration.from_pretrained(tmp_path).eval()
    batch = processor(QUESTIONS, volumes=volumes[:2])
    assert torch.equal(again(**batch).logits, model(**batch).logits)


def test_without_planes_nothing_changes(make_model, make_processor, volumes):
    model = make_model()
    assert model.plane_embedding is None
    assert not any("plane" in name for name in model.state_dict())
    slices = model.projector_2d(model.vision2d(volumes.transpose(1, 2).flatten(0, 1))).unflatten(0, (3, 8))
    assert torch.equal(model.encode_volumes(volumes).tokens_2d_VNLD, slices)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"planes": ["axial", "oblique"]}, "oblique"),
        ({"planes": []}, "planes is"),
        ({"planes": ["axial", "axial"]}, "expected different ones"),
    ],
)
def test_planes_that_cannot_be_cut_are_refused(make_model, overrides, words):
    with pytest.raises(ModelError, match=words):
        make_model(**overrides)
