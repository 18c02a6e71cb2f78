"""What several rooms' tests need: a phantom, a tiny random model on disk, real scans where they are at hand."""

from __future__ import annotations

import gc
import json
import locale
import os
import platform
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("SLICESIGHT_CACHE", str(Path(tempfile.gettempdir()) / "slicesight-tests"))
# Ray runs its workers 15 steps nicer than everything else: beside other work on a busy machine they hardly run at all
os.environ.setdefault("RAY_worker_niceness", "0")

from collections.abc import Callable

import numpy as np
import pydicom
import pytest

from slicesight.io.writers import write_dicom
from slicesight.volumes.volume import Volume

REPOSITORY = Path(__file__).resolve().parents[1]


def processor_line() -> str:
    """What the figures of this run depend on: the processor, and what ATen and oneDNN choose on it."""
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.is_file() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    flags = next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())
    known = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    limits = [f"{key}={os.environ[key]}" for key in ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY") if key in os.environ]
    chosen = [f"ATen {torch.backends.cpu.get_cpu_capability()}", f"{torch.get_num_threads()} threads", *limits]
    return f"{name or platform.processor()} ({' '.join(flag for flag in known if flag in flags)}); {', '.join(chosen)}"


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"processor: {processor_line()}")


def pytest_collection_finish():
    """The collected tests and the imported libraries live to the end: the garbage collector need not look at them."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failing test says which processor failed it."""
    report = (yield).get_result()
    if report.failed:
        report.sections.append(("processor", processor_line()))


@pytest.fixture(autouse=True)
def same_locale():
    """Each test leaves the process its locale: GDCM, inside SimpleITK, sets C where it writes compressed DICOM."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)


@pytest.fixture(scope="session", autouse=True)
def absl_closes_no_stream():
    """absl (of rouge-score, TensorBoard), imported under pytest, holds its captured stderr and closes it when uvicorn
    configures logging anew; it leaves the real stderr alone."""
    try:
        from absl import logging as absl_logging
    except ImportError:
        return
    absl_logging.get_absl_handler().python_handler.stream = sys.__stderr__


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """Real scans (marker shared_data); users do not have them."""
    folder = Path(os.environ.get("SLICESIGHT_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip("no real scans here: set SLICESIGHT_SHARED to the folder that holds data/")
    return folder


@pytest.fixture(scope="session")
def phantom():
    """An axial phantom with findings; coarse pixels, so that it is quick."""
    from slicesight.phantoms.rendering import make_phantom

    for index in range(50):
        found = make_phantom(7, index, pixel_mm=(3.5, 4.0))
        if found.truth.plane == "axial" and found.truth.findings:
            return found
    raise AssertionError("no axial phantom with findings among the first 50")


@pytest.fixture(scope="session")
def phantom_file(phantom, tmp_path_factory) -> Path:
    """The phantom as NIfTI."""
    from slicesight.io.writers import write_nifti

    path = tmp_path_factory.mktemp("scans") / "phantom.nii.gz"
    write_nifti(phantom.volume, path)
    return path


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory) -> Path:
    """A Med-2E3 of a few thousand random weights with its processor and a card, as a user would pass to --model."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from slicesight.models.med2e3.configuration import Med2E3Config
    from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration
    from slicesight.models.med2e3.processing import Med2E3Processor

    tokens = ["<pad>", "<eos>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    bytes_tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[], unk_token="<unk>"))
    bytes_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_tokenizer.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytes_tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    torch.manual_seed(0)
    config = Med2E3Config(
        image_size=(8, 32, 32),
        text_config={
            "model_type": "llama",
            "vocab_size": 320,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "bos_token_id": None,
        },
        vision2d_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
            "vision_use_head": False,
        },
        vision3d_config={"model_type": "cnn3d", "widths": (8, 16, 16), "num_groups": 4},
        score_scale=30.0,
        score_norm="l2",
    )
    processor = Med2E3Processor.for_model(
        config, tokenizer, grid={"num_slices": 8, "height": 32, "width": 32}, template="short"
    )
    model = Med2E3ForConditionalGeneration(config)
    folder = tmp_path_factory.mktemp("models") / "tiny-random"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "card.json").write_text(json.dumps({"name": "tiny-random", "trained_on": "synthetic"}))
    return folder


@pytest.fixture(scope="session")
def tiny_reader(tiny_model_folder):
    """The tiny random model, loaded as a user would."""
    import slicesight

    return slicesight.load(tiny_model_folder)


Edit = Callable[[pydicom.Dataset, int], None]


def small_scan(shape: tuple[int, int, int] = (6, 12, 10), *, seed: int = 0) -> Volume:
    """A body in air with one asymmetric insert, whole HU."""
    rng = np.random.default_rng(seed)
    voxels = rng.integers(-1010, -990, shape).astype(np.float32)
    voxels[:, 2:-2, 2:-2] = rng.integers(-60, 90, (shape[0], shape[1] - 4, shape[2] - 4))
    voxels[1:3, 3:5, 4:8] = 700
    affine = np.array([[0, 0, 0.75, -40.5], [0, 0.75, 0, 12.25], [2.5, 0, 0, 100], [0, 0, 0, 1.0]])
    return Volume(
        voxels=voxels, affine_lps=affine, spacing_mm=(2.5, 0.75, 0.75), modality="CT", unit="HU", is_synthetic=True
    )


@pytest.fixture
def scan() -> Volume:
    """See `small_scan`."""
    return small_scan()


@pytest.fixture
def dicom_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes `small_scan` as DICOM, with every header passed through `edit(dataset, index)`."""

    def write(edit: Edit | None = None, *, name: str = "series", shape: tuple[int, int, int] = (6, 12, 10)) -> Path:
        folder = tmp_path / name
        write_dicom(small_scan(shape), folder)
        for index, file in enumerate(sorted(folder.iterdir())):
            dataset = pydicom.dcmread(file)
            if edit is not None:
                edit(dataset, index)
            dataset.save_as(file)
        return folder

    return write


@pytest.fixture
def refused() -> Callable[..., str]:
    """Checks that a scan is refused as promised and returns the line that says so.

    One line with what was found and, after a semicolon, what to do; nothing written; with
    `watch_memory` (which is slow) less than 1 GiB asked for.
    """
    import tracemalloc

    from slicesight.errors import InputError
    from slicesight.reports.inspection import inspect

    def check(path: Path, *, watch_memory: bool = False) -> str:
        folder = path.parent
        before = sorted(str(file) for file in folder.rglob("*"))
        if watch_memory:
            tracemalloc.start()
        try:
            with pytest.raises(InputError) as caught:
                inspect(path, png=folder / "sheet.png")
            assert tracemalloc.get_traced_memory()[1] < 1 << 30
        finally:
            tracemalloc.stop()
        line = str(caught.value)
        assert "\n" not in line
        assert ";" in line, line
        assert len(line) < 300 + len(str(path)), line
        assert sorted(str(file) for file in folder.rglob("*")) == before
        return line

    return check


@pytest.fixture
def refused_by_command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path], None]:
    """Checks that the command line ends with code 2, one line on stderr and nothing on stdout."""
    import sys

    from slicesight.cli import main

    def check(path: Path) -> None:
        monkeypatch.setattr(sys, "argv", ["slicesight", "inspect", str(path)])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        assert stopped.value.code == 2
        assert printed.out == ""
        assert printed.err.startswith("slicesight: ")
        assert printed.err.count("\n") == 1

    return check
