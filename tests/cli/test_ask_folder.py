"""`slicesight ask FOLDER QUESTIONS.csv --out TABLE` as a user meets it: every scan once, nothing lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from answer_folders import QUESTIONS, ThisProcess, asked, bad_of, rows_of
from slicesight.errors import InputError
from slicesight.inference.answers import Answer


@pytest.fixture
def ask(run, here, folder_of_scans, tmp_path):
    return lambda *more, out="answers.csv", questions="q.csv": run("ask", "scans", questions, "--out", out, *more)


def refused(result) -> str:
    code, out, err = result
    assert (code, out) == (2, "")
    line = err.splitlines()[-1]
    assert line.startswith("slicesight: ")
    assert len(err.splitlines()) == 1
    return line


def test_a_row_for_each_scan_and_question_with_what_the_predictor_says(ask, here, tmp_path, tiny_reader):
    code, out, err = ask()
    assert (code, out) == (0, "")
    assert "wrote answers.csv: 4 rows about 2 scans; look at answers/index.html" in err
    rows = rows_of(tmp_path / "answers.csv")
    assert [(row["scan"], row["id"]) for row in rows] == [
        ("a.nii.gz", "phase"),
        ("a.nii.gz", "q2"),
        ("series", "phase"),
        ("series", "q2"),
    ]
    assert [bool(row["series"]) for row in rows] == [False, False, True, True]
    prompts = ["Which phase is this? Choices: A. arterial B. venous", "What is seen?"]
    expected: list[Answer] = tiny_reader.ask(tmp_path / "scans/a.nii.gz", prompts, choices="both")
    for row, answer in zip(rows, expected, strict=False):
        assert row["answer"] == answer.text
        assert row["choice"] == (answer.choice or "")
        assert json.loads(row["scores"]) == pytest.approx(answer.scores)
        assert json.loads(row["heaviest_slices"]) == list(answer.slices[0].source_slices)
        assert (row["abstained"], row["error"]) == ("false", "")
        assert float(row["seconds"]) > 0
        assert (tmp_path / row["thumbnail"]).read_bytes()[:2] == b"\xff\xd8"
        page, anchor = row["report"].split("#")
        assert f'id="{anchor}"' in (tmp_path / page).read_text()
    assert json.loads(rows[0]["choices"]) == ["arterial", "venous"]
    assert len(here.jobs) == 2, "each scan is read and encoded once for all its questions"


def test_csv_json_lines_and_parquet_hold_the_same(ask, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install 'slicesight[prepare]'")
    for name in ("one.csv", "two.jsonl", "three.parquet"):
        assert ask(out=name)[0] == 0
    table = parquet.read_table(tmp_path / "three.parquet").to_pylist()
    lines = [json.loads(line) for line in (tmp_path / "two.jsonl").read_text().splitlines()]
    varying = ("seconds", "report", "thumbnail")
    for row, line, cells in zip(table, lines, rows_of(tmp_path / "one.csv"), strict=True):
        same = [{name: value for name, value in one.items() if name not in varying} for one in (row, line)]
        assert same[0] == same[1]
        assert {name: json.loads(cells[name]) for name in ("scores", "position_mm")} == {
            name: line[name] for name in ("scores", "position_mm")
        }
        assert cells["answer"] == line["answer"]
        assert line["confidence"] is None
        assert cells["confidence"] == ""


def test_bad_scans_are_rows_with_their_error_listed_at_the_end_and_in_the_exit_code(ask, folder_of_scans, tmp_path):
    (folder_of_scans / "cut.nii.gz").write_bytes((folder_of_scans / "a.nii.gz").read_bytes()[:9000])
    (folder_of_scans / "text.nrrd").write_text("hello")
    code, _, err = ask()
    assert code == 3
    assert "2 of 4 scans could not be asked everything, they are in answers/bad.jsonl: cut.nii.gz: " in err
    assert [one["scan"] for one in bad_of(tmp_path / "answers")] == ["cut.nii.gz", "text.nrrd"]
    rows = rows_of(tmp_path / "answers.csv")
    assert [row["scan"] for row in rows if row["error"]] == ["cut.nii.gz"] * 2 + ["text.nrrd"] * 2
    assert "truncated" in rows[2]["error"]
    assert all(row["answer"] for row in rows if not row["error"])


def test_a_scan_that_kills_its_process_and_a_fault_of_ours_cost_no_other_scan(
    ask, here, folder_of_scans, tmp_path, monkeypatch
):
    shutil.copy(folder_of_scans / "a.nii.gz", folder_of_scans / "b.nii.gz")
    (folder_of_scans / "b.nii.gz").write_bytes((folder_of_scans / "a.nii.gz").read_bytes() + b"\0")
    here.before_job = lambda job: "killed" if job.scan.name == "b.nii.gz" else None
    code, _, err = ask()
    assert code == 3
    assert "1 of 3 scans could not be asked everything" in err
    assert "b.nii.gz: the process that read it was killed" in bad_of(tmp_path / "answers")[0]["error"]
    from slicesight.io.scan_tree import FoundScan

    here.before_job = lambda job: None
    monkeypatch.setattr(FoundScan, "read", lambda self, **_: 1 / 0)
    code, _, err = ask()
    assert code == 3
    assert asked(here)[-1] == "b.nii.gz", "what could not be asked is tried again, the rest is kept"
    (bad,) = bad_of(tmp_path / "answers")
    assert "a fault of slicesight, please report it (ZeroDivisionError" in bad["error"]
    assert "Traceback" in bad["fault"]


class Kill(BaseException):
    """As kill -9: nothing of ours runs afterwards."""


def test_a_killed_run_goes_on_and_no_scan_is_asked_twice_or_lost(ask, here, folder_of_scans, tmp_path):
    for number in range(4):
        (folder_of_scans / f"n{number}.nii.gz").write_bytes(
            (folder_of_scans / "a.nii.gz").read_bytes() + bytes([number])
        )

    def killed_at_the_third(job):
        if len(here.jobs) == 3:
            raise Kill

    here.before_job = killed_at_the_third
    with pytest.raises(Kill):
        ask()
    assert not (tmp_path / "answers.csv").exists()
    journal = tmp_path / "answers" / "journal.jsonl"
    whole = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(whole[:-1]) + whole[-1][: len(whole[-1]) // 2])  # the last line was not whole on disk
    done = {name for line in whole[:-1] if "cells" in (found := json.loads(line)) for name in [found["content"]]}
    here.before_job = lambda job: None
    here.jobs.clear()
    code, _, err = ask()
    assert code == 0
    assert not done & {job.content for job in here.jobs}
    assert len(here.jobs) == 6 - len(done)
    assert len(rows_of(tmp_path / "answers.csv")) == 12
    assert all(row["answer"] for row in rows_of(tmp_path / "answers.csv"))
    here.jobs.clear()
    code, _, err = ask()
    assert here.jobs == []
    assert "6 of 6 scans had their answers from an earlier run" in err


def test_ctrl_c_finishes_what_is_asked_and_the_same_line_goes_on(ask, here, tmp_path):
    here.before_job = lambda job: os.kill(os.getpid(), signal.SIGINT)
    code, _, err = ask()
    assert code == 130
    assert "stopped; 1 scans were asked now, and are kept" in err
    assert not (tmp_path / "answers.csv").exists()
    here.before_job = lambda job: None
    assert ask()[0] == 0
    assert asked(here) == ["a.nii.gz", "series"]


def test_moved_and_copied_scans_are_known_and_only_new_questions_are_asked(ask, here, folder_of_scans, tmp_path):
    ask()
    before = {row["scan"]: row["answer"] for row in rows_of(tmp_path / "answers.csv") if row["id"] == "phase"}
    (folder_of_scans / "a.nii.gz").rename(folder_of_scans / "renamed.nii.gz")
    (folder_of_scans / "series").rename(folder_of_scans / "moved")
    shutil.copy(folder_of_scans / "renamed.nii.gz", folder_of_scans / "copy.nii.gz")
    here.jobs.clear()
    assert ask()[0] == 0
    assert here.jobs == []
    after = {row["scan"]: row["answer"] for row in rows_of(tmp_path / "answers.csv") if row["id"] == "phase"}
    assert after == {
        "copy.nii.gz": before["a.nii.gz"],
        "moved": before["series"],
        "renamed.nii.gz": before["a.nii.gz"],
    }
    (tmp_path / "q.csv").write_text(QUESTIONS + "new,Is there a cyst?,\n")
    assert ask()[0] == 0
    assert [(job.prompts, job.scan.name) for job in here.jobs] == [
        (("Is there a cyst?",), "copy.nii.gz"),
        (("Is there a cyst?",), "moved"),
    ]
    assert len(rows_of(tmp_path / "answers.csv")) == 9


def test_answers_that_lie_among_the_scans_are_no_scans(ask, here, tmp_path):
    for _ in range(2):  # the second run finds the thumbnails of the first
        assert ask(out="scans/answers.csv")[0] == 0
    assert asked(here) == ["a.nii.gz", "series"]
    assert len(rows_of(tmp_path / "scans" / "answers.csv")) == 4


def test_one_question_that_is_refused_costs_only_itself(ask, tmp_path, tiny_reader, monkeypatch):
    real = type(tiny_reader).ask

    def ask_some(scan, questions, **options):
        if "Too long" in questions:
            raise InputError("the question is too long;\n shorten it")
        return real(tiny_reader, scan, questions, **options)

    monkeypatch.setattr(tiny_reader, "ask", ask_some)
    (tmp_path / "q.csv").write_text("question\nWhat is seen?\nToo long\nIs it large?\n")
    code, _, err = ask()
    assert code == 3
    assert "2 of 2 scans could not be asked everything" in err
    rows = rows_of(tmp_path / "answers.csv")
    assert [row["error"] for row in rows] == ["", "the question is too long; shorten it", ""] * 2
    assert [bool(row["answer"]) for row in rows] == [True, False, True] * 2


def test_other_settings_are_not_mixed_into_the_same_table(ask):
    ask()
    line = refused(ask("--window", "lung"))
    assert "answers: was begun with window None, now it is 'lung'; name another --out" in line


def test_a_question_of_one_scan_is_asked_of_no_other(ask, here, tmp_path):
    (tmp_path / "q.csv").write_text("question,scan,note\nWhat is seen?,*.nii.gz,x\nIs it large?,none*,\n")
    code, _, err = ask()
    assert code == 0
    assert [(row["scan"], row["question"]) for row in rows_of(tmp_path / "answers.csv")] == [
        ("a.nii.gz", "What is seen?")
    ]
    assert "note: q.csv: note mean nothing here" in err
    assert "note: question q2 was asked of no scan; none matches 'none*'" in err


def test_the_page_shows_every_answer_with_its_slice_and_every_error(ask, folder_of_scans, tmp_path):
    (folder_of_scans / "text.nrrd").write_text("<script>alert(1)</script>")
    (tmp_path / "q.csv").write_text("question\n<b>What?</b>\n")
    ask()
    page = (tmp_path / "answers" / "index.html").read_text()
    assert page.count("<section>") == 3
    assert "&lt;b&gt;What?&lt;/b&gt;" in page
    assert "this is a text file" in page
    for file in re.findall(r'(?:src|href)="([^"#]+)', page):
        assert (tmp_path / "answers" / file).is_file(), file
    assert len(re.findall(r'<img [^>]*src="thumbnails/', page)) == 2
    assert "Research use only" in page or "research use only" in page


def test_no_pages_are_written_where_none_are_wanted(ask, tmp_path):
    assert ask("--no-pages")[0] == 0
    assert not list((tmp_path / "answers" / "reports").iterdir())
    assert not list((tmp_path / "answers" / "thumbnails").iterdir())
    assert rows_of(tmp_path / "answers.csv")[0]["report"] == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["scans", "q.csv"], "q.csv is a table of questions for a folder of scans; say where answers go"),
        (["scans/a.nii.gz", "q.csv", "--out", "a.csv"], "is a file, and --out is for a folder of scans"),
        (["nowhere", "q.csv", "--out", "a.csv"], "nowhere: no such folder"),
        (["empty", "q.csv", "--out", "a.csv"], "empty: no scan in it; expected NIfTI"),
        (["scans", "--out", "a.csv"], "--out needs questions"),
        (["scans", "q.csv", "Why?", "--out", "a.csv"], "q.csv stands beside other questions"),
        (["scans", "none.csv", "--out", "a.csv"], "none.csv: no such file"),
        (["scans", "q.csv", "--out", "a.xlsx"], "a table of answers ends in .csv, .jsonl or .parquet"),
        (["scans", "q.csv", "--out", "no/a.csv"], "does not exist"),
        (["scans", "q.csv", "--out", "scans.csv"], "scans: holds 'a.nii.gz', which no run of slicesight has written"),
        (["scans", "q.csv", "--out", "a.csv", "--html", "a.html"], "--html is for one scan, and --out for many"),
        (["scans", "q.csv", "--out", "a.csv", "--series", "1.2"], "--series is for one scan"),
        (["scans", "q.csv", "--out", "a.csv", "--min-confidence", "0.5"], "has no calibration"),
        (["dicomweb+https://h/studies/1/series/2", "q.csv", "--out", "a.csv"], "--out is for a folder of scans"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_nothing_is_written(run, here, folder_of_scans, tmp_path, arguments, said):
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert said in refused(run("ask", *arguments))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_that_is_not_there_is_one_line_and_nothing_is_written(run, folder_of_scans, tmp_path, monkeypatch):
    monkeypatch.setattr("slicesight.cli.ask_folder.make_processes", lambda workers, **_: ThisProcess())
    assert "nothing-like-it" in refused(run("ask", "scans", "Why?", "--out", "a.csv", "--model", "nothing-like-it"))
    assert not list(tmp_path.glob("a*"))


@pytest.mark.distributed
def test_kill_9_in_the_middle_of_two_workers_loses_nothing_and_asks_nothing_twice(
    folder_of_scans, tmp_path, tiny_model_folder
):
    for number in range(6):
        (folder_of_scans / f"n{number}.nii.gz").write_bytes(
            (folder_of_scans / "a.nii.gz").read_bytes() + bytes([number])
        )
    (folder_of_scans / "text.nrrd").write_text("hello")
    command = [sys.executable, "-m", "slicesight", "ask", "scans", "q.csv", "--out", "answers.csv"]
    command += ["--model", str(tiny_model_folder), "--workers", "2"]
    journal = tmp_path / "answers" / "journal.jsonl"
    killed = subprocess.Popen(command, cwd=tmp_path)
    try:
        end = time.monotonic() + 600
        while not (journal.is_file() and journal.read_text().count('"cells"') >= 2):
            assert killed.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    assert not (tmp_path / "answers.csv").exists()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 3, done.stderr
    assert "1 of 9 scans could not be asked everything" in done.stderr
    contents = [found["content"] for line in journal.read_text().splitlines() if "cells" in (found := json.loads(line))]
    assert len(contents) == len(set(contents)) == 8
    assert len(rows_of(tmp_path / "answers.csv")) == 18
