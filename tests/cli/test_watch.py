"""`slicesight watch` asks every scan once, whatever happens to files, names and the process."""

from __future__ import annotations

import os
import shutil
import signal

import pytest

from answer_folders import asked, bad_of, rows_of


@pytest.fixture
def inbox(folder_of_scans):
    return folder_of_scans


@pytest.fixture
def watch(run, here, inbox):
    return lambda *more: run(
        "watch", inbox, "--questions", "q.csv", "--out", "w", "--settle", "0", "--every", "0.01", *more
    )


def test_what_lies_there_is_answered_and_a_restart_asks_nothing(watch, here, tmp_path):
    code, out, err = watch("--once")
    assert (code, out) == (0, "")
    assert asked(here) == ["a.nii.gz", "series"]
    assert "asked a.nii.gz: 2 answers" in err
    assert len(rows_of(tmp_path / "w" / "answers.csv")) == 4
    assert (tmp_path / "w" / "index.html").is_file()
    here.jobs.clear()
    assert watch("--once")[0] == 0
    assert here.jobs == []


def test_answers_that_lie_in_the_inbox_are_no_scans(run, here, inbox):
    for _ in range(2):  # the second run finds the thumbnails of the first
        code, _, _ = run("watch", inbox, "--questions", "q.csv", "--out", "scans/w", "--settle", "0", "--once")
        assert code == 0
    assert asked(here) == ["a.nii.gz", "series"]


def test_a_moved_or_renamed_scan_is_not_asked_again_and_stands_under_its_new_name(watch, here, inbox, tmp_path):
    watch("--once")
    here.jobs.clear()
    (inbox / "sub").mkdir()
    (inbox / "a.nii.gz").rename(inbox / "sub" / "b.nii.gz")
    for file in (inbox / "series").iterdir():
        file.rename(inbox / f"x{file.name}")
    (inbox / "series").rmdir()
    watch("--once")
    assert here.jobs == []
    assert sorted({row["scan"] for row in rows_of(tmp_path / "w" / "answers.csv")}) == [".", "sub/b.nii.gz"]


def test_answers_stay_when_the_scans_are_taken_away(watch, inbox, tmp_path):
    watch("--once")
    shutil.rmtree(inbox / "series")
    (inbox / "a.nii.gz").unlink()
    assert watch("--once")[0] == 0
    assert len(rows_of(tmp_path / "w" / "answers.csv")) == 4


def test_a_poisoned_file_is_listed_once_and_blocks_nobody(watch, here, inbox, tmp_path):
    (inbox / "0.nii.gz").write_bytes((inbox / "a.nii.gz").read_bytes() + b"\0")
    (inbox / "text.nrrd").write_text("hello")
    here.before_job = lambda job: "killed" if job.scan.name == "0.nii.gz" else None
    code, _, err = watch("--once")
    assert code == 3
    assert err.count("cannot be asked: 0.nii.gz: the process that read it was killed") == 1
    here.jobs.clear()
    _, _, err = watch("--once")
    assert here.jobs == []
    assert "cannot be asked: " not in err
    assert [one["scan"] for one in bad_of(tmp_path / "w")] == ["0.nii.gz", "text.nrrd"]
    assert all(
        row["answer"] for row in rows_of(tmp_path / "w" / "answers.csv") if row["scan"] in ("a.nii.gz", "series")
    )


def test_a_series_that_grows_is_asked_again_and_replaces_its_half(watch, here, inbox, tmp_path):
    last = sorted((inbox / "series").iterdir())[-1]
    last.rename(tmp_path / "last")
    watch("--once")
    (tmp_path / "last").rename(last)
    here.jobs.clear()
    watch("--once")
    assert asked(here) == ["series"]
    rows = [row for row in rows_of(tmp_path / "w" / "answers.csv") if row["scan"] == "series"]
    assert len(rows) == 2


def test_sigterm_lets_the_running_scan_finish_and_begins_no_other(watch, here, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    here.before_job = lambda job: os.kill(os.getpid(), signal.SIGTERM)
    code, _, err = watch()
    assert code == 0
    assert "told to stop; what is being asked is finished first" in err
    assert "stopped; 1 scans were asked, 0 cannot be asked" in err
    assert [row["scan"] for row in rows_of(tmp_path / "w" / "answers.csv") if row["answer"]] == ["a.nii.gz"] * 2
    assert signal.getsignal(signal.SIGTERM) is before
    here.before_job = lambda job: None
    here.jobs.clear()
    watch("--once")
    assert asked(here) == ["series"]


def test_new_scans_are_found_while_it_watches_and_a_lost_folder_is_waited_for(
    watch, here, inbox, tmp_path, monkeypatch
):
    from slicesight.io.inbox import Inbox

    looks, real = [], Inbox.whole

    def whole(self):
        looks.append(None)
        if len(looks) == 2:
            inbox.rename(tmp_path / "away")
        if len(looks) == 4:
            (tmp_path / "away").rename(inbox)
            shutil.copy(inbox / "a.nii.gz", inbox / "new.nii.gz")
            with (inbox / "new.nii.gz").open("ab") as file:
                file.write(b"\0")
        if len(looks) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self)

    monkeypatch.setattr(Inbox, "whole", whole)
    code, _, err = watch()
    assert code == 0
    assert err.count("waiting for it to come back") == 1
    assert asked(here) == ["a.nii.gz", "series", "new.nii.gz"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "--questions", "q.csv", "--out", "w"], "nowhere: no such folder"),
        (["scans", "--questions", "none.csv", "--out", "w"], "none.csv: no such file"),
        (["scans", "--questions", "q.csv", "--out", "q.csv"], "q.csv is a file"),
        (["scans", "--questions", "q.csv", "--out", "scans"], "is the folder that is watched"),
        (["scans", "--questions", "q.csv", "--out", "no/w"], "does not exist"),
        (["scans", "--questions", "q.csv", "--out", "theirs"], "which no run of slicesight has written"),
    ],
)
def test_what_cannot_be_watched_is_one_line(run, here, inbox, tmp_path, arguments, said):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.txt").touch()
    code, _, err = run("watch", *arguments)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "w").exists()
