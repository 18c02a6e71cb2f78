"""A Ray cluster prepares the same bytes as this machine alone."""

from __future__ import annotations

import pytest

pytest.importorskip("pyarrow", reason="pip install 'slicesight[prepare]'")

from slicesight.data.preprocess import prepare_volumes
from slicesight.errors import InputError
from slicesight.volumes.grid import GridSpec

pytestmark = pytest.mark.distributed
SPEC = GridSpec(num_slices=4, height=16, width=12)


@pytest.fixture
def ray():
    return pytest.importorskip("ray", reason="pip install 'slicesight[ray]'")


def test_a_local_cluster_gives_the_same_bytes_reports_bad_scans_and_is_gone_afterwards(ray, tmp_path, write_scans):
    manifest = write_scans(tmp_path, range(40))
    (tmp_path / "scans" / "11.nii").write_bytes(b"not a scan at all")
    alone = prepare_volumes(manifest, tmp_path / "alone", spec=SPEC, on_bad_case="skip")
    steps = []
    on_ray = prepare_volumes(
        manifest,
        tmp_path / "ray",
        spec=SPEC,
        workers=2,
        ray_address="local",
        on_bad_case="skip",
        progress=lambda done, total: steps.append(done),
    )
    assert on_ray.digest == alone.digest
    assert on_ray.failed == alone.failed
    assert [case.id for case in on_ray.failed] == ["case 11"]
    assert steps == list(range(41))
    for name in ("index.json", *(path.name for path in (tmp_path / "alone" / "volumes").glob("*.parquet"))):
        assert (tmp_path / "ray" / "volumes" / name).read_bytes() == (
            tmp_path / "alone" / "volumes" / name
        ).read_bytes()
    assert not ray.is_initialized()


def test_a_bad_scan_stops_the_cluster_and_what_is_done_stays(ray, tmp_path, write_scans):
    manifest = write_scans(tmp_path, range(40))
    (tmp_path / "scans" / "30.nii").write_bytes(b"not a scan at all")
    with pytest.raises(InputError, match=r"case 30.*30 scans prepared before it are kept"):
        prepare_volumes(manifest, tmp_path, spec=SPEC, workers=2, ray_address="local")
    assert not ray.is_initialized()
    (tmp_path / "scans" / "30.nii").unlink()
    write_scans(tmp_path, range(40))
    assert prepare_volumes(manifest, tmp_path, spec=SPEC).num_prepared == 10


def test_a_cluster_that_is_not_there_is_one_line(ray, tmp_path, write_scans):
    manifest = write_scans(tmp_path, range(2))
    with pytest.raises(InputError, match=r"no Ray cluster at '127.0.0.1:1' .*use --ray local") as raised:
        prepare_volumes(manifest, tmp_path, spec=SPEC, ray_address="127.0.0.1:1")
    assert "\n" not in str(raised.value)
