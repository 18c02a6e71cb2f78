"""`prepare`, `evaluate` and `embed` with scans and outputs in an object store give what they give here, and go on."""

from __future__ import annotations

import json

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from slicesight.data.dataset import open_dataset
from slicesight.data.manifest import Case, Conversation, write_manifest
from slicesight.inference.embedding_table import read_table
from slicesight.io import mirror, object_store
from slicesight.io.object_store import list_files, upload
from slicesight.io.writers import write_nifti
from slicesight.volumes.volume import Volume

pytest.importorskip("pyarrow", reason="pip install 'slicesight[prepare]'")
SIZE = ("--size", "8,32,32")


@pytest.fixture
def store(monkeypatch):
    monkeypatch.setattr(object_store, "FIRST_PAUSE_S", 0.0)
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield fsspec.filesystem("memory")
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Three small scans, each asked one closed question, and their manifest."""
    folder = tmp_path_factory.mktemp("raw")
    affine = np.array([[0, 0, 1.0, 0], [0, 1.0, 0, 0], [3.0, 0, 0, 0], [0, 0, 0, 1]])
    asked = Conversation(
        task="closed", topic="phase", question="Which?", choices=("a", "b"), answer="a", answer_choice="A"
    )
    cases = []
    for number in range(3):
        voxels = np.random.default_rng(number).normal(size=(6, 12, 10)).astype(np.float32) * 100
        write_nifti(Volume(voxels=voxels, spacing_mm=(3, 1, 1), affine_lps=affine), folder / f"{number}.nii.gz")
        cases.append(Case(id=f"case {number}", volume=f"{number}.nii.gz", conversations=(asked,)))
    write_manifest(cases, folder / "manifest.jsonl")
    return folder


@pytest.fixture
def bucket(store, scans):
    """The same in the store."""
    for file in scans.iterdir():
        upload(file, f"memory://bucket/raw/{file.name}")
    return "memory://bucket"


@pytest.fixture
def fetched(monkeypatch):
    """The names of the scans that were copied here."""
    names: list[str] = []
    real = MemoryFileSystem.get_file

    def get(self, path, *rest, **more):
        if path.endswith(".nii.gz"):
            names.append(path.rsplit("/", 1)[1])
        return real(self, path, *rest, **more)

    monkeypatch.setattr(MemoryFileSystem, "get_file", get)
    return names


def files_in(url: str) -> dict[str, bytes]:
    store = fsspec.filesystem("memory")
    return {file.name: store.cat(file.path) for file in list_files(url)}


def test_prepare_from_a_store_into_a_store_gives_the_bytes_it_gives_here(run, bucket, scans, tmp_path, fetched):
    code, _, err = run("prepare", f"{bucket}/raw", "--format", "manifest", "--out", f"{bucket}/ready", *SIZE)
    assert code == 0, err
    assert "3 of 3 volumes ready in memory://bucket/ready" in err
    assert "slicesight-out-" not in err, "the user is shown a folder that is gone"
    assert run("prepare", scans, "--format", "manifest", "--out", tmp_path / "here", *SIZE)[0] == 0
    there = files_in(f"{bucket}/ready")
    shards = {name for name in there if name.endswith(".parquet")}
    assert shards
    for name in (*shards, "volumes/index.json"):
        assert there[name] == (tmp_path / "here" / name).read_bytes()
    lines = [json.loads(line) for line in there["manifest.jsonl"].splitlines()]
    assert [line["volume"] for line in lines] == [f"memory://bucket/raw/{name}" for name in sorted(fetched)]
    assert len(fetched) == 3, "a scan came more than once"


def test_a_second_run_prepares_nothing_and_a_changed_scan_alone(run, bucket, store, fetched):
    command = ("prepare", f"{bucket}/raw", "--format", "manifest", "--out", f"{bucket}/ready", *SIZE)
    assert run(*command)[0] == 0
    before = files_in(f"{bucket}/ready")
    fetched.clear()
    _, _, err = run(*command)
    assert "0 prepared now, 3 there already" in err
    assert not fetched
    assert files_in(f"{bucket}/ready") == before
    store.pipe("/bucket/raw/0.nii.gz", store.cat("/bucket/raw/1.nii.gz"))
    _, _, err = run(*command)
    assert "1 prepared now, 2 there already" in err
    assert len(fetched) == 1


def test_prepared_scans_in_a_store_are_opened_as_here(run, bucket, scans, tmp_path):
    assert run("prepare", f"{bucket}/raw", "--format", "manifest", "--out", f"{bucket}/ready", *SIZE)[0] == 0
    assert run("prepare", scans, "--format", "manifest", "--out", tmp_path / "here", *SIZE)[0] == 0
    here, there = open_dataset(tmp_path / "here"), open_dataset(f"{bucket}/ready")
    for one, other in zip(here.cases, there.cases, strict=True):
        assert (here.voxels(one) == there.voxels(other)).all()


def test_evaluate_in_a_store_says_what_it_says_here_and_goes_on(run, bucket, scans, tmp_path, tiny_model_folder, store):
    common = ("--model", tiny_model_folder, "--no-controls", "--figures", "0")
    assert run("evaluate", "--data", scans, "--out", tmp_path / "here", *common)[0] == 0
    code, _, err = run("evaluate", "--data", f"{bucket}/raw", "--out", f"{bucket}/run", *common)
    assert code == 0, err
    assert "memory://bucket/run/report.html" in err
    whole = store.cat("/bucket/run/predictions.jsonl")
    assert whole == (tmp_path / "here" / "predictions.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    store.pipe("/bucket/run/predictions.jsonl", b"".join(lines[: len(lines) // 3]) + lines[-1][:20])
    assert run("evaluate", "--data", f"{bucket}/raw", "--out", f"{bucket}/run", *common)[0] == 0
    assert store.cat("/bucket/run/predictions.jsonl") == whole


def test_embed_into_a_store_goes_on_from_another_machine(run, bucket, store, tiny_model_folder):
    store.pipe("/bucket/raw/bad.nii.gz", b"no scan")
    names = sorted(f"memory:/{name}" for name in store.ls("/bucket/raw", detail=False) if name.endswith(".nii.gz"))
    command = ("embed", *names, "--out", f"{bucket}/v/t.parquet", "--model", tiny_model_folder)
    code, _, err = run(*command)
    assert code == 2
    assert "bad.nii.gz" in err
    assert not store.exists("/bucket/v/t.parquet")
    assert len(list_files("memory://bucket/v/t.parquet.partial")) == 4  # three rows and whose they are
    names = [name for name in names if "bad" not in name]
    code, _, err = run("embed", *names, "--out", f"{bucket}/v/t.parquet", "--model", tiny_model_folder)
    assert code == 0, err
    assert "3 of 3 scans are kept from an earlier run" in err
    assert "wrote memory://bucket/v/t.parquet: 3 scans" in err
    assert [file.name for file in list_files("memory://bucket/v")] == ["t.parquet"]
    assert read_table("memory://bucket/v/t.parquet").scans == names


@pytest.mark.parametrize(
    ("verb", "compared"),
    [("prepare", "volumes/"), ("evaluate", "predictions.jsonl"), ("embed", "t.parquet")],
)
def test_a_machine_that_dies_between_two_writes_leaves_what_the_next_one_completes(
    run, bucket, store, tiny_model_folder, monkeypatch, verb, compared
):
    scans = [f"{bucket}/raw/{number}.nii.gz" for number in range(3)]
    command = {
        "prepare": ("prepare", f"{bucket}/raw", "--format", "manifest", "--out", f"{bucket}/out", *SIZE),
        "evaluate": ("evaluate", "--data", f"{bucket}/raw", "--out", f"{bucket}/out", "--model", tiny_model_folder,
                     "--no-controls", "--figures", "0"),
        "embed": ("embed", *scans, "--out", f"{bucket}/out/t.parquet", "--model", tiny_model_folder),
    }[verb]  # fmt: skip
    states, moved = [], (mirror.upload, mirror.remove)
    for name, act in zip(("upload", "remove"), moved, strict=True):

        def noted(*arguments, act=act):
            act(*arguments)
            if not arguments[-1].endswith("may-write"):
                states.append(files_in(f"{bucket}/out"))

        monkeypatch.setattr(mirror, name, noted)
    assert run(*command)[0] == 0
    whole = {name: content for name, content in files_in(f"{bucket}/out").items() if name.startswith(compared)}
    assert whole
    monkeypatch.undo()
    monkeypatch.setattr(object_store, "FIRST_PAUSE_S", 0.0)
    for state in states[:: max(1, len(states) // 3)]:
        store.rm("/bucket/out", recursive=True)
        for name, content in state.items():
            store.pipe(f"/bucket/out/{name}", content)
        code, _, err = run(*command)
        assert code == 0, (sorted(state), err)
        found = files_in(f"{bucket}/out")
        assert {name: content for name, content in found.items() if name.startswith(compared)} == whole, sorted(state)
        assert not [name for name in found if "partial" in name]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            ("prepare", "memory://none", "--format", "folder", "--out", "x"),
            "lies in an object store; only --format manifest",
        ),
        (
            ("prepare", "memory://none", "--format", "manifest", "--out", "x"),
            "memory://none/manifest.jsonl: no such object",
        ),
        (("evaluate", "--data", "memory://none", "--out", "x"), "memory://none: no manifest there"),
        (("embed", "memory://none.nii", "--out", "x.parquet"), "memory://none.nii: no such object"),
        (("ask", "memory://none.nii"), "memory://none.nii: no such object"),
        (("ask", "s3://me:secretsecret@b/x.nii"), "s3://…: the address holds a password"),
    ],
)
def test_a_mistake_is_one_line(run, store, command, said):
    code, out, err = run(*command)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert "secretsecret" not in err
