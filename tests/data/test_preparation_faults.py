"""A run that is killed, a disk that is full, a shard that is damaged: nothing half-done is counted, nothing is lost."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="pip install 'slicesight[prepare]'")

from slicesight.data import preprocess as preparation
from slicesight.data import rows, shards, workers
from slicesight.data import store as prepared
from slicesight.data.preprocess import prepare_volumes
from slicesight.data.store import open_prepared
from slicesight.errors import InputError
from slicesight.files import only_run_in
from slicesight.volumes.grid import GridSpec

SPEC = GridSpec(num_slices=4, height=16, width=12)
NUMBERS = range(40)


@pytest.fixture
def manifest(tmp_path, write_scans) -> Path:
    return write_scans(tmp_path, NUMBERS)


@pytest.fixture
def uninterrupted(manifest, tmp_path):
    report = prepare_volumes(manifest, tmp_path / "uninterrupted", spec=SPEC)
    return report, files_of(tmp_path / "uninterrupted")


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "volumes").iterdir() if path.suffix != ".jsonl"}


# --- kill -9 ---------------------------------------------------------------------------------------------------------

KILL_POINTS = [
    ("shards.VolumeShardWriter._write", 1),  # nothing of the first shard written
    ("shards.VolumeShardWriter._write", 9),  # in the middle of a shard
    ("shards.VolumeShardWriter._finish", 2),  # all rows written, no footer
    ("shards.os.replace", 1),  # the whole file under its hidden name
    ("shards._sync_folder", 2),  # the shard is named, the journal does not know it
    ("rows.add_to_journal", 2),
    ("rows.read_volume", 33),
    ("prepared.write_text", 1),  # all shards, no index
    ("rows.write_journal", 1),  # the index, but the journal not replaced
]
MODULES = {"shards": shards, "preparation": preparation, "rows": rows, "prepared": prepared}


def die_before_call(point: str, count: int) -> None:
    """Replace a function by one whose `count`-th call kills the process."""
    module, _, path = point.partition(".")
    place = MODULES[module]
    *outer, name = path.split(".")
    for part in outer:
        place = getattr(place, part)
    original, calls = getattr(place, name), []

    def counted(*args, **kwargs):
        calls.append(name)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(place, name, counted)


def killed_run(point: str, count: int, manifest: Path, out: Path) -> None:
    die_before_call(point, count)
    prepare_volumes(manifest, out, spec=SPEC)


@pytest.mark.skipif(sys.platform == "win32", reason="fork and SIGKILL are POSIX")
@pytest.mark.parametrize(("point", "count"), KILL_POINTS, ids=[f"{p}-{n}" for p, n in KILL_POINTS])
def test_a_killed_run_leaves_no_half_shard_and_is_continued(point, count, manifest, uninterrupted, tmp_path):
    out = tmp_path / "out"
    child = multiprocessing.get_context("fork").Process(target=killed_run, args=(point, count, manifest, out))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    whole = {}
    for path in (out / "volumes").glob("*.parquet"):
        if not path.name.startswith("."):
            whole[path.name] = path.read_bytes()
            assert f"shard-{rows.digest_of(shards.read_keys(path))}.parquet" == path.name
    wanted, files = uninterrupted
    assert whole.items() <= files.items()
    if not (out / "volumes" / "index.json").exists():
        with pytest.raises(InputError, match="no complete preparation found"):
            open_prepared(out)
    num_known = len(rows.read_journal(out / "volumes"))
    report = prepare_volumes(manifest, out, spec=SPEC)
    assert report.digest == wanted.digest
    assert files_of(out) == files
    assert report.num_prepared == 40 - num_known
    assert num_known > 0 or len(whole) < 2  # what is lost is one shard at most
    assert prepare_volumes(manifest, out, spec=SPEC).num_prepared == 0


def test_an_interrupted_run_keeps_every_finished_scan(manifest, tmp_path, uninterrupted):
    def interrupt(done: int, total: int) -> None:
        if done == 21:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_volumes(manifest, tmp_path, spec=SPEC, progress=interrupt)
    assert prepare_volumes(manifest, tmp_path, spec=SPEC).num_prepared == 20
    assert files_of(tmp_path) == uninterrupted[1]


def test_half_a_line_in_the_journal_costs_one_scan(manifest, tmp_path):
    prepare_volumes(manifest, tmp_path, spec=SPEC)
    path = tmp_path / "volumes" / rows.JOURNAL
    path.write_bytes(path.read_bytes()[:-30])
    assert prepare_volumes(manifest, tmp_path, spec=SPEC).num_prepared == 1
    path.write_bytes(path.read_bytes() + b'{"id": "case 0", "fi')
    (tmp_path / "scans" / "5.nii").write_bytes((tmp_path / "scans" / "6.nii").read_bytes())
    assert prepare_volumes(manifest, tmp_path, spec=SPEC).num_prepared == 1
    assert len(rows.read_journal(tmp_path / "volumes")) == 40


def test_a_line_added_after_half_a_line_is_read(tmp_path):
    known = rows.JournalEntry(id="a", files="1", content="2", asked_window="auto", acquired="axial", settings={"x": 1})
    (tmp_path / rows.JOURNAL).write_text('{"id": "b", "fil')
    rows.add_to_journal(tmp_path, [known])
    assert rows.read_journal(tmp_path) == {"a": known}


# --- disk and folder -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line_and_the_run_continues_later(manifest, tmp_path, monkeypatch, uninterrupted):
    opened = []

    def full_at_the_second(path: Path):
        opened.append(path)
        return Path("/dev/full").open("wb") if len(opened) == 2 else path.open("wb")

    with monkeypatch.context() as patched:
        patched.setattr(shards, "open_for_writing", full_at_the_second)
        with pytest.raises(InputError, match="the disk is full; make room and run the same again") as raised:
            prepare_volumes(manifest, tmp_path, spec=SPEC)
    assert "\n" not in str(raised.value)
    assert len(list((tmp_path / "volumes").glob("shard-*"))) == 1
    assert not list((tmp_path / "volumes").glob(".writing*"))
    report = prepare_volumes(manifest, tmp_path, spec=SPEC)
    assert 0 < report.num_prepared < 40
    assert files_of(tmp_path) == uninterrupted[1]


def test_a_folder_that_cannot_be_made_is_one_line(manifest, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"file.*choose a folder you may read and write"):
        prepare_volumes(manifest, tmp_path / "file" / "out", spec=SPEC)


def test_two_runs_in_one_folder_are_refused(manifest, tmp_path):
    with (
        only_run_in(tmp_path / "volumes"),
        pytest.raises(InputError, match="another run is preparing volumes here"),
    ):
        prepare_volumes(manifest, tmp_path, spec=SPEC)
    assert prepare_volumes(manifest, tmp_path, spec=SPEC).num_ready == 40


# --- damaged shards --------------------------------------------------------------------------------------------------


@pytest.fixture
def prepared_folder(manifest, tmp_path):
    prepare_volumes(manifest, tmp_path, spec=SPEC)
    return tmp_path


def test_a_truncated_shard_is_refused_and_made_again(prepared_folder, manifest):
    wanted = files_of(prepared_folder)
    shard = max((prepared_folder / "volumes").glob("*.parquet"), key=lambda path: path.stat().st_size)
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"shard is \d+ bytes instead of \d+; run `slicesight prepare` again"):
        open_prepared(prepared_folder)
    report = prepare_volumes(manifest, prepared_folder, spec=SPEC)
    assert report.remade == (shard.name,)
    assert 0 < report.num_prepared < 40
    assert "1 truncated shards made again" in str(report)
    assert files_of(prepared_folder) == wanted


def test_a_missing_shard_is_refused_and_made_again(prepared_folder, manifest):
    wanted = files_of(prepared_folder)
    shard = min((prepared_folder / "volumes").glob("*.parquet"))
    volumes = open_prepared(prepared_folder)
    case_id = next(held.ids[0] for held in volumes.index.shards if held.name == shard.name)
    shard.unlink()
    with pytest.raises(InputError, match=r"this shard is missing; run `slicesight prepare` again"):
        volumes.voxels(case_id)
    with pytest.raises(InputError, match="the shard is missing; run"):
        open_prepared(prepared_folder)
    prepare_volumes(manifest, prepared_folder, spec=SPEC)
    assert files_of(prepared_folder) == wanted


def test_a_flipped_bit_in_the_voxels_is_noticed(prepared_folder):
    volumes = open_prepared(prepared_folder)
    place = volumes._places["case 0"]
    with shards.opened_shard(place.path) as file:
        chunk = file.metadata.row_group(place.index).column(shards.SCHEMA.get_field_index("voxels"))
        middle = chunk.data_page_offset + chunk.total_compressed_size // 2
    damaged = bytearray(place.path.read_bytes())
    damaged[middle] ^= 4
    place.path.write_bytes(bytes(damaged))
    with pytest.raises(InputError, match=r"the shard is damaged .*; delete it and run") as raised:
        volumes.voxels("case 0")
    assert "\n" not in str(raised.value)
    assert volumes.receipt("case 0")["modality"] == "CT"


@pytest.mark.parametrize("text", ["{", '{"format": 1}', "[]", '{"format": 7}'])
def test_a_damaged_index_is_one_line(prepared_folder, text):
    (prepared_folder / "volumes" / "index.json").write_text(text)
    with pytest.raises(InputError, match=r"index.json: .*run `slicesight prepare` again"):
        open_prepared(prepared_folder)


# --- processes -------------------------------------------------------------------------------------------------------


class DeadlyJob(rows.ScanJob):
    """Ends the process that receives it, as a crashing decoder would."""

    def __reduce__(self):
        return os._exit, (1,)


@pytest.mark.distributed
def test_a_scan_that_kills_its_process_is_found_and_the_others_are_prepared(manifest, tmp_path, monkeypatch):
    def job(**settings):
        return (DeadlyJob if settings["case_id"] in ("case 3", "case 20") else rows.ScanJob)(**settings)

    monkeypatch.setattr(preparation, "ScanJob", job)
    report = prepare_volumes(manifest, tmp_path, spec=SPEC, workers=2, on_bad_case="skip")
    assert report.num_prepared == 38
    assert [case.id for case in report.failed] == ["case 3", "case 20"]
    assert "the process that read it was killed" in report.failed[0].reason


KILLED_PARENT = """
import sys
from slicesight.conversations.preparation import prepare_volumes
from slicesight.volumes import GridSpec
if __name__ == "__main__":
    prepare_volumes(sys.argv[1], sys.argv[2], spec=GridSpec(num_slices=4, height=16, width=12), workers=2)
"""


@pytest.mark.distributed
def test_the_workers_of_a_killed_run_end_and_its_shards_are_used(tmp_path, write_scans):
    manifest, out = write_scans(tmp_path, range(300), shape=(60, 64, 64)), tmp_path / "out"
    script = tmp_path / "run.py"
    script.write_text(KILLED_PARENT)
    run = subprocess.Popen([sys.executable, str(script), str(manifest), str(out)], start_new_session=True)
    wait_until(lambda: len(list((out / "volumes").glob("shard-*"))) >= 2, seconds=120)
    run.kill()
    run.wait()
    wait_until(lambda: not processes_of_session(run.pid), seconds=30)
    report = prepare_volumes(manifest, out, spec=SPEC)
    assert 0 < report.num_prepared < 300
    fresh = prepare_volumes(manifest, tmp_path / "fresh", spec=SPEC)
    assert report.digest == fresh.digest
    assert files_of(out) == files_of(tmp_path / "fresh")


def wait_until(claim, *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def processes_of_session(session: int) -> list[int]:
    """Running processes whose session leader was `session`; zombies do not count."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, leader = stat.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(leader) == session and state != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.distributed
def test_every_worker_uses_one_thread_and_the_caller_keeps_its_own_setting(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with workers.one_thread_each(), workers._pool(1) as pool:
        assert pool.submit(os.getenv, "OMP_NUM_THREADS").result() == "1"
        assert pool.submit(os.getenv, "MKL_NUM_THREADS").result() == "1"
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ
