"""A hub on loopback with the tiny official Med-2E3, and the way to it open."""

from __future__ import annotations

import shutil
import time
from types import SimpleNamespace

import pytest
import torch

from loopback_hub import Hub, serving
from official_layout import RELEASED, write_med2e3
from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration


@pytest.fixture(scope="session")
def released(make_config) -> Med2E3ForConditionalGeneration:
    """The model that the hub's med-2e3 is made of."""
    torch.manual_seed(0)
    return Med2E3ForConditionalGeneration(make_config(**RELEASED)).eval()


@pytest.fixture(scope="session")
def official_folders(tmp_path_factory, released, tokenizer):
    """The two repositories of Med-2E3 as folders: (its own, M3D-CLIP's with the vocabulary)."""
    folder = write_med2e3(tmp_path_factory.mktemp("official") / "Med-2E3-M3D", released, tokenizer)
    words = folder.parent / "M3D-CLIP"
    shutil.move(folder / "m3d_clip_tokenizer", words)
    (folder / "README.md").write_text("what nobody here needs")
    (folder / "optimizer.pt").write_bytes(b"\0" * 10_000)
    return folder, words


@pytest.fixture
def hub(official_folders):
    """Serves both, as the real hub calls them."""
    folder, words = official_folders
    hub = Hub()
    hub.add("shiym2000/Med-2E3-M3D", folder)
    hub.add("GoodBaiBai88/M3D-CLIP", words)
    with serving(hub):
        yield hub


@pytest.fixture(autouse=True)
def way_to_the_hub(monkeypatch, tmp_path):
    """Not offline; no token of whoever runs the tests; models in a folder of the test's own; little patience."""
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _http

    from slicesight.models.importers import hub as hub_module

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 12)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setenv("SLICESIGHT_MODELS", str(tmp_path / "models"))
    impatient = SimpleNamespace(**{**vars(time), "sleep": lambda _: None})
    for module in (file_download, _http, hub_module):
        monkeypatch.setattr(module, "time", impatient)
