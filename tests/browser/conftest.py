"""A real server, a real Chromium, and scans whose sides and millimetres are known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from browser.served import CHROMIUM, DESKTOP, REPOSITORY, Served, chromium_options

PAGE = REPOSITORY / "src/slicesight/serving/page/index.html"
AIR_HU, BRIGHT_HU = -1000.0, 200.0


@pytest.fixture(scope="session", autouse=True)
def built_page() -> None:
    """Skip with a reason where something is missing."""
    pytest.importorskip("playwright", reason="needs the Python package playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium here; install it or set SLICESIGHT_CHROMIUM")
    if not PAGE.is_file():
        pytest.skip("the page is not built: make web")


@pytest.fixture(scope="session")
def served(built_page, tmp_path_factory) -> Iterator[Served]:
    server = Served(tmp_path_factory.mktemp("served") / "scans")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def browser(built_page):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(**chromium_options())
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser):
    """Open an address in a fresh browser; at the end nothing may have gone elsewhere or been complained about."""
    contexts, complaints, addresses = [], [], set()

    def opened(address: str, *, size: dict[str, int] = DESKTOP, **options):
        context = browser.new_context(viewport=size, accept_downloads=True, **options)
        context.set_default_timeout(60_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: addresses.add(request.url))
        page.allowed_complaints = ()
        page.goto(address)
        page.origin = address
        return page

    yield opened
    pages = [page for context in contexts for page in context.pages]
    origins = tuple(page.origin for page in pages)
    allowed = [text for page in pages for text in page.allowed_complaints]
    for context in contexts:
        context.close()
    assert [one for one in complaints if not any(text in one for text in allowed)] == []
    assert [url for url in addresses if not url.startswith((*origins, "data:", "blob:"))] == []


@pytest.fixture(scope="session")
def phantom_of():
    """A coarse phantom acquired in a plane."""
    from slicesight.phantoms.rendering import make_phantom

    def found(plane: str):
        for index in range(60):
            phantom = make_phantom(7, index, pixel_mm=(3.5, 4.0))
            if phantom.truth.plane == plane and phantom.truth.findings:
                return phantom
        raise AssertionError(f"no {plane} phantom with findings among the first 60")

    return found


@pytest.fixture(scope="session")
def file_of(phantom_of, tmp_path_factory):
    """That phantom as NIfTI."""
    from slicesight.io.writers import write_nifti

    def written(plane: str) -> Path:
        path = tmp_path_factory.mktemp(plane) / "phantom.nii.gz"
        write_nifti(phantom_of(plane).volume, path)
        return path

    return written


@pytest.fixture(scope="session")
def octant_file(phantom_of, tmp_path_factory) -> Path:
    """Air, but for the octant toward the patient's left, front and head (canonical: z high, y low, x high)."""
    from slicesight.io.writers import write_nifti

    volume = phantom_of("axial").volume
    voxels = np.full(volume.shape, AIR_HU, np.float32)
    z, y, x = (length // 2 for length in volume.shape)
    voxels[z - 2 :, : y + 2, x - 2 :] = BRIGHT_HU
    path = tmp_path_factory.mktemp("octant") / "octant.nii.gz"
    write_nifti(replace(volume, voxels=voxels), path)
    return path
