"""An array on disk is whole or not there."""

from __future__ import annotations

import numpy as np
import pytest

from slicesight.data.array_store import map_array, new_array, save_array
from slicesight.errors import InputError

VALUES = np.random.default_rng(0).integers(0, 255, (3, 4, 5), dtype=np.uint8)


def test_what_is_saved_is_mapped_back(tmp_path) -> None:
    save_array(tmp_path / "a.npy", VALUES)
    with new_array(tmp_path / "b.npy", VALUES.shape, np.uint8) as array:
        for number, values in enumerate(VALUES):
            array[number] = values
        assert not (tmp_path / "b.npy").exists(), "not before it is filled"
    for name in ("a.npy", "b.npy"):
        found = map_array(tmp_path / name)
        assert isinstance(found, np.memmap)
        assert not found.flags.writeable
        np.testing.assert_array_equal(found, VALUES)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_an_array_that_was_not_finished_leaves_the_old_one_and_no_other_file(tmp_path) -> None:
    save_array(tmp_path / "a.npy", VALUES)
    with pytest.raises(KeyError), new_array(tmp_path / "a.npy", (9,), np.float32):
        raise KeyError
    np.testing.assert_array_equal(map_array(tmp_path / "a.npy"), VALUES)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


def test_a_missing_cut_or_foreign_file_is_one_line(tmp_path) -> None:
    save_array(tmp_path / "a.npy", VALUES)
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(content[:-7])
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "text.npy").write_bytes(b"no array")
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object))
    for name in ("cut", "empty", "text", "pickled"):
        with pytest.raises(InputError, match=f"{name}.npy: not a whole array .*; delete it"):
            map_array(tmp_path / f"{name}.npy")
    with pytest.raises(InputError, match="no such file; make the folder"):
        map_array(tmp_path / "none.npy")
