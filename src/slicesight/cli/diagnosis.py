"""What is there on this machine that a bug report should say? Gathered so that a broken part is told, never raised.

Home is shown as ~ and the user's name as USER wherever either stands in a path; tokens, proxies and the machine's name
are never told, only that a variable is set.
"""

from __future__ import annotations

import getpass
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from slicesight import __version__

LIBRARIES = (
    *("torch", "transformers", "tokenizers", "safetensors", "huggingface-hub", "numpy", "scipy"),
    *("pydicom", "nibabel", "pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle", "pyjpegls"),
    *("isal", "pillow", "matplotlib", "pydantic", "typer", "rich"),
)
TOLD_VARIABLES = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "CUDA_VISIBLE_DEVICES"),
    *("HF_HUB_OFFLINE", "HF_HOME", "HF_ENDPOINT", "SLICESIGHT_MODELS", "XDG_DATA_HOME", "TMPDIR"),
    *("LANG", "LC_ALL", "PYTHONPATH", "NO_COLOR"),
)
SECRET_VARIABLES = (
    *("HF_TOKEN", "SLICESIGHT_ARCHIVE_TOKEN", "OPENAI_API_KEY"),
    *("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"),
)
ISA_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "bf16",
    "i8mm",
)


def diagnose() -> dict[str, Any]:
    """Every part of the report by name; a part that cannot be told holds {"error": why}."""
    parts: dict[str, Callable[[], Any]] = {
        "versions": _versions,
        "processor": _processor,
        "torch": _torch,
        "gpu": _gpu,
        "libraries": _libraries,
        "extras": _extras,
        "models": _models,
        "caches": _caches,
        "page": _page,
        "codecs": _codecs,
        "sandbox": _sandbox,
        "variables": _variables,
    }
    found = {name: _told(part) for name, part in parts.items()}
    document: dict[str, Any] = without_names({"schema": 1, **found, "problems": _problems(found)})
    return document


def without_names(value: Any, *, home: Path | None = None, user: str | None = None) -> Any:
    """The same with home as ~ and the user's name, where it is a part of a path, as USER."""
    home = Path.home() if home is None else home
    user = _user() if user is None else user
    if isinstance(value, Mapping):
        return {key: without_names(one, home=home, user=user) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_names(one, home=home, user=user) for one in value]
    if not isinstance(value, str):
        return value
    for place in dict.fromkeys((str(home), str(home.resolve()))):
        if len(place) > 1:
            value = re.sub(rf"{re.escape(place)}(?=$|[/\\:;\s'\"),])", "~", value)
    return re.sub(rf"(?<=[/\\]){re.escape(user)}(?=$|[/\\:;\s'\"),])", "USER", value) if user else value


def _told(part: Callable[[], Any]) -> Any:
    """The part, or why it cannot be told: a broken installation is what the report is for."""
    try:
        return part()
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        return {"error": f"{type(error).__name__}: {reason}" if reason else type(error).__name__}


def _versions() -> dict[str, Any]:
    return {
        "slicesight": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": platform.platform(),
        "executable": sys.executable,
        "package": str(Path(__file__).resolve().parents[1]),
        "encoding": sys.stdout.encoding or "unknown",
    }


def _processor() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.is_file() else []
    facts = {name.strip(): text.strip() for line in reversed(lines) for name, _, text in [line.partition(":")]}
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "name": facts.get("model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "flags": [flag for flag in ISA_FLAGS if flag in flags],
        "cores": os.cpu_count(),
        "cores_allowed": allowed,
        "memory_gib": _gib(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        if hasattr(os, "sysconf")
        else None,
    }


def _torch() -> dict[str, Any]:
    import torch

    from slicesight.inference.cpu.processor import count_cores
    from slicesight.planning.memory import find_free_bytes

    return {
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "cores_used": min(torch.get_num_threads(), count_cores()),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "onednn": bool(torch.backends.mkldnn.is_available()),
        "cuda_build": torch.version.cuda,
        "free_memory_gib": _gib(find_free_bytes("cpu")),
    }


def _gpu() -> list[dict[str, Any]]:
    import torch

    found: list[dict[str, Any]] = []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        facts = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        found.append(
            {
                "name": facts.name,
                "capability": f"{facts.major}.{facts.minor}",
                "memory_gib": _gib(total),
                "free_gib": _gib(free),
            }
        )
    if getattr(torch.backends, "mps", None) is not None and torch.backends.mps.is_available():
        found.append({"name": "Apple MPS (not used by this package)"})
    return found


def _libraries() -> dict[str, str | None]:
    return {name: _version(name) for name in LIBRARIES}


def _extras() -> dict[str, dict[str, Any]]:
    """Each extra of the package: whether all it needs is there, else what is missing."""
    names = metadata.metadata("slicesight").get_all("Provides-Extra") or []
    missing = {extra: sorted(set(_missing_of(extra))) for extra in names}
    return {extra: {"installed": not missing[extra], "missing": missing[extra]} for extra in sorted(names)}


def _missing_of(extra: str) -> Iterator[str]:
    """What an extra, and those that it names, need and is not here."""
    for one in map(Requirement, metadata.requires("slicesight") or []):
        if one.marker is None or one.marker.evaluate({"extra": ""}) or not one.marker.evaluate({"extra": extra}):
            continue
        if one.name == "slicesight":
            for inner in one.extras - {extra}:
                yield from _missing_of(inner)
        elif not _satisfies(one):
            yield one.name


def _satisfies(requirement: Requirement) -> bool:
    version = _version(requirement.name)
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def _models() -> list[dict[str, Any]]:
    from slicesight.cli.model_list import list_models

    return [
        {"name": row["name"], "state": row["state"], "gib": row["gib"], "folder": row["folder"]}
        for row in list_models()
        if row["state"] != "known"
    ]


def _caches() -> dict[str, dict[str, Any]]:
    from huggingface_hub.constants import HF_HUB_CACHE

    from slicesight.models.shipped import pulled_folder

    places = {"pulled models": pulled_folder(), "hub": Path(HF_HUB_CACHE), "temporary": Path(tempfile.gettempdir())}
    return {name: _place(place) for name, place in places.items()}


def _place(place: Path) -> dict[str, Any]:
    there = next((one for one in (place, *place.parents) if one.is_dir()), Path("/"))
    return {"folder": str(place), "exists": place.is_dir(), "free_gib": _gib(shutil.disk_usage(there).free)}


def _page() -> dict[str, Any]:
    """Looked for beside the package without importing the server, which may not be installed."""
    return {"built": (Path(__file__).resolve().parents[1] / "serving" / "page" / "index.html").is_file()}


def _codecs() -> list[dict[str, Any]]:
    """The DICOM transfer syntaxes of pixel data and what decodes them here."""
    from pydicom.pixels.decoders import base
    from pydicom.uid import AllTransferSyntaxes, DeflatedExplicitVRLittleEndian

    found = []
    for uid in AllTransferSyntaxes:
        try:
            decoder = base.get_decoder(uid)
        except NotImplementedError:  # video and sound
            continue
        by = [str(name) for name in decoder.available_plugins] if uid.is_encapsulated else ["uncompressed"]
        if uid == DeflatedExplicitVRLittleEndian:
            by = ["deflated"]
        found.append({"uid": str(uid), "name": str(uid.name), "decodes": bool(by), "by": by})
    return found


def _sandbox() -> dict[str, Any]:
    if not sys.platform.startswith("linux"):
        return {"shut": []}
    from slicesight.serving.sandbox import what_is_shut

    return {"shut": sorted(what_is_shut())}


def _variables() -> dict[str, str]:
    told = {name: os.environ[name] for name in TOLD_VARIABLES if name in os.environ}
    return told | {name: "set" for name in SECRET_VARIABLES if os.environ.get(name)}


def _problems(found: Mapping[str, Any]) -> list[str]:
    """What keeps the package from answering, one line each with what to do."""
    lines = []
    for name, part in found.items():
        if isinstance(part, dict) and "error" in part:
            lines.append(f"{name}: {part['error']}")
    if isinstance(found["libraries"], dict):
        needed = _needed()
        lines += [
            f"{one.name} {_version(one.name) or 'is missing'}: slicesight needs {one.name}{one.specifier}; "
            "run: pip install -U slicesight"
            for one in needed
            if not _satisfies(one)
        ]
    if isinstance(found["models"], list) and not any(row["state"] == "shipped" for row in found["models"]):
        lines.append("no shipped model: the package's weights are missing; install it again")
    if isinstance(found["codecs"], list):
        lines += [
            f"DICOM {row['name']}: nothing here decodes it; run: pip install -U slicesight"
            for row in found["codecs"]
            if not row["decodes"] and row["uid"] in EXPECTED_SYNTAXES
        ]
    return lines


EXPECTED_SYNTAXES = frozenset(
    f"1.2.840.10008.1.2{end}" for end in (".4.50", ".4.51", ".4.57", ".4.70", ".4.80", ".4.81", ".4.90", ".4.91", ".5")
)
"""JPEG baseline, extended and lossless, JPEG-LS, JPEG 2000 and RLE, as DICOM PS3.5 section 10 numbers them."""


def _needed() -> list[Requirement]:
    """What the package itself declares, without its extras."""
    try:
        lines = metadata.requires("slicesight") or []
    except metadata.PackageNotFoundError:  # run from a source tree
        return []
    found = [Requirement(line) for line in lines]
    return [one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _gib(num_bytes: int | None) -> float | None:
    return None if num_bytes is None else round(num_bytes / 2**30, 1)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return ""
