"""Does a DICOM report say what the answers say, about the right images and the right patient, in valid DICOM?"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.sequence import Sequence

from dicom_checks import complaints
from dicom_items import item
from slicesight.errors import InputError
from slicesight.inference.answers import make_answer
from slicesight.io.dicom.source import SourceSeries, read_source
from slicesight.io.loading import read_volume
from slicesight.io.writers import write_dicom
from slicesight.models.card import RESEARCH_NOTICE, ModelCard
from slicesight.reports.ask import AnswerReport
from slicesight.reports.dicom_sr.document import write_report
from slicesight.reports.dicom_sr.reading import read_report
from slicesight.reports.evidence import EVIDENCE_CAVEAT, describe, summarise
from slicesight.volumes.grid import GridSpec, to_grid
from slicesight.volumes.volume import Volume

QUESTIONS = ["Which phase is this?", 'Wo liegt die Zyste, "links" oder rechts? 嚢胞は?', "A\\B ^ C = D\tE"]
TEXTS = ["portal venous phase", "Größe: 14 mm.\nZweite Zeile → 肝臓", "x" * 3000]
CARD = ModelCard(name="phantom-tiny", trained_on="synthetic", facts={"version": "3.1"})


@pytest.fixture(scope="module")
def scan() -> Volume:
    """A body in air, 16 slices."""
    rng = np.random.default_rng(3)
    voxels = np.full((16, 24, 20), -1000, np.float32)
    voxels[:, 4:-4, 4:-4] = rng.integers(-60, 90, (16, 16, 12))
    affine = np.array([[0, 0, 2.0, -40], [0, 2.0, 0, 12], [5.0, 0, 0, 100], [0, 0, 0, 1]])
    return Volume(voxels=voxels, affine_lps=affine, spacing_mm=(5.0, 2.0, 2.0), modality="CT", unit="HU")


@pytest.fixture(scope="module")
def series(scan, tmp_path_factory) -> Path:
    """The scan as CT slices."""
    folder = tmp_path_factory.mktemp("ct") / "series"
    write_dicom(scan, folder)
    return folder


@pytest.fixture
def changed(series, tmp_path) -> Callable[..., Path]:
    """A copy of the series with other header values."""

    def change(edit: Callable[[pydicom.Dataset], None]) -> Path:
        folder = tmp_path / "changed"
        shutil.copytree(series, folder)
        for file in folder.iterdir():
            dataset = pydicom.dcmread(file)
            edit(dataset)
            dataset.save_as(file)
        return folder

    return change


def consult(scan: Path, *, count: int = 1, **spec: object) -> tuple[AnswerReport, SourceSeries]:
    """Answers with made-up scores about a scan, and the images it was read from."""
    volume = read_volume(scan)
    grid = to_grid(volume, GridSpec(**{"num_slices": 8, "height": 24, "width": 24, **spec}))
    answers = []
    for number in range(count):
        drawn = np.random.default_rng(number).random(len(grid.scored_slices)) ** 3
        scores = (drawn / drawn.sum()).tolist()
        answers.append(make_answer(QUESTIONS[number], TEXTS[number], scores, grid=grid))
    return AnswerReport(volume=volume, grid=grid, card=CARD, answers=answers), read_source(scan, volume)


def written(scan: Path, out: Path, **settings: object) -> tuple[AnswerReport, pydicom.Dataset]:
    consultation, source = consult(scan, **settings)
    consultation.write_sr(out, source=source)
    return consultation, pydicom.dcmread(out)


def enhanced(files: list[Path], out: Path) -> list[int]:
    """One multi-frame file of a series, frames shuffled -> which slice each frame shows."""
    order = np.random.default_rng(4).permutation(len(files)).tolist()
    slices = [pydicom.dcmread(files[index]) for index in order]
    whole = pydicom.dcmread(files[0])
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    whole.SOPInstanceUID = whole.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.5"
    whole.NumberOfFrames = len(slices)
    whole.PixelData = b"".join(one.PixelData for one in slices)

    shared = item(
        PlaneOrientationSequence=Sequence([item(ImageOrientationPatient=whole.ImageOrientationPatient)]),
        PixelMeasuresSequence=Sequence([item(PixelSpacing=whole.PixelSpacing)]),
        PixelValueTransformationSequence=Sequence([item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")]),
    )
    whole.SharedFunctionalGroupsSequence = Sequence([shared])
    whole.PerFrameFunctionalGroupsSequence = Sequence(
        [item(PlanePositionSequence=Sequence([item(ImagePositionPatient=one.ImagePositionPatient)])) for one in slices]
    )
    del whole.ImagePositionPatient
    whole.save_as(out)
    return order


# --- what it says ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
def test_questions_answers_scores_and_images_read_back_equal(series, tmp_path, count):
    consultation, _ = written(series, tmp_path / "sr.dcm", count=count)
    report = read_report(tmp_path / "sr.dcm")
    assert len(report.answers) == count
    for answer, found in zip(consultation.answers, report.answers, strict=True):
        assert found.question == answer.question.replace("\t", " ")
        assert found.text == answer.text
        assert found.scores == answer.scores  # to the last bit
        assert found.even_share == 1 / 8
        for one, read in zip(answer.slices, found.slices, strict=True):
            assert (read.grid_slice, read.score) == (one.grid_slice, one.score)
            assert read.images == tuple((uid, None) for uid in one.sop_instance_uids)
    assert (report.model, report.version) == ("phantom-tiny", "3.1")
    assert set(report.evidence) == set(consultation.volume.sop_instance_uids)


def test_it_says_that_it_is_research_and_that_nobody_verified_it(series, tmp_path):
    consultation, document = written(series, tmp_path / "sr.dcm")
    report = read_report(tmp_path / "sr.dcm")
    assert report.notice == RESEARCH_NOTICE
    assert report.warnings == consultation.warnings
    assert "synthetic CT only" in report.warnings[0]
    assert not report.is_verified
    assert not report.is_complete
    assert document.PreliminaryFlag == "PRELIMINARY"
    assert document.AuthorObserverSequence[0].ObserverType == "DEV"
    assert "research" in document.SeriesDescription


def test_it_says_which_slices_weigh_most_what_that_does_not_mean_and_that_an_answer_was_cut(series, tmp_path):
    consultation, source = consult(series, count=2)
    first, second = consultation.answers
    replace(consultation, answers=[replace(first, cut_at=160), second]).write_sr(tmp_path / "sr.dcm", source=source)
    found = read_report(tmp_path / "sr.dcm").answers
    assert [one.summary for one in found] == [describe(summarise(one)) for one in (first, second)]
    assert [one.doubts for one in found] == [("The answer was cut at 160 tokens; its end is missing.",), ()]
    texts = [str(entry.get("TextValue")) for entry in pydicom.dcmread(tmp_path / "sr.dcm").ContentSequence]
    assert texts.count(EVIDENCE_CAVEAT) == 1


def test_a_model_without_a_version_is_not_given_one(series, tmp_path):
    consultation, source = consult(series)
    replace(consultation, card=ModelCard(name="mine")).write_sr(tmp_path / "sr.dcm", source=source)
    assert read_report(tmp_path / "sr.dcm").version == "not stated"


def test_a_model_that_weighs_no_slices_reports_its_words_alone(series, tmp_path):
    consultation, source = consult(series)
    answer = replace(consultation.answers[0], scores=(), slices=())
    replace(consultation, answers=[answer]).write_sr(tmp_path / "sr.dcm", source=source)
    (found,) = read_report(tmp_path / "sr.dcm").answers
    assert (found.text, found.slices, found.even_share) == (answer.text, (), None)


def test_a_cut_through_all_images_names_its_place_and_none_of_them(series, tmp_path):
    written(series, tmp_path / "sr.dcm", plane="coronal")
    report = read_report(tmp_path / "sr.dcm")
    assert {found.images for found in report.answers[0].slices} == {()}
    assert all("cut" in found.place and "y " in found.place for found in report.answers[0].slices)
    assert len(report.evidence) == len(list(series.iterdir()))


def test_frames_of_an_enhanced_object_are_named_by_their_number(series, tmp_path):
    files = sorted(series.iterdir())
    order = enhanced(files, tmp_path / "enhanced.dcm")
    single = read_volume(series)
    assert sorted(single.sop_instance_uids) == sorted(str(pydicom.dcmread(file).SOPInstanceUID) for file in files)
    file_of = {str(pydicom.dcmread(file).SOPInstanceUID): number for number, file in enumerate(files)}
    consultation, _ = written(tmp_path / "enhanced.dcm", tmp_path / "sr.dcm")
    report = read_report(tmp_path / "sr.dcm")
    assert report.evidence == ("1.2.3.4.5",)
    for one, read in zip(consultation.answers[0].slices, report.answers[0].slices, strict=True):
        assert {uid for uid, _ in read.images} == {"1.2.3.4.5"}
        shown = [order[frame - 1] for _, frame in read.images]
        assert shown == [file_of[single.sop_instance_uids[number]] for number in one.source_slices]


# --- whom it is about ------------------------------------------------------------------------------------------------


def test_patient_and_study_are_the_images_own_and_the_series_is_new(changed, tmp_path):
    def edit(dataset):
        dataset.SpecificCharacterSet = "ISO_IR 100"
        dataset.PatientName, dataset.PatientID, dataset.PatientSex = "Müller^Jörg", "4711", "O"
        dataset.PatientBirthDate, dataset.StudyDate, dataset.StudyTime = "19500102", "20200304", "101112.5"
        dataset.AccessionNumber, dataset.StudyID, dataset.StudyDescription = "A1", "S1", "Thorax/Größe"
        dataset.IssuerOfPatientID = "HOSP"

    folder = changed(edit)
    _, document = written(folder, tmp_path / "sr.dcm")
    image = pydicom.dcmread(next(folder.iterdir()))
    for keyword in ("PatientName", "PatientID", "PatientSex", "PatientBirthDate", "StudyDate", "StudyTime", "StudyID",
                    "AccessionNumber", "StudyInstanceUID", "StudyDescription", "IssuerOfPatientID"):  # fmt: skip
        assert document[keyword].value == image[keyword].value, keyword
    assert document.SpecificCharacterSet == "ISO_IR 192"
    assert "Müller^Jörg".encode() in (tmp_path / "sr.dcm").read_bytes()
    assert document.SeriesInstanceUID != image.SeriesInstanceUID
    assert document.Modality == "SR"
    assert complaints(tmp_path / "sr.dcm") == ([], [])


def test_a_japanese_name_keeps_its_three_writings(changed, tmp_path):
    def edit(dataset):
        dataset.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
        dataset.PatientName = "Yamada^Tarou=山田^太郎=やまだ^たろう"

    _, document = written(changed(edit), tmp_path / "sr.dcm")
    assert str(document.PatientName) == "Yamada^Tarou=山田^太郎=やまだ^たろう"
    assert complaints(tmp_path / "sr.dcm")[0] == []


def test_headers_that_lack_or_break_what_may_be_blank_give_a_valid_report(changed, tmp_path):
    def edit(dataset):
        del dataset.StudyID, dataset.AccessionNumber, dataset.ReferringPhysicianName
        with pydicom.config.disable_value_validation():
            dataset.PatientSex, dataset.PatientBirthDate, dataset.StudyDate = "male", "about 1950", "04.03.2020"
            dataset.StudyTime = "noon"

    _, document = written(changed(edit), tmp_path / "sr.dcm")
    assert not document.PatientSex
    assert not document.StudyDate
    assert complaints(tmp_path / "sr.dcm") == ([], [])


def test_nothing_but_the_document_holds_the_patients_name(changed, tmp_path, capfd, caplog):
    caplog.set_level("DEBUG")
    folder = changed(lambda dataset: setattr(dataset, "PatientName", "Secret^Person"))
    consultation, source = consult(folder)
    consultation.write_sr(tmp_path / "sr.dcm", source=source)
    printed = capfd.readouterr()
    for text in (
        repr(source),
        repr(consultation.volume),
        consultation.json_text(),
        printed.out,
        printed.err,
        caplog.text,
    ):
        assert "Secret" not in text
    assert b"Secret" in (tmp_path / "sr.dcm").read_bytes()


# --- valid DICOM -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_dciodvfy_finds_no_error(series, scan, tmp_path, modality, count):
    folder = series
    if modality == "MR":
        folder = tmp_path / "mr"
        write_dicom(replace(scan, unit="arbitrary", modality="MR"), folder)
    _, document = written(folder, tmp_path / "sr.dcm", count=count)
    image = document.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert pydicom.uid.UID(image.ReferencedSOPClassUID).name == f"{modality} Image Storage"
    assert complaints(tmp_path / "sr.dcm") == ([], [])


def test_dciodvfy_finds_no_error_where_frames_are_named(series, tmp_path):
    enhanced(sorted(series.iterdir()), tmp_path / "enhanced.dcm")
    written(tmp_path / "enhanced.dcm", tmp_path / "sr.dcm")
    assert complaints(tmp_path / "sr.dcm") == ([], [])


def test_names_too_long_for_dicom_are_cut(series, tmp_path):
    consultation, source = consult(series)
    card = ModelCard(name="a\\b\n" + "ä" * 100, facts={"version": "1\n2"})
    replace(consultation, card=card).write_sr(tmp_path / "sr.dcm", source=source)
    document = pydicom.dcmread(tmp_path / "sr.dcm")
    assert document.ManufacturerModelName == "a/b " + "ä" * 30
    assert read_report(tmp_path / "sr.dcm").model == card.name.replace("\n", " ")
    assert complaints(tmp_path / "sr.dcm") == ([], [])


def test_letters_that_utf_8_cannot_write_are_replaced(series, tmp_path):
    consultation, source = consult(series)
    answer = replace(consultation.answers[0], question="half a \udce4 letter\x1b[31m?", text="")
    replace(consultation, answers=[answer]).write_sr(tmp_path / "sr.dcm", source=source)
    (found,) = read_report(tmp_path / "sr.dcm").answers
    assert found.question == "half a   letter [31m?"
    assert complaints(tmp_path / "sr.dcm") == ([], [])


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["CT", "MR_T1"])
def test_a_real_scans_report_has_no_error_that_its_images_do_not_have(shared_folder, tmp_path, name):
    folder = shared_folder / "data" / "sts_dicom" / "STS_002" / name / "image"
    consultation, _ = written(folder, tmp_path / "sr.dcm", count=3)
    report = read_report(tmp_path / "sr.dcm")
    assert report.answers[0].scores == consultation.answers[0].scores
    of_the_images = complaints(next(folder.iterdir()))[0]
    assert set(complaints(tmp_path / "sr.dcm")[0]) <= set(
        of_the_images
    )  # a StudyID of 17 letters stays as the study has it


# --- what is refused -------------------------------------------------------------------------------------------------


def test_a_scan_that_was_no_dicom_is_refused_in_one_line(phantom_file):
    with pytest.raises(InputError, match="this scan is NIfTI-1; a DICOM report refers to DICOM images") as caught:
        read_source(phantom_file, read_volume(phantom_file))
    assert "\n" not in str(caught.value)


def test_images_that_were_stripped_of_their_uids_are_refused(changed):
    def edit(dataset):
        dataset.SOPInstanceUID = ""

    folder = changed(edit)
    with pytest.raises(InputError, match="images without a SOPInstanceUID"):
        read_source(folder, read_volume(folder))


def test_a_study_without_uid_is_refused(changed):
    folder = changed(lambda dataset: dataset.__delattr__("StudyInstanceUID"))
    with pytest.raises(InputError, match="without StudyInstanceUID"):
        read_source(folder, read_volume(folder))


def test_images_of_two_patients_in_one_series_are_refused_without_naming_them(changed):
    folder = changed(lambda dataset: setattr(dataset, "PatientID", f"SECRET{int(dataset.InstanceNumber) // 9}"))
    with pytest.raises(InputError, match=r"images of 2 patients \(PatientID\)") as caught:
        read_source(folder, read_volume(folder))
    assert "SECRET" not in str(caught.value)


def test_images_gone_since_they_were_read_are_counted(changed):
    folder = changed(lambda dataset: None)
    volume = read_volume(folder)
    next(folder.iterdir()).unlink()
    with pytest.raises(InputError, match="1 images of the series are gone"):
        read_source(folder, volume)


def test_a_zip_is_as_good_as_its_folder(series, tmp_path):
    packed = Path(shutil.make_archive(str(tmp_path / "scan"), "zip", series))
    assert read_source(packed, read_volume(packed)).images == read_source(series, read_volume(series)).images


@pytest.mark.parametrize("kind", ["image", "text", "nothing"])
def test_what_is_no_report_of_ours_is_said(series, tmp_path, kind):
    file = tmp_path / "file.dcm"
    if kind == "image":
        file = next(series.iterdir())
    elif kind == "text":
        file.write_text("no DICOM")
    with pytest.raises(InputError) as caught:
        read_report(file)
    assert "\n" not in str(caught.value)


def test_nothing_is_written_where_the_report_cannot_be(series, tmp_path):
    consultation, source = consult(series)
    with pytest.raises(InputError, match="does not exist"):
        consultation.write_sr(tmp_path / "nowhere" / "sr.dcm", source=source)
    source.header.SpecificCharacterSet = "ISO_IR 192"
    broken = replace(source, images=tuple(replace(image, sop_class_uid="1.2.3") for image in source.images))
    with pytest.raises(InputError, match="do not fit a DICOM report"):
        consultation.write_sr(tmp_path / "sr.dcm", source=broken)
    assert not list(tmp_path.iterdir())


def test_the_command_writes_the_report(series, tmp_path, tiny_model_folder, monkeypatch, capsys):
    import sys

    from slicesight import cli

    out = tmp_path / "sr.dcm"
    words = ["ask", series, "Which phase?", "Which plane?", "--sr", out, "--model", tiny_model_folder, "--json", "-"]
    monkeypatch.setattr(sys, "argv", ["slicesight", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    printed = capsys.readouterr()
    assert f"wrote {out}" in printed.err.replace("\n", "")
    import json

    said = json.loads(printed.out)["answers"]
    report = read_report(out)
    assert [found.question for found in report.answers] == ["Which phase?", "Which plane?"]
    assert [list(found.scores) for found in report.answers] == [one["scores"] for one in said]


def test_write_report_is_what_the_consultation_calls(series, tmp_path):
    consultation, source = consult(series)
    uid = write_report(
        tmp_path / "sr.dcm",
        consultation.answers,
        grid=consultation.grid,
        source=source,
        card=CARD,
        title=consultation.title,
        reading=consultation.reading,
    )
    assert read_report(tmp_path / "sr.dcm").sop_instance_uid == uid
