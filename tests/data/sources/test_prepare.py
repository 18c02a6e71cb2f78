"""`slicesight prepare` as a user meets it: files, table, leaks, splits, what is skipped, the same bytes again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from json_checks import documented
from slicesight import cli
from slicesight.data.converting import ConvertRequest, convert
from slicesight.data.manifest import read_manifest
from slicesight.data.sources import ENTRY_POINTS, LAYOUTS
from slicesight.data.store import open_prepared
from slicesight.errors import InputError
from slicesight.io.loading import read_volume

SMALL = ("--size", "4,16,16")


@pytest.fixture
def prepare(capsys, monkeypatch, tmp_path):
    """Run the verb -> (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["slicesight", "prepare", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return call


def tree_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def twelve(tmp_path) -> Path:
    """Twelve patients' scans with a report each; nine and ten are one scan."""
    root = tmp_path / "scans"
    for number in range(12):
        (root / f"p{number:02d}").mkdir(parents=True)
        content = 9 if number == 10 else number
        np.save(
            root / f"p{number:02d}" / "ct.npy", np.random.default_rng(content).random((5, 20, 20), dtype=np.float32)
        )
        (root / f"p{number:02d}" / "ct.txt").write_text(f"Report {number}.")
    return root


STRANGER = '''
from slicesight.data.manifest import Case, Conversation


def read_names(request, intake):
    """Every .npy is a case that is asked for its name."""
    return [
        Case(
            id=path.parent.name,
            volume=str(path),
            conversations=(Conversation(task="open", topic="name", question="Who?", answer=path.parent.name),),
        )
        for path in sorted(request.source.rglob("*.npy"))
    ]
'''


@pytest.mark.parametrize("how", ["entry point", "line"])
def test_another_package_adds_a_layout(how, prepare, twelve, tmp_path, monkeypatch) -> None:
    (tmp_path / "site" / "stranger-1.0.dist-info").mkdir(parents=True)
    (tmp_path / "site" / "stranger.py").write_text(STRANGER)
    monkeypatch.syspath_prepend(tmp_path / "site")
    if how == "line":
        monkeypatch.setitem(LAYOUTS, "names", "stranger:read_names")
    else:
        (tmp_path / "site" / "stranger-1.0.dist-info" / "METADATA").write_text("Name: stranger\nVersion: 1.0\n")
        (tmp_path / "site" / "stranger-1.0.dist-info" / "entry_points.txt").write_text(
            f"[{ENTRY_POINTS}]\nnames = stranger:read_names\n"
        )
    code, _, err = prepare(twelve, "--format", "names", "--out", "ready", "--manifest-only")
    assert code == 0, err
    answers = [case.conversations[0].answer for case in read_manifest(tmp_path / "ready" / "manifest.jsonl")]
    assert "p00" in answers


def test_m3d_cap_becomes_a_manifest_volumes_and_a_deduplicated_split(prepare, write_m3d_cap, tmp_path) -> None:
    root = write_m3d_cap("raw")
    code, out, err = prepare(root, "--format", "m3d-cap", "--out", "ready", *SMALL)
    assert code == 0, err
    ready = tmp_path / "ready"
    cases = read_manifest(ready / "manifest.jsonl")
    assert [case.split for case in cases] == ["train", "train", "train", "val", "test"]
    for case in cases:
        assert not Path(case.volume).is_absolute()
        assert read_volume(ready / case.volume).num_source_slices > 5
    prepared = open_prepared(ready)
    assert prepared.voxels(cases[0].id).shape == (4, 16, 16)
    left = read_manifest(ready / "manifest_deduplicated.jsonl")
    # ct_quizze/000009 shows ct_case/000001 in JPEG: all series of that case leave the training split
    assert {case.id for case in cases} - {case.id for case in left} == {cases[0].id, cases[1].id}
    deduplicated = open_prepared(ready / "manifest_deduplicated.jsonl")
    assert [case.id for case in deduplicated.cases] == [case.id for case in left]
    np.testing.assert_array_equal(deduplicated.voxels(left[0].id), prepared.voxels(left[0].id))
    (group,) = [json.loads(line) for line in (ready / "duplicates.jsonl").read_text().splitlines()]
    assert group["leak"] is True
    assert group["links"] == ["look", "patient"]
    summary = json.loads((ready / "summary.json").read_text())
    assert summary["counts"]["train"]["scans"] == 3
    assert summary["deduplicated"]["counts"]["train"]["scans"] == 1
    assert summary["duplicates"]["cases_in_leaks"] == {"train": 2, "test": 1}
    table = [line.split() for line in out.splitlines()]
    assert ["train", "train,", "deduplicated", "val", "test"] in table
    assert ["scans", "3", "1", "1", "1"] in table
    assert ["report", "3", "1", "1", "1"] in table
    assert "manifest_deduplicated.jsonl leaves 2 scans out of train" in err
    assert "next: slicesight train RECIPE.yaml --set 'data={prepared: ready}'" in err


def test_leaks_may_leave_the_test_side_instead(prepare, write_m3d_cap, tmp_path) -> None:
    root = write_m3d_cap("npy")
    arguments = (root, "--format", "m3d-cap", "--out", "ready", "--manifest-only", "--leaks-leave", "test")
    assert prepare(*arguments)[0] == 0
    left = read_manifest(tmp_path / "ready" / "manifest_deduplicated.jsonl")
    assert [case.split for case in left] == ["train", "train", "train", "val"]
    assert not (tmp_path / "ready" / "volumes").exists()


def test_content_alone_misses_the_reencoded_copy_that_the_look_finds(prepare, write_m3d_cap, tmp_path) -> None:
    root = write_m3d_cap("raw")
    arguments = ("--format", "m3d-cap", "--out", "ready", "--manifest-only", "--duplicates")
    assert prepare(root, *arguments, "look")[0] == 0
    assert (tmp_path / "ready" / "manifest_deduplicated.jsonl").exists()
    assert prepare(root, *arguments, "content")[0] == 0
    assert not (tmp_path / "ready" / "manifest_deduplicated.jsonl").exists()
    assert json.loads((tmp_path / "ready" / "summary.json").read_text())["duplicates"]["leaks"] == 0
    assert prepare(root, *arguments, "off")[0] == 0
    assert not (tmp_path / "ready" / "duplicates.jsonl").exists()
    assert json.loads((tmp_path / "ready" / "summary.json").read_text())["duplicates"] is None


def test_a_second_run_gives_the_same_bytes_and_reads_no_scan(prepare, twelve, tmp_path, monkeypatch) -> None:
    arguments = (twelve, "--format", "folder", "--out", "ready", "--split-by-patient", 3, *SMALL)
    code, out, err = prepare(*arguments)
    assert code == 0, err
    first = tree_bytes(tmp_path / "ready")
    assert {"manifest.jsonl", "summary.json", "skipped.jsonl", "duplicates.jsonl", "prints.jsonl"} <= set(first)
    monkeypatch.setattr("slicesight.data.duplicates.read_volume", None)
    monkeypatch.setattr("slicesight.data.rows.read_volume", None)
    assert prepare(*arguments)[:2] == (0, out)
    assert tree_bytes(tmp_path / "ready") == first


def test_patients_are_dealt_by_seed_and_copies_stay_together(prepare, twelve, tmp_path) -> None:
    splits = {}
    for seed in (0, 1, 2):
        arguments = (twelve, "--format", "folder", "--out", f"ready{seed}", "--split-by-patient", seed)
        assert prepare(*arguments, "--split-shares", "50,25,25", "--manifest-only")[0] == 0
        cases = read_manifest(tmp_path / f"ready{seed}" / "manifest.jsonl")
        splits[seed] = {case.patient: case.split for case in cases}
        assert splits[seed]["p09"] == splits[seed]["p10"]
        assert set(splits[seed].values()) == {"train", "val", "test"}
        assert not (tmp_path / f"ready{seed}" / "manifest_deduplicated.jsonl").exists()
    assert splits[0] != splits[1] or splits[1] != splits[2]


def test_json_on_stdout_is_the_summary_and_nothing_else(prepare, twelve, tmp_path) -> None:
    code, out, _ = prepare(twelve, "--format", "folder", "--out", "ready", "--manifest-only", "--json")
    assert code == 0
    assert documented("prepare", out) == json.loads((tmp_path / "ready" / "summary.json").read_text())
    assert json.loads(out)["counts"] == {
        "no split": {"scans": 12, "patients": 12, "questions": 12, "tasks": {"report": {"report": {"questions": 12}}}}
    }


def test_questions_of_another_source_join_the_scans_they_are_about(
    prepare, write_m3d_cap, write_m3d_vqa, vqa_row, tmp_path
) -> None:
    """Med-2E3's eleven pairs a volume: M3D-Cap's report and M3D-VQA's questions."""
    tables = {
        "M3D_VQA_train.csv": [vqa_row("ct_case/000002/Axial"), vqa_row("ct_case/000003/Axial")],
        "M3D_VQA_test.csv": [vqa_row("ct_quizze/000009/Axial")],
    }
    root = write_m3d_vqa(tables).parent
    listed = {
        split: [{"image": f"M3D_Cap_npy/{name}.npy", "text": f"M3D_Cap_npy/{name.rpartition('/')[0]}/text.txt"}]
        for split, name in (("train", "ct_case/000002/Axial"), ("test", "ct_quizze/000009/Axial"))
    }
    (root / "M3D_Cap.json").write_text(json.dumps(listed))
    also = ("--also", f"m3d-vqa={root / 'M3D-VQA'}", "--manifest-only")
    assert prepare(root, "--format", "m3d-cap", "--out", "ready", *also)[0] == 0
    cases = read_manifest(tmp_path / "ready" / "manifest.jsonl")
    assert [(case.id, case.split, [asked.task for asked in case.conversations]) for case in cases] == [
        ("ct_case/000002/Axial", "train", ["report", "open", "closed"]),
        ("ct_quizze/000009/Axial", "test", ["report", "open", "closed"]),
        ("ct_case/000003/Axial", "train", ["open", "closed"]),
    ]
    code, _, err = prepare(root, "--format", "m3d-cap", "--out", "ready")
    assert code == 2
    assert "was prepared from m3d as m3d-cap and M3D-VQA as m3d-vqa" in err
    assert "expected FORMAT=SOURCE" in prepare(root, "--format", "m3d-cap", "--out", "x", "--also", "m3d-vqa")[2]


def test_limit_takes_the_first_of_each_split(prepare, write_m3d_cap, tmp_path) -> None:
    assert prepare(write_m3d_cap("npy"), "--format", "m3d-cap", "--out", "ready", "--limit", 1, *SMALL)[0] == 0
    cases = read_manifest(tmp_path / "ready" / "manifest.jsonl")
    assert [case.split for case in cases] == ["train", "val", "test"]


@pytest.mark.parametrize("duplicates", ["look", "off"])
def test_a_scan_that_cannot_be_read_stops_or_is_left_out_everywhere(prepare, twelve, tmp_path, duplicates) -> None:
    (twelve / "p04" / "ct.npy").write_bytes((twelve / "p04" / "ct.npy").read_bytes()[:300])
    arguments = (twelve, "--format", "folder", "--out", "ready", "--duplicates", duplicates, *SMALL)
    code, out, err = prepare(*arguments)
    assert (code, out) == (2, "")
    assert "ct.npy: found" in err
    assert err.count("\n") == 1
    code, _, err = prepare(*arguments, "--on-bad-case", "skip")
    assert code == 0
    assert "left out: 1 unreadable scan" in err
    cases = read_manifest(tmp_path / "ready" / "manifest.jsonl")
    assert "p04/ct.npy" not in [case.id for case in cases]
    assert len(open_prepared(tmp_path / "ready").cases) == len(cases) == 11
    (skipped,) = [json.loads(line) for line in (tmp_path / "ready" / "skipped.jsonl").read_text().splitlines()]
    assert (skipped["kind"], skipped["id"]) == ("unreadable scan", "p04/ct.npy")
    first = tree_bytes(tmp_path / "ready")
    assert prepare(*arguments, "--on-bad-case", "skip")[0] == 0
    assert tree_bytes(tmp_path / "ready") == first


def test_source_and_output_may_move_together(prepare, twelve, tmp_path) -> None:
    assert prepare(twelve, "--format", "folder", "--out", "deep/ready", "--manifest-only")[0] == 0
    moved = tmp_path / "moved"
    moved.mkdir()
    twelve.rename(moved / "scans")
    (tmp_path / "deep").rename(moved / "deep")
    for case in read_manifest(moved / "deep" / "ready" / "manifest.jsonl"):
        assert (moved / "deep" / "ready" / case.volume).is_file()


def test_an_output_behind_a_link_still_finds_the_scans(prepare, twelve, tmp_path) -> None:
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    assert prepare(twelve, "--format", "folder", "--out", "link/ready", *SMALL)[0] == 0
    assert len(open_prepared(tmp_path / "link" / "ready")) == 12


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--size", "32,256"), "--size is '32,256'; expected three whole numbers"),
        (("--size", "0,256,256"), "num_slices is 0"),
        (("--window", "sofft_tissue"), "soft_tissue"),
        (("--split-shares", "0,50,50"), "train above 0"),
        (("--volumes", "nowhere"), "nowhere: no such file or folder"),
        (("--format", "m3d-cap"), "neither M3D_Cap.json"),
    ],
)
def test_a_wrong_value_is_one_line_and_nothing_is_written(prepare, twelve, tmp_path, arguments, said) -> None:
    code, out, err = prepare(twelve, "--format", "folder", "--out", "ready", *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "ready").exists()


def test_splits_are_not_dealt_again_where_the_source_has_them(prepare, write_m3d_cap) -> None:
    code, _, err = prepare(write_m3d_cap("npy"), "--format", "m3d-cap", "--out", "ready", "--split-by-patient", 0)
    assert code == 2
    assert "has its own splits (train 3, val 1, test 1); leave out --split-by-patient" in err


def test_a_run_that_is_killed_while_it_writes_can_be_run_again(prepare, twelve, tmp_path, monkeypatch) -> None:
    from slicesight.data import converting

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(converting, "_write_lines", killed)  # right after the manifest
        prepare(twelve, "--format", "folder", "--out", "ready", "--manifest-only")
    assert (tmp_path / "ready/manifest.jsonl").is_file()
    code, _, err = prepare(twelve, "--format", "folder", "--out", "ready", "--manifest-only")
    assert code == 0, err


def test_a_folder_with_another_manifest_or_source_is_left_alone(prepare, twelve, tmp_path) -> None:
    ready = tmp_path / "ready"
    ready.mkdir()
    (ready / "manifest.jsonl").write_text("precious\n")
    assert "was not made by prepare" in prepare(twelve, "--format", "folder", "--out", ready)[2]
    assert (ready / "manifest.jsonl").read_text() == "precious\n"
    (ready / "manifest.jsonl").unlink()
    assert prepare(twelve, "--format", "folder", "--out", ready, "--manifest-only")[0] == 0
    twelve.rename(tmp_path / "others")
    code, _, err = prepare(tmp_path / "others", "--format", "folder", "--out", ready)
    assert code == 2
    assert "was prepared from scans as folder" in err
    assert "would mix with the source" in prepare(tmp_path / "others", "--format", "folder", "--out", "others")[2]


def test_a_source_of_nothing_usable_says_what_was_wrong_first(tmp_path) -> None:
    (tmp_path / "scans").mkdir()
    np.save(tmp_path / "scans" / "a.npy", np.ones((3, 4, 4)))
    with pytest.raises(InputError, match=r"found as folder; .*: a.npy: no text beside this scan; .* a.txt or"):
        convert(ConvertRequest(format="folder", source=tmp_path / "scans", out=tmp_path / "ready"))
    with pytest.raises(InputError, match="format 'm3d' is unknown; use one of m3d-cap"):
        ConvertRequest(format="m3d", source=tmp_path, out=tmp_path / "ready")


def test_closed_questions_show_what_an_answer_without_the_scan_gets_right(prepare, twelve) -> None:
    rows = [f"p{number:02d}/ct.npy,Which?,{'a' if number < 9 else 'b'},a|b,side" for number in range(12)]
    (twelve / "questions.csv").write_text("scan,question,answer,choices,topic\n" + "\n".join(rows) + "\n")
    _, out, _ = prepare(twelve, "--format", "folder", "--out", "ready", "--manifest-only")
    assert ["closed,", "side", "12", "(75%)"] in [line.split() for line in out.splitlines()]


def write_drawn(folder: Path, number: int) -> None:
    """A scan with a label map: brainstem, cord and both parotids as boxes."""
    from slicesight.io.writers import write_nifti
    from slicesight.volumes.volume import Volume

    folder.mkdir()
    voxels = np.full((48, 16, 24), -1000, dtype=np.float32)
    voxels[:, 1:15, 1:23] = 40
    labels = np.zeros(voxels.shape, dtype=np.uint8)
    labels[:, 12:14, 11:13] = 2
    labels[34:44, 3:6, 9:15] = 1
    labels[20 + number : 30, 6:9, 2:6], labels[20 + number : 30, 6:9, 18:22] = 3, 4
    affine = np.diag([0.0, 4, 0, 1])
    affine[0, 2], affine[2, 0] = 4, 3
    volume = Volume(voxels=voxels, affine_lps=affine, spacing_mm=(3, 4, 4), unit="HU", modality="CT")
    write_nifti(volume, folder / "ct.nii.gz")
    write_nifti(volume, folder / "labels.nii.gz", labels=labels)


def test_the_commands_of_the_how_to_run_on_what_it_describes(
    prepare, tmp_path, monkeypatch, write_m3d_cap, write_m3d_vqa, vqa_row, scan_number
) -> None:
    import re
    import shlex

    from slicesight.io.writers import write_dicom, write_nifti

    page = (Path(__file__).parents[3] / "docs" / "how-to" / "prepare.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if line.strip()]
    assert len(commands) >= 6

    table = {"M3D_VQA_test.csv": [vqa_row("ct_case/000002/Axial")]}
    write_m3d_vqa(table).parent.rename(tmp_path / "M3D")
    (write_m3d_cap("npy") / "M3D_Cap.json").rename(tmp_path / "M3D" / "M3D_Cap.json")
    (tmp_path / "med2e3").mkdir()
    turns = [{"from": "human", "value": "<image3d>\nWhich plane?"}, {"from": "gpt", "value": "axial"}]
    item = {"id": "1", "conversations": turns, "vision3d": ["ct_case/000002/Axial.npy"]}
    (tmp_path / "med2e3" / "train.json").write_text(json.dumps([item]))

    scans = tmp_path / "scans"
    for patient in "abc":
        (scans / f"patient_{patient}").mkdir(parents=True)
    write_nifti(scan_number(0), scans / "patient_a" / "ct.nii.gz")
    (scans / "patient_a" / "ct.txt").write_text("A cyst.")
    write_dicom(scan_number(1), scans / "patient_b" / "series")
    (scans / "patient_b" / "report.txt").write_text("No cyst.")
    write_nifti(scan_number(2), scans / "patient_c" / "ct.nii.gz")
    (told,) = re.findall(r"^```json\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    record = json.loads(told)
    del record["split"]  # splits are dealt in the page's first command
    (scans / "patient_c" / "ct.json").write_text(json.dumps(record))
    (scans / "questions.csv").write_text("scan,question,answer\npatient_a/ct.nii.gz,Which phase?,arterial\n")

    rate = tmp_path / "CT-RATE" / "dataset"
    place = rate / "train_fixed" / "train_1" / "train_1_a"
    place.mkdir(parents=True)
    write_nifti(scan_number(3), place / "train_1_a_1.nii.gz")
    lines = ["train_1_a_1.nii.gz,Seen.,Normal.", "train_2_a_1.nii.gz,Not downloaded.,Normal."]
    (rate / "reports.csv").write_text("\n".join(["VolumeName,Findings_EN,Impressions_EN", *lines]) + "\n")

    (tmp_path / "drawn").mkdir()
    (settings,) = re.findall(r"^```yaml\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "drawn" / "masks.yaml").write_text(settings)
    (tmp_path / "drawn" / "patients.csv").write_text("patient,split,leave_out\na,train,\nb,val,brainstem\nc,test,\n")
    for number, patient in enumerate("abc"):
        write_drawn(tmp_path / "drawn" / patient, number)

    for command in commands:
        words = shlex.split(command)
        assert words[:2] == ["slicesight", "prepare"]
        code, _, err = prepare(*words[2:])
        assert code == 0, (command, err)
        prepared = open_prepared(words[words.index("--out") + 1])
        size = words[words.index("--size") + 1] if "--size" in words else "32,256,256"
        assert prepared.voxels(prepared.cases[0].id).shape == tuple(map(int, size.split(",")))
    assert {case.split for case in open_prepared("prepared").cases} == {"train", "val", "test"}


def test_the_last_line_is_a_training_command_that_fits_what_was_prepared(prepare, twelve) -> None:
    own = "next: slicesight train recipes/own-scans.yaml --set 'data={prepared: %s}'"
    for out, arguments, expected in (
        ("small", ("--size", "32,96,96", "--split-by-patient", 0), own % "small" + " (docs/how-to/own-scans.md)"),
        ("large", ("--size", "4,16,16", "--split-by-patient", 0), own % "large" + " --set init=null --set 'parts="),
        ("whole", ("--size", "32,96,96"), own % "whole, split: null"),
        ("lines", ("--manifest-only",), "next: the same command without --manifest-only"),
    ):
        code, _, err = prepare(twelve, "--format", "folder", "--out", out, *arguments)
        assert code == 0, err
        assert expected in err.splitlines()[-1]
        assert ("no scan has a split; --split-by-patient 0 deals patients" in err) == (out in ("whole", "lines"))


def test_the_size_it_takes_for_the_small_models_is_that_models() -> None:
    from slicesight.cli.data import SMALL_MODEL_SIZE
    from slicesight.models.shipped import find_folder

    config = json.loads((find_folder("phantom-tiny") / "config.json").read_text())
    assert tuple(config["image_size"]) == SMALL_MODEL_SIZE


def test_a_layout_with_an_id_twice_is_refused_before_anything_is_written(tmp_path, monkeypatch) -> None:
    from slicesight.data.manifest import Case

    def twice(request, intake) -> list[Case]:
        names = ("a.npy", "b.npy", "c.npy")
        return [Case(id="a", volume=str(request.base / name), split="train", conversations=()) for name in names]

    monkeypatch.setitem(LAYOUTS, "twice", "layout_of_one_test:twice")
    monkeypatch.setitem(sys.modules, "layout_of_one_test", SimpleNamespace(twice=twice))
    (tmp_path / "source").mkdir()
    request = ConvertRequest(format="twice", source=tmp_path / "source", out=tmp_path / "out")
    with pytest.raises(InputError, match=r"c\.npy: its id 'a@train' is another scan's"):
        convert(request)
    assert not (tmp_path / "out").exists()


def test_the_summary_says_which_schema_it_follows_and_one_without_is_taken(prepare, twelve, tmp_path) -> None:
    once = (twelve, "--format", "folder", "--out", "ready", "--manifest-only", "--json")
    code, out, _ = prepare(*once)
    assert (code, next(iter(json.loads(out).items()))) == (0, ("schema", 1))
    summary = tmp_path / "ready" / "summary.json"
    summary.write_text(json.dumps({key: value for key, value in json.loads(out).items() if key != "schema"}))
    assert prepare(*once)[0] == 0


def test_nan_is_refused_unless_fill_says_what_takes_its_place(prepare, tmp_path) -> None:
    root = tmp_path / "scans"
    root.mkdir()
    for name in "ab":
        voxels = np.random.default_rng(ord(name)).random((5, 20, 20), dtype=np.float32)
        voxels[0, :3] = np.nan
        np.save(root / f"{name}.npy", voxels)
    (root / "a.txt").write_text("Report.")
    (root / "b.json").write_text(json.dumps({"report": "Report.", "fill": 3}))
    once = (root, "--format", "folder", "--out", "ready", "--split-by-patient", "0", *SMALL)
    code, _, err = prepare(*once)
    assert code == 2
    assert "--fill LOWEST or VALUE" in err
    assert prepare(*once, "--fill", "highest")[0] == 2
    code, _, err = prepare(*once, "--fill", "LOWEST")
    assert code == 0, err
    first, second = read_manifest(tmp_path / "ready" / "manifest.jsonl")
    assert (first.read_options, second.read_options) == ({"fill": "LOWEST"}, {"fill": 3.0})
    lowest = open_prepared(tmp_path / "ready").voxels(first.id)
    assert prepare(*once, "--fill", "9")[0] == 0
    assert not np.array_equal(open_prepared(tmp_path / "ready").voxels(first.id), lowest)
