"""Agents' tools as the SDK's own client meets them: what they return, what they refuse, and that they name nobody."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mcp", reason="the SDK is not installed: pip install 'slicesight[mcp]'")

from mcp import Client

from slicesight.errors import InputError
from slicesight.io.writers import write_dicom, write_nifti
from slicesight.serving.agents import scans
from slicesight.serving.agents.model_desk import CalledOff, ModelDesk
from slicesight.serving.agents.options import AgentOptions
from slicesight.serving.agents.server import agent_server
from slicesight.serving.sandbox import what_is_shut
from slicesight.volumes.volume import Volume

NAME, PATIENT_ID = "Doe^Jane", "MRN-4711"


@pytest.fixture(scope="module")
def root(tmp_path_factory, phantom, tiny_reader):
    """A folder as agents meet one: scans, a mask, a table, and what is none of these."""
    import pydicom

    from slicesight.inference.embedding import ModelEmbedder
    from slicesight.inference.embedding_table import ScanName, TableFacts, TableWriter
    from slicesight.phantoms.folder import label_map

    place = tmp_path_factory.mktemp("agents") / "scans"
    (place / "outside").mkdir(parents=True)
    place = place / "root"
    place.mkdir()
    write_nifti(phantom.volume, place / "phantom.nii.gz")
    write_nifti(phantom.volume, place / "mask.nii.gz", labels=label_map(phantom))
    write_dicom(SCAN, place / "series")
    for file in (place / "series").iterdir():
        header = pydicom.dcmread(file)
        header.PatientName, header.PatientID = NAME, PATIENT_ID
        header.save_as(file)
    labels = np.zeros(SCAN.shape, np.uint8)
    labels[1:3, 3:5, 4:8] = 3
    write_nifti(SCAN, place / "small.nii.gz")
    write_nifti(SCAN, place / "insert.nii.gz", labels=labels)
    (place / "notes.nii.gz").write_text("no scan")
    (place / "code.npy").write_bytes(b"\x80\x04cos\nsystem\n.")
    facts = TableFacts(model="tiny-random", source="tiny", digest=ModelEmbedder(tiny_reader).digest(), space="encoder")
    writer = TableWriter(place / "table.parquet", facts)
    for name, volume in (("a", phantom.volume), ("b", SCAN)):
        writer.add(ScanName(scan=name, stamp="", patient=f"{NAME} {name}"), tiny_reader.embed(volume))
    writer.finish()
    return place


SCAN = Volume(
    voxels=np.full((6, 12, 10), -1000, np.float32),
    affine_lps=np.array([[0, 0, 0.75, -40.5], [0, 0.75, 0, 12.25], [2.5, 0, 0, 100], [0, 0, 0, 1.0]]),
    spacing_mm=(2.5, 0.75, 0.75),
    modality="CT",
    unit="HU",
    is_synthetic=True,
)
SCAN.voxels[:, 2:-2, 2:-2] = np.random.default_rng(0).integers(-60, 90, (6, 8, 6))
SCAN.voxels[1:3, 3:5, 4:8] = 700
QUESTIONS = ["What is this?", "Which phase? Choices: A. arterial B. venous"]
CALLS = {
    "list": ("list_scans", {}),
    "inspect": ("inspect_scan", {"scan": "series"}),
    "ask": ("ask_scan", {"scan": "phantom.nii.gz", "questions": QUESTIONS}),
    "show": ("show_slices", {"scan": "small.nii.gz", "slices": [2, 0], "window": "0,1000", "mask": "insert.nii.gz"}),
    "show by mm": ("show_slices", {"scan": "small.nii.gz", "positions_mm": [105.2]}),
    "measure": ("measure_structure", {"scan": "small.nii.gz", "mask": "insert.nii.gz", "names": {"3": "insert"}}),
    "compare": (
        "compare_scans",
        {
            "first": "small.nii.gz",
            "second": "series",
            "questions": QUESTIONS[:1],
            "first_mask": "insert.nii.gz",
            "second_mask": "insert.nii.gz",
        },
    ),
    "search": ("search_scans", {"scan": "phantom.nii.gz", "table": "table.parquet"}),
    "search slice": ("search_scans", {"scan": "b", "table": "table.parquet", "grid_slice": 1, "top": 3}),
    "search among": ("search_scans", {"scan": "series", "among": ["phantom.nii.gz", "notes.nii.gz"]}),
    # what must be refused
    "outside": ("show_slices", {"scan": "../outside"}),
    "outside mask": ("measure_structure", {"scan": "small.nii.gz", "mask": "/etc/passwd"}),
    "outside table": ("search_scans", {"scan": "small.nii.gz", "table": "../../table.parquet"}),
    "text": ("inspect_scan", {"scan": "notes.nii.gz"}),
    "pickle": ("inspect_scan", {"scan": "code.npy"}),
    "not a table": ("search_scans", {"scan": "small.nii.gz", "table": "small.nii.gz"}),
    "misspelled": ("show_slices", {"scan": "small.nii.gz", "slice": [1]}),
    "no such slice": ("show_slices", {"scan": "small.nii.gz", "slices": [6]}),
    "beside the scan": ("show_slices", {"scan": "small.nii.gz", "positions_mm": [5000]}),
    "too many": ("show_slices", {"scan": "small.nii.gz", "slices": list(range(13))}),
    "too large": ("show_slices", {"scan": "small.nii.gz", "size": 10**6}),
    "no window": ("show_slices", {"scan": "small.nii.gz", "window": "lungs"}),
    "no label": ("measure_structure", {"scan": "small.nii.gz", "mask": "insert.nii.gz", "labels": [9]}),
    "other mask": ("measure_structure", {"scan": "phantom.nii.gz", "mask": "insert.nii.gz"}),
    "no questions": ("ask_scan", {"scan": "small.nii.gz", "questions": []}),
    "long question": ("ask_scan", {"scan": "small.nii.gz", "questions": ["x" * 2001]}),
    "patient": ("inspect_scan", {"scan": "series", "include_patient_fields": True}),
    "whose": ("search_scans", {"scan": "a", "table": "table.parquet", "include_patient_fields": True}),
    "one mask": ("compare_scans", {"first": "small.nii.gz", "second": "series", "first_mask": "insert.nii.gz"}),
    "wrong kind": ("ask_scan", {"scan": ["small.nii.gz"], "questions": ["?"]}),
    "no tool": ("delete_scan", {"scan": "small.nii.gz"}),
}


@pytest.fixture(scope="module")
def called(root, tiny_reader):
    """Every call's result, and the tools as they are listed; one server for all, as an agent would have it."""

    async def run():
        options = AgentOptions(roots=(root,))
        found = {}
        with agent_server(options, load=lambda *a, **k: tiny_reader) as server:
            async with Client(server) as client:
                found["tools"] = (await client.list_tools()).tools
                for name, (tool, arguments) in CALLS.items():
                    found[name] = await client.call_tool(tool, arguments)
        return found

    before = sorted((str(file), file.stat().st_mtime_ns) for file in root.rglob("*"))
    found = asyncio.run(run())
    assert sorted((str(file), file.stat().st_mtime_ns) for file in root.rglob("*")) == before, "nothing is written"
    return found


def told(called, name):
    """A call's structured content, which its text repeats."""
    found = called[name]
    assert not found.is_error, found.content[0].text
    assert json.loads(found.content[0].text) == found.structured_content
    return found.structured_content


def pictures(found):
    return [Image.open(io.BytesIO(base64.b64decode(one.data))) for one in found.content if one.type == "image"]


def refusal(called, name):
    found = called[name]
    assert found.is_error
    assert [one.type for one in found.content] == ["text"]
    return found.content[0].text


def test_every_tool_says_what_it_takes_and_returns_and_that_it_only_reads(called):
    tools = {tool.name: tool for tool in called["tools"]}
    assert {"inspect_scan", "ask_scan", "show_slices", "measure_structure", "compare_scans", "search_scans"} < set(
        tools
    )
    for tool in tools.values():
        assert tool.annotations.read_only_hint
        assert not tool.annotations.open_world_hint
        assert tool.input_schema["additionalProperties"] is False
        assert tool.output_schema["type"] == "object"
        assert len(tool.description) > 40


def test_results_keep_to_their_schema(called):
    import jsonschema

    schemas = {tool.name: tool.output_schema for tool in called["tools"]}
    held = 0
    for name, (tool, _) in CALLS.items():
        if not called[name].is_error:
            jsonschema.validate(called[name].structured_content, schemas[tool])
            held += 1
    assert held == 10


def test_what_is_listed_can_be_named(called):
    names = [one["name"] for one in told(called, "list")["found"]]
    assert {"phantom.nii.gz", "series", "table.parquet"} < set(names)


def test_a_scan_is_described_and_shown_and_names_nobody(called):
    found = told(called, "inspect")
    assert (found["modality"], found["unit"], found["num_slices"]) == ("CT", "HU", 6)
    assert found["patient"] is None
    assert (found["first_slice_mm"], found["last_slice_mm"]) == pytest.approx((100, 112.5))
    assert len(pictures(called["inspect"])) == 1


def test_no_result_names_a_patient_an_image_or_where_the_folder_lies(called, root):
    for name, found in called.items():
        if name == "tools":
            continue
        text = "".join(one.text for one in found.content if one.type == "text")
        for secret in (NAME, PATIENT_ID, str(root), "1.2.826", "sop_instance"):
            assert secret not in text, name


def test_answers_are_the_predictors_with_confidence_evidence_and_a_picture_each(called, root, tiny_reader):
    found = told(called, "ask")
    expected = tiny_reader.ask(root / "phantom.nii.gz", QUESTIONS)
    for shown, answer in zip(found["answers"], expected, strict=True):
        assert shown["answer"] == answer.text
        assert shown["abstained"] is None
        assert shown["confidence"] is None
        assert "no calibration" in shown["confidence_note"]
        heaviest = shown["evidence"]["heaviest"][0]
        assert heaviest["score"] == pytest.approx(answer.slices[0].score)
        assert heaviest["slices"] == sorted(answer.slices[0].source_slices)
    assert len(pictures(called["ask"])) == 2
    assert "medical device" in found["use"]


def test_pictures_are_the_slices_asked_for_in_the_patients_proportions(called):
    found = told(called, "show")
    assert [one["slice"] for one in found["pictures"]] == [2, 0]
    assert [one["position_mm"] for one in found["pictures"]] == pytest.approx([105, 100])
    assert found["outlined"] == [3]
    with_insert, without = (np.asarray(picture).astype(int) for picture in pictures(called["show"]))
    assert with_insert.shape == (512, 427, 3)  # 12 rows and 10 columns of one size
    row, column = int(3.9 / 12 * 512), int(5.9 / 10 * 427)
    assert with_insert[row, column] == pytest.approx(0.7 * 255, abs=1)  # 700 HU from 0 to 1000
    assert without[row, column].max() < 30
    coloured = [(picture.max(axis=2) - picture.min(axis=2) > 90).sum() for picture in (with_insert, without)]
    assert coloured[0] > coloured[1] + 400, "the outline is on the slice that shows it alone"
    (by_place,) = told(called, "show by mm")["pictures"]
    assert by_place["slice"] == 2


def test_a_structure_is_measured_in_millilitres_and_hu(called):
    found = told(called, "measure")
    (one,) = found["structures"]
    assert (found["unit"], one["label"], one["name"], one["voxels"]) == ("HU", 3, "insert", 16)
    assert one["volume_ml"] == pytest.approx(16 * 2.5 * 0.75 * 0.75 / 1000)
    assert (one["mean"], one["sd"], one["minimum"], one["maximum"]) == (700, 0, 700, 700)
    assert one["slices"] == [1, 2]
    assert one["centroid_mm"] == pytest.approx([-40.5 + 5.5 * 0.75, 12.25 + 3.5 * 0.75, 100 + 1.5 * 2.5])
    assert one["extent_mm"] == pytest.approx([3, 1.5, 5])
    assert not one["reaches_edge"]
    assert len(pictures(called["measure"])) == 1


def test_two_scans_of_one_patient_are_found_the_same(called):
    found = told(called, "compare")
    assert found["differences"] == []
    assert found["cosine"] == pytest.approx(1)
    assert [one["same_answer"] for one in found["answers"]] == [True]
    (change,) = found["structures"]
    assert (change["label"], change["change_ml"], change["change_percent"]) == (3, 0, 0)
    assert "no change of the patient" in found["caveat"]
    assert len(pictures(called["compare"])) == 2


def test_searches_find_the_scan_itself_first_and_say_what_was_skipped(called):
    found = told(called, "search")["neighbours"]
    assert [one["scan"] for one in found] == ["a", "b"]
    assert found[0]["cosine"] == pytest.approx(1)
    assert found[0]["patient"] is None
    assert {one["scan"] for one in told(called, "search slice")["neighbours"]} == {"a"}
    among = told(called, "search among")
    assert [one["scan"] for one in among["neighbours"]] == ["phantom.nii.gz"]
    assert among["skipped"][0].startswith("notes.nii.gz: ")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("outside", "outside the folders that may be read (root)"),
        ("outside mask", "outside the folders"),
        ("outside table", "outside the folders"),
        ("text", "notes.nii.gz: this is a text file"),
        ("pickle", "never opened because it can run code"),
        ("not a table", "small.nii.gz: no Parquet"),
        ("misspelled", "slice\n  Extra inputs are not permitted"),
        ("no such slice", "slice 6: the scan has 6 in this plane, 0 to 5"),
        ("beside the scan", "z 5000 mm lies outside the scan, which reaches from 100 to 112 mm"),
        ("too many", "at most 12 items"),
        ("too large", "less than or equal to 1024"),
        ("no window", "did you mean 'lung'?"),
        ("no label", "the mask has no label 9; it holds 3"),
        ("other mask", "expected one grid"),
        ("no questions", "at least 1 item"),
        ("long question", "at most 2000 characters"),
        ("patient", "start it with --patient-fields"),
        ("whose", "start it with --patient-fields"),
        ("one mask", "give first_mask and second_mask, or neither"),
        ("wrong kind", "valid string"),
        ("no tool", "delete_scan"),
    ],
)
def test_what_is_wrong_is_told_so_that_it_can_be_mended(called, name, said):
    assert said in refusal(called, name)


def serve(root, work, *, load=None, **options):
    """Run `work(client)` with a server of its own."""

    async def run():
        with agent_server(AgentOptions(roots=(root,), **options), load=load or (lambda *a, **k: None)) as server:
            async with Client(server) as client:
                return await work(client)

    return asyncio.run(run())


def test_patients_are_named_only_where_the_operator_allows_it_and_the_agent_asks(root):
    async def work(client):
        asked = {"scan": "series", "contact_sheet": False}
        return [
            (await client.call_tool("inspect_scan", {**asked, **more})).structured_content["patient"]
            for more in ({"include_patient_fields": True}, {})
        ]

    named, unnamed = serve(root, work, patient_fields=True)
    assert (named["PatientName"], named["PatientID"]) == (NAME, PATIENT_ID)
    assert unnamed is None


def test_calls_at_the_same_time_read_a_scan_once_and_one_too_many_is_told_to_come_again(root, monkeypatch):
    started, run_worker = [], scans.run_worker

    async def counted(*arguments, **settings):
        started.append(1)
        return await run_worker(*arguments, **settings)

    monkeypatch.setattr(scans, "run_worker", counted)

    async def work(client):
        one = {"scan": "small.nii.gz", "slices": [1]}
        return await asyncio.gather(*(client.call_tool("show_slices", one) for _ in range(6)))

    found = serve(root, work, max_calls=4)
    done = [one for one in found if not one.is_error]
    assert len(done) == 4
    assert len({one.content[1].data for one in done}) == 1
    assert all("4 calls are under way" in one.content[0].text for one in found if one.is_error)
    assert len(started) == 1


@pytest.mark.parametrize(
    ("worker", "said"),
    [
        ("import os; os.abort()", "small.nii.gz: stopped the program that reads it"),
        ("import time; time.sleep(60)", "took more than 1 s"),
    ],
)
def test_a_file_that_crashes_or_stalls_its_reader_costs_one_call_and_leaves_nothing(
    root, monkeypatch, tmp_path, worker, said
):
    monkeypatch.setattr(scans, "WORKER", ("-c", worker))

    async def work(client):
        found = await client.call_tool("inspect_scan", {"scan": "small.nii.gz"})
        (kept,) = tmp_path.iterdir()
        return found, list(kept.iterdir())

    found, kept = serve(root, work, timeout_s=1 if "sleep" in worker else 100, folder=tmp_path)
    assert found.is_error
    assert said in found.content[0].text
    assert kept == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif("files" not in what_is_shut(), reason="this kernel does not let a process be shut in")
def test_a_link_put_in_place_after_the_check_leads_nowhere(root, monkeypatch):
    """The check is passed by, as if the file had been another one when it was looked at."""
    outside = root.parent / "outside" / "scan.nii.gz"
    outside.write_bytes((root / "small.nii.gz").read_bytes())
    link = root / "swapped.nii.gz"
    monkeypatch.setattr(scans.Roots, "scan", lambda self, name, *, max_bytes: link)
    link.symlink_to(outside)
    try:
        found = serve(root, lambda client: client.call_tool("inspect_scan", {"scan": "swapped.nii.gz"}))
    finally:
        link.unlink()
    assert found.is_error
    assert "no permission to read it" in found.content[0].text


def test_a_mistake_of_our_own_is_told_as_one_and_a_users_with_its_words(root, caplog):
    raised = [RuntimeError(f"about {NAME}"), InputError("no such model; name another")]

    def load(*arguments, **settings):
        raise raised.pop(0)

    async def work(client):
        asked = {"scan": "small.nii.gz", "questions": ["?"]}
        return [(await client.call_tool("ask_scan", asked)).content[0].text for _ in range(2)]

    ours, theirs = serve(root, work, load=load)
    assert ours == "Error executing tool ask_scan"
    assert "about Doe" in caplog.text, "the operator sees what it was"
    assert theirs == "Error executing tool ask_scan: no such model; name another"


def test_work_that_nobody_waits_for_is_called_off():
    ended = []

    def work(predictor, progress):
        try:
            while True:
                progress(0, 1)
        except CalledOff:
            ended.append(1)
            raise

    async def run():
        desk = ModelDesk(lambda: None)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await desk.run(work)
        assert await desk.run(lambda predictor, progress: 5) == 5, "the thread is free again"
        desk.close()

    asyncio.run(run())
    assert ended == [1]


def test_what_was_kept_longest_ago_is_let_go(root):
    async def work(client):
        for scan in ("small.nii.gz", "series"):
            await client.call_tool("inspect_scan", {"scan": scan, "contact_sheet": False})
        desk = client_desk[0]
        return [one.name for one in desk._kept.values()], len(os.listdir(desk._folder))

    client_desk = []
    init = scans.ScanDesk.__init__

    def remember(self, options):
        init(self, options)
        client_desk.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scans.ScanDesk, "__init__", remember)
        assert serve(root, work, max_kept=1) == (["series"], 1)
