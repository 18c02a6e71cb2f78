"""A server with the tiny random model: called directly, or really listening on this machine."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace

import pytest
from starlette.testclient import TestClient

from serving_address import listening
from slicesight.serving.options import ServeOptions


@pytest.fixture
def options(tmp_path):
    return ServeOptions(model="tiny-random", folder=tmp_path / "kept")


@pytest.fixture
def make_client(tiny_reader, options):
    """A client of an app of its own; changes are options."""
    from slicesight.serving.app import create_app

    open_clients = []

    def make(**changes):
        app = create_app(tiny_reader, replace(options, **changes))
        client = TestClient(app, base_url="http://127.0.0.1:8000").__enter__()
        open_clients.append(client)
        return client

    yield make
    for client in open_clients:
        client.__exit__(None, None, None)


@pytest.fixture(scope="session")
def client(tiny_reader, tmp_path_factory):
    """A client that all tests share which change nothing for others."""
    from slicesight.serving.app import create_app

    options = ServeOptions(model="tiny-random", folder=tmp_path_factory.mktemp("serving") / "kept")
    with TestClient(create_app(tiny_reader, options), base_url="http://127.0.0.1:8000") as client:
        yield client


@pytest.fixture
def held(monkeypatch):
    """Keeps the model's thread from its next step until it is set."""
    from slicesight.inference.scheduler import Scheduler

    go = threading.Event()
    go.set()
    step = Scheduler._pass_token

    def patient(self, *arguments):
        go.wait(30)
        return step(self, *arguments)

    monkeypatch.setattr(Scheduler, "_pass_token", patient)
    yield go
    go.set()


@pytest.fixture
def listen_with(tiny_reader, options):
    """Start a listening server with other options, as a context."""
    return lambda **changes: listening(tiny_reader, replace(options, port=0, **changes))


@pytest.fixture(scope="session")
def upload(phantom_file):
    """Send the phantom -> what the server says about it."""

    def send(client, file=phantom_file, name="scan.nii.gz", **fields):
        with open(file, "rb") as stream:
            response = client.post("/v1/volumes", files={"file": (name, stream)}, data=fields)
        assert response.status_code == 201, response.text
        return response.json()

    return send


@pytest.fixture(scope="session")
def volume(client, upload):
    """The phantom as the shared client knows it; not to be deleted."""
    return upload(client)


@pytest.fixture(scope="session")
def lend(client, volume):
    """Put a copy of the phantom as it was read on another server's shelf -> its id; quicker than to read it again."""

    def put(server):
        scan_store = client.app.state.server.scan_store
        with server.scan_store.receiving() as folder:
            copy = folder / "copy"
            shutil.copytree(scan_store.volumes / volume["id"], copy, ignore=shutil.ignore_patterns("answers"))
            return server.scan_store.add(copy, {"created": 0, "bytes": 1, "archive": None})

    return put


@pytest.fixture
def own_volume(client, lend):
    """One to delete, or to have no answers yet."""
    return client.get(f"/v1/volumes/{lend(client.app.state.server)}").json()
