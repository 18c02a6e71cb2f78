"""Is every odd input read rightly or refused in one line, by every way in?

`inspect`, `ask`, `prepare`, `insight predict` and the server's reading process, by the functions behind them.
The counts are printed with `pytest -s`.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import corpus_arrays
import corpus_dicom
import corpus_nifti
import corpus_reports
import corpus_text_headers
import nibabel as nib
import numpy as np
import pytest
import torch
from corpus_cases import Odd, Read, disagreement
from oracles import ORACLES, agree, with_simpleitk

from slicesight.data.rows import ScanJob, prepare_scan
from slicesight.errors import InputError
from slicesight.inference.scan_prediction import PredictRequest, predict_scan
from slicesight.io.loading import read_volume
from slicesight.models.encoders3d.backbones import build_backbone
from slicesight.models.folder import write_model_folder
from slicesight.models.med3dinsight import InsightConfig, Segmenter
from slicesight.models.med3dinsight.preparation import Preparation
from slicesight.reports.inspection import inspect
from slicesight.serving import reading_worker
from slicesight.volumes.grid import GridSpec
from slicesight.volumes.volume import Volume

MODULES = (corpus_nifti, corpus_text_headers, corpus_dicom, corpus_arrays, corpus_reports)
CASES: list[Odd] = [case for module in MODULES for case in module.CASES]
SPEC = GridSpec(num_slices=4, height=16, width=16)
LEAST_CASES, LEAST_OF_SIMPLEITK, MOST_SECONDS = 150, 0.95, 40


@dataclass(frozen=True)
class Outcome:
    """What one way in said: a refusal, or nothing where it took the scan; `trace` is an error that is no refusal."""

    refusal: str | None = None
    trace: str | None = None


def outcome(call: Callable[[], Any], seconds: Counter[str], way: str) -> Outcome:
    began = time.process_time()
    try:
        call()
    except InputError as error:
        return Outcome(refusal=str(error))
    except Exception as error:
        return Outcome(trace=f"{type(error).__name__}: {error}")
    finally:
        seconds[way] += time.process_time() - began
    return Outcome()


class Ways:
    """Every way in, with the smallest models there are."""

    def __init__(self, predictor: Any, folder: Path) -> None:
        self.predictor, self.folder, self.seconds = predictor, folder, Counter[str]()
        network = build_backbone("segresnet", image_size=(16,) * 3, init_filters=8, blocks_down=[1, 1], blocks_up=[1])
        how = Preparation(spacing_mm=(8.0, 8.0, 8.0), window="auto")
        segmenter = Segmenter(InsightConfig(labels={"bright": 1}, preparation=how.to_dict(), overlap=0.25), network)
        torch.nn.init.zeros_(segmenter.head.weight)
        segmenter.head.bias.data = torch.tensor([0.0, 1.0])
        self.segmenter = folder / "segmenter"
        write_model_folder(self.segmenter, kind="segmenter", facts=segmenter.facts(), model=segmenter)

    @functools.cache  # noqa: B019
    def volume_of(self, case: str) -> tuple[Path, Volume | None, dict[str, Outcome]]:
        """The scan's path, how it reads, and what every way in says."""
        (odd,) = [one for one in CASES if one.name == case]
        place = Path(tempfile.mkdtemp(dir=self.folder))
        path, options = odd.build(place), odd.options
        held: list[Volume] = []
        ways: dict[str, Callable[[], Any]] = {
            "read": lambda: held.append(read_volume(path, **options)),
            "inspect": lambda: inspect(path, spec=SPEC, **options),
            "ask": lambda: self.predictor.ask(held[0] if held else path, "What is seen?", max_new_tokens=1),
            "server": lambda: self._upload(path, options, place / "upload"),
            "prepare": lambda: self._prepare(path),
            "predict": lambda: self._predict(path, options, place / "mask.nii.gz", held),
        }
        if options:  # a line of a manifest does not choose a time
            del ways["prepare"]
        said = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for way, call in ways.items():
                if way == "predict" and held and held[0].affine_lps is None:
                    continue  # refused today: a mask of a scan without geometry
                said[way] = outcome(call, self.seconds, way)
        return path, held[0] if held else None, said

    def _prepare(self, path: Path) -> None:
        found = prepare_scan(ScanJob(case_id="a", path=str(path), spec=SPEC, dtype="uint8"))
        if found.failure is not None:
            raise InputError(found.failure)

    def _predict(self, path: Path, options: dict[str, Any], mask: Path, held: list[Volume]) -> None:
        predict_scan(PredictRequest(scan=path, model=self.segmenter, out=mask, **options))
        stored = nib.load(mask)
        lps = np.diag([-1.0, -1, 1, 1]) @ stored.affine
        inside = np.linalg.inv(held[0].affine_lps) @ lps
        assert np.allclose(np.abs(inside[:3, :3]).sum(axis=0), 1, atol=1e-3), "the mask lies on another lattice"
        assert np.asarray(stored.dataobj).all(), "a mask that calls every voxel bright"

    def _upload(self, path: Path, options: dict[str, Any], folder: Path) -> None:
        folder.mkdir()
        if path.is_dir():
            shutil.copytree(path, folder / "series")
        elif path.exists():
            shutil.copy(path, folder / path.name)
            for beside in path.parent.iterdir():
                if (
                    beside.is_file()
                    and beside != path
                    and path.name.removesuffix(".gz").endswith((".hdr", ".img", ".mhd", ".nhdr"))
                ):
                    shutil.copy(beside, folder / beside.name)
        request = {
            "options": options,
            "file": None if path.is_dir() else path.name,
            "series": None,
            "grid": SPEC.to_dict(),
        }
        reading_worker._read(folder, request)
        assert json.loads((folder / "scan.json").read_text())


@pytest.fixture(scope="module")
def ways(tiny_reader, tmp_path_factory) -> Iterator[Ways]:
    """One segmenter is loaded for all."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Segmenter, "from_pretrained", functools.cache(Segmenter.from_pretrained))
        yield Ways(tiny_reader, tmp_path_factory.mktemp("corpus"))


def faults(case: Odd, ways: Ways) -> dict[str, str]:
    """What is wrong, by kind: "trace", "silent" (a wrong answer without a word), "refused" though readable, "words"."""
    _, volume, said = ways.volume_of(case.name)
    traces = [f"{way}: {one.trace}" for way, one in said.items() if one.trace]
    found = {"trace": str(traces)} if traces else {}
    refusals = {way: one.refusal for way, one in said.items() if one.refusal is not None}
    if isinstance(case.right, Read):
        if volume is not None and (wrong := disagreement(volume, case.right)):
            found["silent"] = wrong
        if refusals:
            found["refused"] = str(refusals)
    elif volume is not None or len(refusals) < len(said):
        found["silent"] = f"taken by {sorted(set(said) - set(refusals))}"
    for way, refusal in refusals.items():
        if "\n" in refusal or (not isinstance(case.right, Read) and not re.search(case.right.words, refusal)):
            found["words"] = f"{way}: {refusal}"
    return found


def each_case(cases: list[Odd]) -> list[Any]:
    def mark(case: Odd) -> Any:
        pending = [pytest.mark.xfail(strict=True, reason=case.pending)] if case.pending else []
        return pytest.param(case, id=case.name, marks=pending)

    return [mark(case) for case in cases]


@pytest.mark.parametrize("case", each_case(CASES))
def test_every_way_in_reads_it_rightly_or_refuses_it_in_one_line(case: Odd, ways: Ways) -> None:
    assert not faults(case, ways), case.odd


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES if case.oracle in ORACLES])
def test_the_oracle_reads_what_is_written_down_as_right(case: Odd, ways: Ways) -> None:
    path, _, _ = ways.volume_of(case.name)
    assert isinstance(case.right, Read)
    found = ORACLES[case.oracle](path, case.options.get("time_point"))
    assert found is not None
    assert agree(case.right, found)


def test_no_case_is_wrong_without_a_word_and_none_ends_in_a_traceback(ways: Ways, capsys) -> None:
    found = Counter(kind for case in CASES if not case.pending for kind in faults(case, ways))
    waiting = Counter(kind for case in CASES if case.pending for kind in faults(case, ways))
    spent = ", ".join(f"{way} {seconds:.1f}" for way, seconds in ways.seconds.items())
    with capsys.disabled():
        print(f"\n{len(CASES)} odd inputs, {ways.seconds.total():.1f} s ({spent}): {dict(found) or 'no fault'}")
        print(f"waiting for the readers: {sum(bool(case.pending) for case in CASES)} cases, {dict(waiting)}")
        print("a traceback:", [case.name for case in CASES if "trace" in faults(case, ways)])
    assert len({case.name for case in CASES}) == len(CASES) >= LEAST_CASES
    assert not found
    assert ways.seconds.total() < MOST_SECONDS


def test_what_simpleitk_reads_rightly_is_read_rightly(ways: Ways, capsys) -> None:
    theirs, ours = [], []
    for case in CASES:
        path, volume, _ = ways.volume_of(case.name)
        found = with_simpleitk(path, case.options.get("time_point")) if path.exists() else None
        if found is not None and isinstance(case.right, Read) and agree(case.right, found):
            theirs.append(case.name)
            ours += [case.name] if volume is not None and not disagreement(volume, case.right) else []
    with capsys.disabled():
        print(f"\nread rightly by SimpleITK {len(theirs)}, of these by us {len(ours)}")
        print(f"not {sorted(set(theirs) - set(ours))}")
    assert len(ours) >= LEAST_OF_SIMPLEITK * len(theirs)
