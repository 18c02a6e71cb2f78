"""What reads, looks, scores, compares and asks a server works where no library that runs a model is installed."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from slicesight.errors import MODEL_LIBRARIES, how_to_install
from tiny_guests import stub_server

REPOSITORY = Path(__file__).resolve().parents[1]
PROGRAM = """
import contextlib, importlib.util, io, json, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

BLOCKED, commands = json.loads(sys.argv[1])
sys.meta_path.insert(0, Blocker())
look = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name.partition(".")[0] in BLOCKED else look(name, *more)
from slicesight import cli
found = []
for command in commands:
    out, err, code = io.StringIO(), io.StringIO(), 0
    sys.argv = ["slicesight", *command]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as stopped:
            code = stopped.code or 0
    found.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(found))
"""


def without_models(commands: list[list[str]], *, cwd: Path) -> list[tuple[int, str, str]]:
    """(exit code, stdout, stderr) of commands in one process in which no library of models can be imported."""
    arguments = json.dumps([MODEL_LIBRARIES, commands])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, arguments], cwd=cwd, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return [tuple(one) for one in json.loads(done.stdout.splitlines()[-1])]


def line(number: int, said: str) -> str:
    asked = {"id": str(number), "task": "open", "topic": "organ", "question": "Which organ?", "volume": str(number)}
    return json.dumps({**asked, "answer": "the liver", "prediction": said}) + "\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, phantom_file) -> Path:
    folder = tmp_path_factory.mktemp("core")
    (folder / "scan.nii.gz").write_bytes(phantom_file.read_bytes())
    (folder / "ours.jsonl").write_text("".join(line(number, "the liver") for number in range(8)))
    (folder / "theirs.jsonl").write_text("".join(line(number, "the spleen") for number in range(8)))
    return folder


def test_looking_scoring_comparing_and_asking_a_server_need_no_model_libraries(folder):
    with stub_server() as server:
        found = without_models(
            [
                ["--help"],
                ["ask", "--help"],
                ["inspect", "scan.nii.gz", "--json", "--png", "sheet.png"],
                ["score", "ours=ours.jsonl", "theirs=theirs.jsonl", "--json", "sheet.json"],
                ["compare", "ours=ours.jsonl", "theirs=theirs.jsonl", "--html", "compare.html"],
                ["models"],
                [
                    *("ask", "scan.nii.gz", "Is there a cyst?", "--model", f"openai:{server.url}#stub"),
                    *("--no-evidence", "--json", "answer.json", "--html", "answer.html"),
                ],
            ],
            cwd=folder,
        )
    for code, out, err in found:
        assert code == 0, (out, err)
    assert json.loads(found[2][1])["window"]
    assert json.loads((folder / "sheet.json").read_text())
    assert json.loads((folder / "answer.json").read_text())["answers"][0]["answer"] in ("a cyst", "nothing")
    assert server.requests
    for name in ("sheet.png", "compare.html", "answer.html"):
        assert (folder / name).stat().st_size > 1000


def test_what_runs_a_model_says_in_one_line_what_to_install(folder):
    commands = [
        ["ask", "scan.nii.gz"],
        ["demo", "--out", "demo"],
        ["embed", "scan.nii.gz", "--out", "a.parquet"],
        ["evaluate", "--data", "phantoms:1:1", "--out", "runs"],
        ["train", str(REPOSITORY / "recipes" / "phantom-tiny.yaml")],
        ["plan", "phantom-tiny"],
        ["insight", "predict", "scan.nii.gz", "--model", "x", "--out", "y"],
    ]
    for command, (code, out, err) in zip(commands, without_models(commands, cwd=folder), strict=True):
        assert (code, err.count("\n")) == (2, 1), (command, out, err)
        assert "is not installed, and a model that runs here needs it: pip install slicesight " in err, command
    assert not list(folder.glob("a.parquet*"))


def test_an_error_about_another_library_keeps_its_traceback(folder, monkeypatch, capsys):
    from slicesight import cli

    def broken(**_):
        raise ModuleNotFoundError("No module named 'something'", name="something")

    monkeypatch.setattr(cli, "app", broken)
    with pytest.raises(ModuleNotFoundError):
        cli.main()
    monkeypatch.setattr(cli, "app", lambda **_: (_ for _ in ()).throw(ModuleNotFoundError(name="torch.nn")))
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"slicesight: {how_to_install('torch')}\n"


def test_the_small_distribution_is_the_whole_one_without_what_runs_a_model():
    whole, core = (
        tomllib.loads((REPOSITORY / folder / "pyproject.toml").read_text(encoding="utf-8"))
        for folder in (".", "plugins/core")
    )
    heavy = core["project"]["optional-dependencies"]["models"]
    names = {Requirement(one).name for one in heavy}
    assert names == {"torch", "transformers", "safetensors", "sentencepiece", "protobuf"}
    assert names - {"protobuf"} <= set(MODEL_LIBRARIES)
    assert sorted([*core["project"]["dependencies"], *heavy]) == sorted(whole["project"]["dependencies"])
    assert core["project"]["scripts"] == whole["project"]["scripts"]
    assert core["project"]["requires-python"] == whole["project"]["requires-python"]
    included = core["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included == {"../../src/slicesight": "slicesight"}
