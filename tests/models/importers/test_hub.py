"""Files of a hub on loopback: whole or not at all, going on where they were cut off, each refusal one line."""

import hashlib
import logging
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loopback_hub import Hub, Repo, serving
from slicesight.errors import InputError, ModelError
from slicesight.models.importers.hub import fetch, half_of, look_up, noting_retries, read_small

NAME = "owner/model"
WEIGHTS = bytes(range(256)) * 4096  # 1 MiB: an LFS file, sent from the storage
SETTINGS = b'{"model_type": "med2e3"}'


@pytest.fixture
def small_hub():
    """One repository of two files."""
    hub = Hub()
    hub.repos[NAME] = Repo(files={"config.json": SETTINGS, "model.safetensors": WEIGHTS})
    with serving(hub):
        yield hub


@pytest.fixture
def look(small_hub):
    return lambda name=NAME, **settings: look_up(name, endpoint=small_hub.url, **settings)


@pytest.fixture
def bring(look, tmp_path):
    """Fetch the weights into the test's folder -> (the file, what was counted)."""

    def call():
        counted = []
        fetch(look(), "model.safetensors", tmp_path / "model.safetensors", on_bytes=counted.append)
        return tmp_path / "model.safetensors", sum(counted)

    return call


def line_of(caught) -> str:
    line = str(caught.value)
    assert "\n" not in line
    assert ";" in line
    assert len(line) < 330
    return line


def test_a_repository_is_known_by_its_commit_its_licence_and_each_files_checksum(look, small_hub):
    found = look()
    assert found.revision == small_hub.repos[NAME].commit
    assert found.licence == "apache-2.0"
    assert found.files["model.safetensors"].sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert found.files["model.safetensors"].size == len(WEIGHTS)
    git = hashlib.sha1(b"blob %d\0" % len(SETTINGS) + SETTINGS).hexdigest()
    assert (found.files["config.json"].sha256, found.files["config.json"].git_sha1) == (None, git)
    assert look(revision=found.revision).revision == found.revision


def test_a_file_comes_whole_from_its_storage_and_every_byte_is_counted(bring, small_hub):
    file, counted = bring()
    assert file.read_bytes() == WEIGHTS
    assert counted == len(WEIGHTS)
    assert len(small_hub.fetched("model.safetensors")) == 1
    assert [path.name for path in file.parent.glob("*.part")] == []


def test_the_token_of_the_library_goes_to_the_hub_and_never_to_the_storage(bring, small_hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    bring()
    sent = {(r.is_storage, r.authorization) for r in small_hub.requests}
    assert sent == {(False, "Bearer hf_secret"), (True, None)}


def test_a_gated_file_asks_for_access_then_comes_with_the_right_token(bring, small_hub, monkeypatch, tmp_path):
    small_hub.repos[NAME].gated_for = "hf_right"
    with pytest.raises(InputError, match=r"\(401\); ask for access at .*owner/model, then hf auth login"):
        bring()
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(InputError, match=r"\(403\); ask for access") as caught:
        bring()
    assert "hf_wrong" not in line_of(caught)
    assert not list(tmp_path.glob("model*"))
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert bring()[0].read_bytes() == WEIGHTS


def test_a_name_that_is_not_there_is_told_apart_from_a_data_set_and_from_a_wrong_revision(look, small_hub):
    with pytest.raises(InputError, match="has no such model, or it is private") as caught:
        look("owner/nothing")
    line_of(caught)
    small_hub.datasets.add("owner/scans")
    with pytest.raises(ModelError, match="owner/scans: is a data set on the hub, not a model"):
        look("owner/scans")
    with pytest.raises(InputError, match="has no such revision"):
        look(revision="v9")
    with pytest.raises(InputError, match="no name of a model on the hub"):
        look("owner/a b")


def test_a_cut_transfer_goes_on_where_it_was_cut(bring, small_hub):
    small_hub.faults["model.safetensors"] = [("cut", 300_000)]
    file, counted = bring()
    assert file.read_bytes() == WEIGHTS
    assert counted == len(WEIGHTS)
    ranges = [r.range for r in small_hub.fetched("model.safetensors")]
    assert ranges[0] is None
    assert ranges[1].startswith("bytes=")
    assert 0 < int(ranges[1][6:-1]) <= 300_000


@pytest.mark.parametrize("level", [logging.WARNING, logging.ERROR], ids=["usual", "silenced"])
def test_a_stalled_transfer_is_given_up_and_continued_with_a_note(bring, small_hub, level):
    logging.getLogger("huggingface_hub").setLevel(level)
    small_hub.faults["model.safetensors"] = [("stall", 300_000)]
    notes = []
    with noting_retries(notes.append):
        file, _ = bring()
    assert file.read_bytes() == WEIGHTS
    assert len(small_hub.fetched("model.safetensors")) == 2
    assert [note for note in notes if note.startswith("the connection was lost (") and note.endswith("; going on")]


def test_a_connection_lost_for_good_leaves_a_half_that_the_next_try_continues(bring, small_hub, tmp_path):
    small_hub.faults["model.safetensors"] = [("cut for good", 0)]
    with pytest.raises(InputError, match="it goes on where it stopped") as caught:
        bring()
    line_of(caught)
    small_hub.faults["model.safetensors"] = [("cut", 300_000), ("cut for good", 0)]
    with pytest.raises(InputError):
        bring()
    (half,) = tmp_path.glob("*.part")
    begun = half.stat().st_size
    assert 0 < begun <= 300_000
    assert not (tmp_path / "model.safetensors").exists()
    small_hub.faults.clear()
    small_hub.requests.clear()
    file, counted = bring()
    assert file.read_bytes() == WEIGHTS
    assert counted == len(WEIGHTS) - begun
    assert [r.range for r in small_hub.fetched("model.safetensors")] == [f"bytes={begun}-"]


def test_a_killed_process_leaves_a_half_that_the_next_one_continues(look, bring, small_hub, tmp_path):
    small_hub.faults["model.safetensors"] = [("slow", 200_000)]
    code = (
        "import sys; from pathlib import Path; from huggingface_hub import constants\n"
        "constants.HF_HUB_OFFLINE, constants.DOWNLOAD_CHUNK_SIZE = False, 1 << 16\n"
        "from slicesight.models.importers.hub import fetch, look_up\n"
        "fetch(look_up('owner/model', endpoint=sys.argv[1]), 'model.safetensors', Path(sys.argv[2]), on_bytes=print)"
    )
    command = [sys.executable, "-c", code, small_hub.url, str(tmp_path / "model.safetensors")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    half = half_of(tmp_path / "model.safetensors", look().files["model.safetensors"])
    until = time.monotonic() + 30
    while time.monotonic() < until and not (half.is_file() and half.stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    begun = half.stat().st_size
    assert 0 < begun < len(WEIGHTS)
    small_hub.requests.clear()
    file, counted = bring()
    assert file.read_bytes() == WEIGHTS
    assert counted == len(WEIGHTS) - begun
    assert [r.range for r in small_hub.fetched("model.safetensors")] == [f"bytes={begun}-"]


def test_a_storage_that_knows_no_ranges_sends_the_file_anew(bring, small_hub, tmp_path):
    small_hub.faults["model.safetensors"] = [("cut", 300_000), ("ignore range", None)]
    assert bring()[0].read_bytes() == WEIGHTS


def test_a_damaged_file_is_fetched_again_and_refused_the_second_time(bring, small_hub, tmp_path):
    small_hub.faults["model.safetensors"] = [("damage", None)]
    file, counted = bring()
    assert file.read_bytes() == WEIGHTS
    assert counted == len(WEIGHTS)
    file.unlink()
    small_hub.faults["model.safetensors"] = [("damage", None)] * 2
    with pytest.raises(ModelError, match="wrong checksum twice") as caught:
        bring()
    line_of(caught)
    assert not list(tmp_path.glob("model*"))


def test_a_damaged_settings_file_is_refused(look, small_hub):
    small_hub.faults["config.json"] = [("damage", None)]
    with pytest.raises(ModelError, match=r"config.json came damaged"):
        read_small(look(), "config.json")
    assert read_small(look(), "config.json") == SETTINGS


def test_half_of_another_commit_is_not_continued(look, bring, small_hub, tmp_path):
    small_hub.faults["model.safetensors"] = [("cut", 300_000), ("cut for good", 0)]
    with pytest.raises(InputError):
        bring()
    small_hub.faults.clear()
    newer = WEIGHTS[::-1]
    small_hub.repos[NAME].files["model.safetensors"] = newer
    small_hub.requests.clear()
    assert bring()[0].read_bytes() == newer
    assert [r.range for r in small_hub.fetched("model.safetensors")] == [None]
    assert not list(tmp_path.glob("*.part"))


def test_too_many_requests_are_waited_for_as_long_as_the_hub_says(look, bring, small_hub):
    small_hub.faults["/api/models/owner/model"] = [("status", (429, {"Retry-After": "3"}))] * 2
    small_hub.faults["model.safetensors"] = [("status", (429, {"Retry-After": "0"}))]
    notes = []
    with noting_retries(notes.append):
        assert bring()[0].read_bytes() == WEIGHTS
    assert notes.count("HTTP 429, asking again in 3 s") == 2


def test_a_wait_longer_than_a_minute_is_left_to_the_user(look, small_hub):
    small_hub.faults["/api/models/owner/model"] = [("status", (429, {"Retry-After": "600"}))]
    with pytest.raises(InputError, match=r"too many requests \(429\); run the same again in 600 s"):
        look()


def test_a_hub_at_fault_is_asked_again_then_named(look, small_hub):
    small_hub.faults["/api/models/owner/model"] = [("status", (503, {}))]
    assert look().hub == NAME
    small_hub.faults["/api/models/owner/model"] = [("status", (503, {}))] * 9
    with pytest.raises(InputError, match="answers 503; run the same again later"):
        look()


def test_a_hub_that_is_silent_at_first_is_asked_again(look, small_hub):
    small_hub.faults["/api/models/owner/model"] = [("silent", 1.0)]
    assert look().hub == NAME
    assert len([request for request in small_hub.requests if request.path.startswith("/api/")]) == 2


def test_a_mirror_that_sends_another_commit_or_another_content_is_refused(bring, small_hub, look, tmp_path):
    small_hub.commit_sent = "0" * 40
    with pytest.raises(ModelError, match="sent from commit 0000") as caught:
        bring()
    line_of(caught)
    small_hub.commit_sent = (stale := look()).revision
    small_hub.repos[NAME].files["model.safetensors"] = WEIGHTS[:-1] + b"!"
    with pytest.raises(ModelError, match="another file than the one listed"):
        fetch(stale, "model.safetensors", tmp_path / "model.safetensors", on_bytes=lambda _: None)
    assert not list(tmp_path.glob("model*"))


def test_without_a_list_of_checksums_the_etag_is_one(bring, look, small_hub):
    small_hub.without_checksums = True
    assert look().files["model.safetensors"].checksum is None
    small_hub.faults["model.safetensors"] = [("damage", None)]
    assert bring()[0].read_bytes() == WEIGHTS
    assert len(small_hub.fetched("model.safetensors")) == 2


def test_no_connection_and_no_hub_at_the_address_are_one_line_each(small_hub):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InputError, match=r"the connection to .* failed .*--from FOLDER") as caught:
            look_up(NAME, endpoint=nobody)
        line_of(caught)
    small_hub.faults["/api/models/owner/model"] = [("status", (200, {"Content-Type": "text/html"}))]
    with pytest.raises(InputError, match="does not answer as a Hugging Face hub; check HF_ENDPOINT"):
        look_up(NAME, endpoint=small_hub.url)


def test_offline_mode_is_named_with_what_to_do(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"HF_HUB_OFFLINE is set.*--from FOLDER"):
        look_up(NAME)


def test_a_full_disk_stays_the_disks_fault(look, monkeypatch, tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    monkeypatch.setattr("slicesight.models.importers.hub.half_of", lambda *_: Path("/dev/full"))
    with pytest.raises(OSError, match="No space left"):
        fetch(look(), "model.safetensors", tmp_path / "model.safetensors", on_bytes=lambda _: None)
