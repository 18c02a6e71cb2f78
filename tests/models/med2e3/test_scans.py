"""Does the processor take a scan as it lies there, and put it on the model's grid as the predictor does?"""

import nibabel
import numpy as np
import pytest
import torch

import slicesight
from slicesight.errors import InputError
from slicesight.models.med2e3.processing import Med2E3Processor
from slicesight.volumes.grid import GridSpec, to_grid

GRID = {"num_slices": 8, "height": 32, "width": 32, "window": "soft_tissue"}


@pytest.fixture
def processor(tokenizer):
    return Med2E3Processor(tokenizer, num_visual_tokens=3, template="short", grid=GRID)


@pytest.fixture
def path(tmp_path):
    voxels = np.random.default_rng(3).integers(-1000, 1000, (40, 36, 10)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-2.0, -2.0, 3.0, 1.0])), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def test_a_path_a_volume_and_its_grid_are_the_same_input(processor, path):
    volume = slicesight.read_volume(path)
    grid = to_grid(volume, GridSpec.from_dict(GRID))
    expected = torch.from_numpy(grid.voxels)[None, None]
    for given in (path, str(path), volume, grid, grid.voxels, [path], [volume]):
        assert torch.equal(processor("What?", volumes=given)["volumes"], expected)
    batch = processor(["a", "b"], volumes=[str(path), grid.voxels])
    assert batch["volume_index"].tolist() == [[0], [1]]
    assert torch.equal(batch["volumes"], torch.cat([expected, expected]))


def test_a_scan_needs_grid_settings_and_one_window(tokenizer, path):
    without = Med2E3Processor(tokenizer, num_visual_tokens=3)
    with pytest.raises(InputError, match="no grid settings, which a scan needs; pass grid="):
        without("What?", volumes=path)
    three = Med2E3Processor(tokenizer, num_visual_tokens=3, grid={**GRID, "window": "lung+bone+soft_tissue"})
    with pytest.raises(InputError, match="gives 3 channels; name a single window"):
        three("What?", volumes=path)


def test_an_array_off_the_grid_is_put_on_it_as_its_file_is_and_says_what_it_lacks(tokenizer, tmp_path, caplog):
    processor = Med2E3Processor(tokenizer, num_visual_tokens=3, template="short", grid={**GRID, "window": "auto"})
    hounsfield = np.random.default_rng(4).integers(-1000, 1000, (8, 32, 32)).astype(np.int16)
    grey = np.random.default_rng(5).random((5, 40, 40), np.float32)
    for number, array in enumerate((hounsfield, grey)):
        np.save(tmp_path / f"{number}.npy", array)
        expected = processor("What?", volumes=tmp_path / f"{number}.npy")["volumes"]
        assert not caplog.text
        assert torch.equal(processor("What?", volumes=array)["volumes"], expected)
        assert "an array carries no geometry" in caplog.text
        caplog.clear()
    assert expected.shape == (1, 1, 8, 32, 32)


def test_values_that_cannot_be_grey_are_refused_with_the_way_out(processor):
    with pytest.raises(InputError, match=r"expected finite numbers in \[0, 1\]: give a scan in HU as its file"):
        processor("What?", volumes=torch.full((8, 32, 32), -1000.0))
    for values in (np.full((8, 32, 32), -1000, np.int16), np.full((8, 32, 32), np.nan, np.float32)):
        with pytest.raises(InputError, match=r"array\.npy: ") as caught:
            processor("What?", volumes=values)
        assert "\n" not in str(caught.value)
