"""PSAT: counts and shapes of both variants, and what each of them can and cannot tell apart."""

import math

import pytest
import torch

from slicesight.errors import InputError
from slicesight.models.med3dinsight.psat import NUM_BINS, PlaneSliceTransformer, position_codes, slice_bins

PLANES, BINS = torch.tensor([[0, 0, 2], [1, 2, 0]]), torch.tensor([[0, 9, 9], [127, 3, 64]])


def count(parameters) -> int:
    return sum(parameter.numel() for parameter in parameters)


def make(variant="corrected", width=24, **settings):
    torch.manual_seed(0)
    return PlaneSliceTransformer(width, {"image": 5, "text": 7}, variant=variant, num_heads=4, **settings).eval()


def memory(seed=1, grid=(2, 3, 4), width=24):
    return torch.randn(2, width, *grid, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("variant", "ffn", "queries"), [("released", 8, 300), ("corrected", 4 * 768, 32)], ids=["released", "corrected"]
)
def test_parameter_counts_are_those_of_the_formula(variant, ffn, queries) -> None:
    width, outputs = 768, 512
    with torch.device("meta"):
        psat = PlaneSliceTransformer(width, {"shared": outputs}, variant=variant)
    attention = 4 * width * width + 4 * width
    layer = 2 * attention + (2 * width * ffn + ffn + width) + 3 * 2 * width
    table = 3 * 128 * width
    assert count(psat.layers.parameters()) + psat.plane_slice_RJC.numel() == 6 * layer + table
    assert count(psat.parameters()) == 6 * layer + table + queries * width + width * outputs + outputs


def test_the_released_variant_has_the_snapshots_millions_of_parameters() -> None:
    with torch.device("meta"):
        psat = PlaneSliceTransformer(768, {"shared": 512}, variant="released")
    assert round((count(psat.layers.parameters()) + psat.plane_slice_RJC.numel()) / 1e6, 2) == 28.75
    assert round(count(psat.parameters()) / 1e6, 2) == 29.37


@pytest.mark.parametrize("variant", ["released", "corrected"])
def test_every_volume_and_slice_gets_one_vector_per_output(variant) -> None:
    found = make(variant)(memory(), PLANES, BINS)
    assert {name: tuple(vectors.shape) for name, vectors in found.items()} == {"image": (2, 3, 5), "text": (2, 3, 7)}


@pytest.mark.parametrize("variant", ["released", "corrected"])
def test_a_slices_vector_does_not_depend_on_what_else_is_asked(variant) -> None:
    psat = make(variant)
    together = psat(memory(), PLANES, BINS)["image"]
    alone = torch.cat([psat(memory(), PLANES[:, [s]], BINS[:, [s]])["image"] for s in range(3)], dim=1)
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("variant", ["released", "corrected"])
def test_plane_and_slice_change_the_vector_unless_left_out(variant) -> None:
    aware, blind = make(variant)(memory(), PLANES, BINS), make(variant, plane_slice=False)(memory(), PLANES, BINS)
    assert (aware["image"][0, 0] - aware["image"][0, 1]).abs().max() > 1e-3
    assert (aware["image"][0, 1] - aware["image"][0, 2]).abs().max() > 1e-3
    assert torch.allclose(blind["image"][:, 0], blind["image"][:, 1], atol=1e-6)


def test_only_the_corrected_variant_knows_where_a_memory_token_lies() -> None:
    turned = memory().flip(2)  # the same tokens in other places
    for variant, knows in (("released", False), ("corrected", True)):
        psat = make(variant)
        same = torch.allclose(
            psat(memory(), PLANES, BINS)["image"], psat(turned, PLANES, BINS)["image"], rtol=0, atol=1e-5
        )
        assert same is not knows


def test_the_released_variant_reads_query_0_and_the_corrected_one_the_mean() -> None:
    for variant in ("released", "corrected"):
        psat = make(variant, num_queries=3, num_layers=1, plane_slice=False)
        psat.layers[0].self_attn.out_proj.weight.data.zero_()  # queries no longer mix
        before = psat(memory(), PLANES, BINS)["image"]
        psat.queries_KC.data[2] = torch.randn(24)
        moved = (psat(memory(), PLANES, BINS)["image"] - before).abs().max() > 1e-4
        assert moved == (variant == "corrected")


def test_bins_are_even_shares_of_128_or_half_the_index_as_released() -> None:
    index, count_ = torch.tensor([0, 1, 31, 47, 95]), torch.tensor([96] * 5)
    assert slice_bins(index, count_).tolist() == [math.floor(128 * i / 96) for i in index.tolist()]
    assert slice_bins(index, count_, variant="released").tolist() == [0, 0, 15, 23, 47]
    assert slice_bins(torch.tensor([511]), torch.tensor([512])).item() == NUM_BINS - 1


def test_a_released_bin_beyond_the_table_is_refused() -> None:
    with pytest.raises(InputError, match="slice 256 has bin 128"):
        slice_bins(torch.tensor([3, 256]), torch.tensor([300, 300]), variant="released")


def test_position_codes_differ_between_all_cells() -> None:
    codes = position_codes((3, 4, 5), 20)
    assert codes.shape == (60, 20)
    assert torch.cdist(codes, codes).fill_diagonal_(1).min() > 0.05
    assert torch.equal(codes[:, 18:], torch.zeros(60, 2))
    waves = 2 * 10_000 ** -torch.tensor([0.0, 1 / 3, 2 / 3])
    assert torch.allclose(codes.view(3, 4, 5, 20)[2, 1, 3, :3], waves.sin())


def test_a_width_that_does_not_divide_into_heads_is_one_line() -> None:
    with pytest.raises(InputError, match="25 does not divide into 8 heads"):
        PlaneSliceTransformer(25, {"image": 4})
