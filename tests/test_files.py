"""Files appear whole or not at all."""

from __future__ import annotations

import pytest

from slicesight.errors import InputError
from slicesight.files import replacing, write_text


def test_a_failure_half_way_leaves_the_old_file_and_no_rubbish(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")

    def fail_half_way():
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_usual_permissions(tmp_path):
    (tmp_path / "usual").write_text("x")
    write_text(tmp_path / "ours", text="x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_folder_or_a_missing_parent_is_refused(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        write_text(tmp_path, text="x")
    with pytest.raises(InputError, match="does not exist"):
        write_text(tmp_path / "no" / "file", text="x")
