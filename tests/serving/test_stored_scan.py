"""A kept scan comes back as it was, and many threads may read it at once."""

from __future__ import annotations

import ast

import numpy as np
import pytest

from slicesight.phantoms.rendering import make_phantom
from slicesight.serving.stored_scan import read_scan, write_scan
from slicesight.volumes.grid import GridSpec, to_grid


@pytest.fixture
def kept(tmp_path):
    volume = make_phantom(5, 0, pixel_mm=(6.0, 7.0)).volume
    grid = to_grid(volume, GridSpec(num_slices=8, height=16, width=24))
    write_scan(volume, grid, folder=tmp_path)
    return volume, grid


def test_a_kept_scan_comes_back_as_it_was(kept, tmp_path):
    volume, grid = kept
    found = read_scan(tmp_path)
    assert found.grid.voxels.shape == (8, 16, 24)
    assert np.array_equal(found.grid.voxels, grid.voxels)
    assert found.grid.slices == grid.slices
    assert found.grid.receipt == grid.receipt
    assert found.volume.shape == volume.shape
    assert np.allclose(found.volume.affine_lps, volume.affine_lps)
    assert not found.volume.voxels.any()


def test_reading_never_asks_pythons_parser_which_fails_in_several_threads(kept, tmp_path, monkeypatch):
    monkeypatch.setattr(ast, "parse", lambda *_, **__: pytest.fail("the parser is not for many threads"))
    assert read_scan(tmp_path).grid.voxels.shape == (8, 16, 24)
