"""`slicesight pull` and `slicesight models` as a user meets them, with a hub on loopback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from json_checks import documented
from loopback_hub import Hub, serving
from slicesight.cli.pull import SparseLines


@pytest.fixture(autouse=True)
def own_models(monkeypatch, tmp_path):
    """Pulled models go into the test's folder."""
    monkeypatch.setenv("SLICESIGHT_MODELS", str(tmp_path / "models"))


@pytest.fixture
def hub(tiny_model_folder, monkeypatch, tmp_path):
    """A hub with a model in this package's own layout, where HF_ENDPOINT would lead."""
    from huggingface_hub import constants

    hub = Hub()
    hub.add("someone/tiny", tiny_model_folder, licence="cc-by-4.0")
    with serving(hub):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub


def test_pull_says_what_comes_under_which_licence_and_whether_it_fits_then_ask_works(run, hub, phantom_file, tmp_path):
    code, out, err = run("pull", "someone/tiny")
    assert code == 0
    assert out == f"wrote {tmp_path / 'models' / 'someone--tiny'}\n"
    commit = hub.repos["someone/tiny"].commit
    assert f"from     {hub.url}/someone/tiny, commit {commit}" in err
    assert "licence  cc-by-4.0" in err
    assert "MiB" in err.split("fetch ")[1]
    assert "in float32: fits (" in err
    assert err.endswith("--model someone/tiny\n")
    code, out, _ = run("ask", phantom_file, "Which phase is this?", "--model", "someone/tiny", "--json", "-")
    assert code == 0
    model = json.loads(out)["model"]
    assert (model["name"], model["pulled"]["revision"]) == ("tiny-random", commit)
    hub.requests.clear()
    code, out, err = run("pull", "someone/tiny")
    assert code == 0
    assert out == ""
    assert err.endswith(f"already, at commit {commit}; nothing to do\n")
    assert not [request for request in hub.requests if request.is_storage]


def test_a_dry_run_writes_nothing(run, hub, tmp_path):
    code, out, err = run("pull", "someone/tiny", "--dry-run")
    assert (code, out) == (0, "")
    assert "disk " in err
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pull", "med2e3"], "'med2e3' is no model that can be fetched by name; did you mean 'med-2e3'?"),
        (["pull", "phantom-tiny"], "comes with the package"),
        (["pull", "someone/nothing"], "has no such model, or it is private"),
        (["pull", "med-2e3", "--from", "nowhere"], "no such folder; --from expects"),
        (["ask", "SCAN", "Which phase?", "--model", "med-2e3"], "fetch it once (8.1 GiB): slicesight pull med-2e3"),
        (["plan", "m3d-lamed"], "slicesight pull m3d-lamed"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run, hub, phantom_file, arguments, words):
    code, out, err = run(*(phantom_file if word == "SCAN" else word for word in arguments))
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


@pytest.fixture
def pulled(run, tiny_model_folder, tmp_path):
    """A model as a pull leaves it."""
    folder = shutil.copytree(tiny_model_folder, tmp_path / "models" / "someone--tiny")
    card = json.loads((folder / "card.json").read_text())
    card |= {"licence": "cc-by-4.0", "pulled": {"hub": "someone/tiny", "revision": "c" * 40}}
    (folder / "card.json").write_text(json.dumps(card))
    return folder


def test_models_lists_shipped_pulled_and_known_with_size_licence_data_and_scores(run, pulled):
    code, out, _ = run("models")
    assert code == 0
    assert out.index("phantom-tiny  (") < out.index("someone/tiny  (") < out.index("med-2e3  (about 8.10 GiB; not here")
    assert "slicesight pull med-2e3" in out
    assert (
        "closed accuracy 88.53; closed accuracy, 95 % interval 86.73 to 90.2; closed accuracy without the scan" in out
    )
    assert "measured with this package on 300 synthetic scans" in out
    assert "published, arXiv 2411.12783" in out


def test_models_as_json_has_the_same_facts(run, pulled):
    code, out, _ = run("models", "--json")
    assert code == 0
    rows = {row["name"]: row for row in documented("models", out)["models"]}
    assert {row["state"] for row in rows.values()} == {"shipped", "pulled", "known"}
    tiny = rows["someone/tiny"]
    assert (tiny["licence"], tiny["trained_on"], tiny["scores"]) == ("cc-by-4.0", "synthetic", None)
    assert tiny["revision"] == "c" * 40
    assert tiny["folder"] == str(pulled)
    assert tiny["gib"] > 0
    assert rows["phantom-tiny"]["scores"]["closed accuracy"] == 88.53
    assert rows["med-2e3"]["hub"] == "shiym2000/Med-2E3-M3D"
    assert rows["med-2e3"]["folder"] is None


def test_without_a_terminal_progress_is_a_line_now_and_then_with_speed_and_time_left(monkeypatch):
    clock = iter([0.0, 4.0, 10.0, 11.0])
    monkeypatch.setattr("slicesight.cli.pull.time.monotonic", lambda: next(clock))
    lines = SparseLines(total=1000 * 2**20, done=0)
    assert lines.after(40 * 2**20) is None
    assert lines.after(60 * 2**20) == "100.0 MiB of 0.98 GiB, 10.0 MiB/s, 2 min left"
    assert lines.after(1) is None


@pytest.mark.slow
def test_the_command_killed_mid_way_goes_on_and_ends_with_a_model_that_loads(tiny_model_folder, tmp_path):
    """Two real processes with HF_ENDPOINT, the first one killed with -9 while the weights come."""
    hub = Hub()
    hub.add("someone/tiny", tiny_model_folder)
    with serving(hub):
        hub.faults["model.safetensors"] = [("slow", 20_000)]
        environment = os.environ | {"HF_ENDPOINT": hub.url, "SLICESIGHT_MODELS": str(tmp_path / "models")}
        environment |= {"HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}
        command = [sys.executable, "-m", "slicesight", "pull", "someone/tiny"]
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 120
        while time.monotonic() < until and not hub.fetched("model.safetensors"):
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "models" / "someone--tiny").exists()
        hub.faults.clear()
        finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert finished.stdout.startswith("wrote ")
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["someone--tiny"]
