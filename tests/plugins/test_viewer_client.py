"""The viewers' shared client against a server that listens: what is sent, what comes back, what a person is told."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from serving_address import listening
from slicesight.io.loading import read_volume
from SlicesightLib.answers import ScanAnswer, answer_html
from SlicesightLib.client import Server, Session
from SlicesightLib.masks import predict_command, read_structures
from SlicesightLib.scan_file import ScreenScan, ViewerError, read_labels, to_ras, write_nifti

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
SHARED = PLUGINS / "slicer" / "Slicesight" / "SlicesightLib"
TOKEN = "a-token-of-more-than-16-letters"


@pytest.fixture
def scan(oblique):
    voxels_KJI, matrix = oblique
    return ScreenScan(voxels_KJI, matrix, name="oblique", key="one")


@pytest.fixture
def session(served):
    found = Session(Server(served[0]))
    yield found
    found.close()


def volumes_kept(served):
    return len(served[1].scan_store.volume_ids())


# --- geometry --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["int16", "float32", "uint8", "bool", "int64", "float64", "uint32"])
def test_the_written_file_holds_the_voxels_and_their_place(tmp_path, oblique, kind):
    voxels_KJI, matrix = oblique
    voxels = (np.abs(voxels_KJI) % 200).astype(kind)
    write_nifti(ScreenScan(voxels, matrix), tmp_path / "scan.nii.gz")
    image = nib.load(tmp_path / "scan.nii.gz")
    assert np.array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), voxels)
    assert image.affine == pytest.approx(matrix, abs=1e-5)
    assert image.header.get_zooms() == pytest.approx((6, 7.5, 11))
    assert np.array_equal(read_labels(tmp_path / "scan.nii.gz"), voxels.astype(int))


def test_the_place_of_every_slice_is_that_of_the_predictors_own_answer(tmp_path, tiny_reader, session, scan):
    write_nifti(scan, tmp_path / "scan.nii.gz")
    (own,) = tiny_reader.ask(read_volume(tmp_path / "scan.nii.gz"), "Which phase is this?", max_new_tokens=160)
    found = session.ask(scan, "Which phase is this?")
    assert (found.text, found.scores) == (own.text, pytest.approx(own.scores, abs=1e-6))
    for mine, theirs in zip(found.heaviest, own.slices, strict=True):
        assert mine.number == theirs.grid_slice
        assert mine.position_mm == pytest.approx(theirs.position_mm)
        assert mine.source_slices == theirs.source_slices


def test_a_place_leads_back_to_the_voxel_it_belongs_to(session, scan):
    """The centre of a scored slice lies among the source slices that it names, in the middle of rows and columns."""
    for one in session.ask(scan, "Which phase is this?").slices:
        i, j, k = scan.ijk_at(one.position_mm)
        assert min(one.source_slices) - 0.51 <= k <= max(one.source_slices) + 0.51
        assert (i, j) == pytest.approx((8.5, 9.5), abs=1e-3)
        x, y, z = one.position_mm
        assert scan.ras_from_ijk @ (i, j, k, 1) == pytest.approx((-x, -y, z, 1))
        assert to_ras(one.position_mm) == (-x, -y, z)


@pytest.mark.parametrize(
    ("shape", "matrix", "wrong"),
    [((3, 4), np.eye(4), "three axes"), ((2, 3, 4), np.zeros((4, 4)), "no size"), ((0, 3, 4), np.eye(4), "three axes")],
)
def test_what_is_no_scan_is_refused_before_anything_is_sent(shape, matrix, wrong):
    with pytest.raises(ViewerError, match=wrong):
        ScreenScan(np.zeros(shape), matrix)


def test_voxels_that_fit_no_nifti_are_refused_in_one_line(tmp_path):
    with pytest.raises(ViewerError, match="beyond 32 bits"):
        write_nifti(ScreenScan(np.full((2, 2, 2), 2**40), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(ViewerError, match="complex128"):
        write_nifti(ScreenScan(np.zeros((2, 2, 2), complex), np.eye(4)), tmp_path / "a.nii.gz")


# --- asking ----------------------------------------------------------------------------------------------------------


def test_a_scan_is_sent_once_for_many_questions_and_removed_when_another_is_asked_about(served, session, scan):
    before = volumes_kept(served)
    sent = []
    for question in ("Which phase is this?", ""):
        session.ask(scan, question, on_progress=lambda done, total: sent.append(done == total))
    assert sent.count(True) == 1
    assert volumes_kept(served) == before + 1
    session.ask(replace(scan, key="another"), "Which phase is this?")
    assert volumes_kept(served) == before + 1
    session.close()
    assert volumes_kept(served) == before


def test_a_scan_that_the_server_no_longer_has_is_sent_again(served, session, scan):
    first = session.ask(scan, "Which phase is this?")
    served[1].scan_store.delete(session._kept[1])
    assert session.ask(scan, "Which phase is this?").text == first.text


def test_the_text_comes_while_it_is_made(session, scan):
    texts = []
    answer = session.ask(scan, "Which phase is this?", on_text=texts.append)
    assert len(texts) > 1
    assert all(answer.text.startswith(text) for text in texts)


def test_window_and_unit_are_those_the_person_chose(served, session, scan):
    session.ask(replace(scan, unit="HU"), "Which phase is this?", window="bone")
    stored, _ = served[1].scan_store.read(session._kept[1])
    assert (stored.grid.spec.window, stored.volume.unit) == ("bone", "HU")


def test_no_name_of_the_scan_leaves_the_viewer(served, session, scan, monkeypatch):
    sent = []
    monkeypatch.setattr(
        "SlicesightLib.client._chunks",
        lambda head, stream, tail: iter([sent.append(head + tail) or head, stream.read(), tail]),
    )
    session.ask(replace(scan, name="Jane Doe 1970"), "Which phase is this?")
    assert b"Jane" not in sent[0]
    assert b"scan.nii.gz" in sent[0]


def test_sending_and_asking_can_be_called_off(served, session, scan):
    with pytest.raises(ViewerError, match="called off") as caught:
        session.ask(scan, "Which phase is this?", is_stopped=lambda: True)
    assert caught.value.code == "stopped"


def test_a_server_with_a_token_answers_only_who_has_it(tiny_reader, serve_options, tmp_path):
    with listening(tiny_reader, replace(serve_options, token=TOKEN, folder=tmp_path / "kept")) as (address, _):
        assert Server(f"{address}/v1/", token=f" {TOKEN}\n").model().name == "tiny-random"
        with pytest.raises(ViewerError, match="token is missing or wrong"):
            Server(address, token="another-token").model()


@pytest.mark.parametrize(
    "address", ["ftp://a", "localhost:8000", "http://", "http://a:b", "http://me@a", "", "http://a?b=c"]
)
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(ViewerError, match="no server's address"):
        Server(address)


def test_a_scan_goes_unencrypted_to_another_machine_only_on_request():
    with pytest.raises(ViewerError, match="unencrypted"):
        Server("http://scans.example")
    assert not Server("https://scans.example").is_this_machine
    assert not Server("http://scans.example", allow_plain_http=True).is_this_machine
    assert Server("http://127.0.0.1:8000").is_this_machine
    with pytest.raises(ViewerError, match="no token has"):
        Server("https://scans.example", token="döner")


def test_nobody_there_and_somebody_else_there_are_said_in_one_line():
    with pytest.raises(ViewerError, match=r"cannot be reached.*start slicesight serve"):
        Server("http://127.0.0.1:9").model()
    with OtherProgram(b"<html>hello</html>") as address, pytest.raises(ViewerError, match="no slicesight server"):
        Server(address).model()


def test_a_redirect_is_not_followed_with_the_token(served):
    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", served[0] + "/v1/settings")
            self.end_headers()

        def log_message(self, *_):
            pass

    with OtherProgram(handler=Elsewhere) as address, pytest.raises(ViewerError, match="302"):
        Server(address, token=TOKEN).model()


def test_an_answer_that_stops_half_way_is_no_answer(monkeypatch):
    event = {
        "choices": [{"delta": {"content": "The"}, "finish_reason": None}],
        "notices": [],
        "model": "x",
        "windows": [],
    }
    with OtherProgram(b"data: " + json.dumps(event).encode() + b"\n\n") as address:
        server = Server(address)
        monkeypatch.setattr(server, "model", lambda: type("Model", (), {"name": "x"}))
        with pytest.raises(ViewerError, match="in the middle of its answer"):
            server.ask("vol_1", "Which phase is this?")


class OtherProgram:
    """A program on this machine that is no slicesight server."""

    def __init__(self, body=b"", handler=None):
        class Says(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815  # the library's name

            def log_message(self, *_):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), handler or Says)

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


# --- what is shown ---------------------------------------------------------------------------------------------------


def message(**changes):
    slices = [
        {"rank": rank, "grid_slice": number, "score": score, "source_slices": [2 * number, 2 * number + 1],
         "position_mm": [1.0, 2.0, 10.0 * number], "plane": "axial"}
        for rank, (number, score) in enumerate([(1, 0.7), (0, 0.2), (2, 0.1)], start=1)
    ]  # fmt: skip
    return {
        "content": "arterial <phase>",
        "slices": slices,
        "evidence": "scores",
        "evidence_summary": "Weighs most: slices 2–3.",
        "evidence_caveat": "A score is no proof.",
        "confidence": 0.83,
        "confidence_note": None,
        "abstained": None,
        "would_say": None,
        **changes,
    }


def shown(**changes):
    return ScanAnswer.from_message(
        "Which phase?", message(**changes), finish_reason="stop", notices=["For research use only."]
    )


def test_an_answer_shows_its_confidence_what_weighs_and_what_must_be_read_with_it():
    text = answer_html(shown())
    for part in ("arterial &lt;phase&gt;", "Confidence 0.83", "Weighs most", "no proof", "For research use only."):
        assert part in text
    assert "Held back" not in text


def test_a_held_back_answer_says_what_it_would_have_said_and_why():
    text = answer_html(shown(content="I do not know.", abstained="low_confidence", would_say="arterial"))
    assert "Held back: the model is not sure enough. It would have said: arterial" in text
    assert "Answered although the scan is unlike" in answer_html(shown(abstained="strange_scan"))


def test_an_answer_without_confidence_or_slices_says_so():
    bare = shown(confidence=None, confidence_note="it was not calibrated", slices=[], evidence="none")
    assert "No confidence: it was not calibrated" in answer_html(bare)
    assert "no proof" not in answer_html(bare)
    assert bare.heaviest == []


def test_slices_are_named_by_plane_number_and_place():
    answer = shown()
    assert [one.place for one in answer.slices] == [
        "axial, slices 0–1, z 0 mm",
        "axial, slices 2–3, z 10 mm",
        "axial, slices 4–5, z 20 mm",
    ]
    assert [one.tick for one in answer.slices] == ["z 0", "z 10", "z 20"]
    assert [one.number for one in answer.heaviest] == [1, 0, 2]
    assert [answer.stands_out(number) for number in range(3)] == [False, True, False]


def test_cuts_of_a_reformatted_plane_are_counted_and_a_scan_without_place_has_none():
    slices = [
        {**one, "source_slices": [0, 1, 2], "position_mm": None, "plane": "coronal"} for one in message()["slices"]
    ]
    assert [one.place for one in shown(slices=slices).slices] == [f"coronal, cut {number} of 3" for number in range(3)]


# --- masks -----------------------------------------------------------------------------------------------------------


def test_the_command_for_masks_is_one_the_command_line_takes(tmp_path):
    from test_docs_names import commands

    command = predict_command(
        "python -m", scan=tmp_path / "a b.nii.gz", model=" runs/segment ", mask=tmp_path / "m", findings=tmp_path / "f"
    )
    assert command[:5] == [sys.executable, "-m", "slicesight", "insight", "predict"]
    assert command[5:8] == [str(tmp_path / "a b.nii.gz"), "--model", "runs/segment"]
    assert {word for word in command if word.startswith("--")} <= commands()["insight", "predict"]


def test_a_missing_program_or_model_is_said_before_anything_runs(tmp_path):
    places = {"scan": tmp_path, "mask": tmp_path, "findings": tmp_path}
    with pytest.raises(ViewerError, match="not on this machine's path"):
        predict_command("no-such-program", model="runs/segment", **places)
    with pytest.raises(ViewerError, match="no model for masks"):
        predict_command("python -m", model=" ", **places)


def test_structures_are_read_as_the_command_line_writes_them(tmp_path):
    (tmp_path / "f.json").write_text('{"structures": [{"name": "brain", "value": 3, "voxels": 7, "volume_ml": 1.5}]}')
    (found,) = read_structures(tmp_path / "f.json")
    assert (found.name, found.value, found.volume_ml) == ("brain", 3, 1.5)
    with pytest.raises(ViewerError, match="no little-endian NIfTI"):
        read_labels(tmp_path / "f.json")


# --- where the files run ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["answers.py", "background.py", "client.py", "masks.py", "scan_file.py"])
def test_the_shared_files_are_one_and_need_only_numpy_and_an_older_python(name):
    """3D Slicer 5.0 to 5.8 runs Python 3.9."""
    text = (SHARED / name).read_text(encoding="utf-8")
    assert (PLUGINS / "napari" / "src" / "napari_slicesight" / name).resolve() == SHARED / name
    tree = ast.parse(text, feature_version=(3, 9))
    for node in ast.walk(tree):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
        assert all(module.split(".")[0] in {*sys.stdlib_module_names, "numpy"} for module in modules), modules
        keywords = {keyword.arg for keyword in node.keywords} if isinstance(node, ast.Call) else set()
        assert not keywords & {"strict", "kw_only", "slots"}


def test_the_shared_files_run_without_slicesight_and_torch(tmp_path):
    code = (
        "import sys; import SlicesightLib.client; "
        "assert not {'torch', 'slicesight', 'nibabel', 'requests'} & set(sys.modules), 'too much'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(SHARED.parent)}, cwd=tmp_path)
