"""What the viewers' tests need: a server that listens, and a scan that lies oblique in the patient."""

from __future__ import annotations

import numpy as np
import pytest

from serving_address import listening


def rotated(degrees: float, axis: int) -> np.ndarray:
    """A rotation about x, y or z."""
    one, other = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(3)
    first, second = (at for at in range(3) if at != axis)
    matrix[first, first], matrix[first, second], matrix[second, first], matrix[second, second] = one, -other, other, one
    return matrix


@pytest.fixture(scope="session")
def oblique():
    """(voxels KJI in whole HU, RAS from IJK): tilted about two axes, three spacings, slices from feet to head."""
    rng = np.random.default_rng(3)
    voxels_KJI = rng.integers(-1010, -990, (14, 20, 18)).astype(np.int16)
    voxels_KJI[:, 3:-3, 3:-3] = rng.integers(-80, 120, (14, 14, 12))
    voxels_KJI[4:7, 5:9, 4:7] = 900
    matrix = np.eye(4)
    matrix[:3, :3] = rotated(17, 0) @ rotated(-12, 2) @ np.diag([-6.0, -7.5, 11.0])
    matrix[:3, 3] = 41.5, 33.25, -120.75
    return voxels_KJI, matrix


@pytest.fixture(scope="session")
def serve_options(tmp_path_factory):
    from slicesight.serving.options import ServeOptions

    return ServeOptions(model="tiny-random", folder=tmp_path_factory.mktemp("viewers") / "kept", port=0)


@pytest.fixture(scope="session")
def served(tiny_reader, serve_options):
    """A server that really listens on this machine -> (its address, what runs it)."""
    with listening(tiny_reader, serve_options) as found:
        yield found
