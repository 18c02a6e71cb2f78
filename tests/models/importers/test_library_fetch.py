"""Files that the hub keeps in Xet storage: plain HTTP where that storage fails, and it is said."""

import importlib.util
import logging
import os

import pytest
from huggingface_hub import constants, hf_hub_download

from loopback_hub import Hub, Repo, serving
from slicesight.models.importers.hub import fetch, look_up
from slicesight.models.library_fetch import PATIENCE, fetched

NAME = "owner/model"
WEIGHTS = bytes(range(256)) * 16
needs_xet = pytest.mark.skipif(importlib.util.find_spec("hf_xet") is None, reason="needs hf_xet")


@pytest.fixture
def xet_hub():
    hub = Hub(xet="missing")
    hub.repos[NAME] = Repo(files={"model.safetensors": WEIGHTS})
    with serving(hub):
        yield hub


@pytest.fixture
def load(xet_hub, tmp_path):
    """Fetch as `from_pretrained` does."""
    return lambda: hf_hub_download(NAME, "model.safetensors", endpoint=xet_hub.url, cache_dir=tmp_path / "cache")


def asked_xet(hub) -> bool:
    return any("/xet/" in request.path for request in hub.requests)


@needs_xet
@pytest.mark.parametrize("storage", ["missing", "stalled"])
def test_a_xet_storage_that_fails_is_told_and_the_file_comes_over_plain_http(
    xet_hub, load, storage, caplog, monkeypatch
):
    monkeypatch.setenv("HF_XET_CLIENT_READ_TIMEOUT", "300ms")
    monkeypatch.setenv("HF_XET_CLIENT_RETRY_MAX_ATTEMPTS", "0")
    xet_hub.xet = storage
    with caplog.at_level(logging.WARNING, "slicesight"):
        file = fetched(load, name=NAME)
    with open(file, "rb") as content:
        assert content.read() == WEIGHTS
    assert asked_xet(xet_hub), "the library never tried Xet, so that the test shows nothing"
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("slicesight")]
    assert line.startswith("owner/model: the hub's Xet storage failed (")
    assert line.endswith("its files come over plain HTTP, more slowly")
    assert not constants.HF_HUB_DISABLE_XET


def test_patience_is_ours_only_where_the_user_named_none(load, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_XET_CLIENT_RETRY_MAX_ATTEMPTS", "1")  # so that it is put back
    monkeypatch.delenv("HF_XET_CLIENT_RETRY_MAX_ATTEMPTS")
    monkeypatch.setenv("HF_XET_CLIENT_READ_TIMEOUT", "7s")
    fetched(load, name=NAME)
    assert os.environ["HF_XET_CLIENT_READ_TIMEOUT"] == "7s"
    assert os.environ["HF_XET_CLIENT_RETRY_MAX_ATTEMPTS"] == PATIENCE["HF_XET_CLIENT_RETRY_MAX_ATTEMPTS"]


def test_any_other_failure_is_not_tried_again(monkeypatch):
    calls = []

    def fail() -> None:
        calls.append(1)
        raise RuntimeError("no transfer at all")

    with pytest.raises(RuntimeError, match="no transfer at all"):
        fetched(fail, name=NAME)
    assert len(calls) == 1


def test_a_pull_never_asks_xet(xet_hub, tmp_path):
    found = look_up(NAME, endpoint=xet_hub.url)
    fetch(found, "model.safetensors", tmp_path / "model.safetensors", on_bytes=lambda _: None)
    assert (tmp_path / "model.safetensors").read_bytes() == WEIGHTS
    assert not asked_xet(xet_hub)
    assert not any("xet-read-token" in request.path for request in xet_hub.requests)
