"""Behind a proxy with TLS and a path of its own the server answers, and names addresses that lead back."""

from __future__ import annotations

import getpass
import shutil
import subprocess
import time

import httpx
import pytest

from slicesight.errors import InputError
from slicesight.serving.options import ServeOptions

TOKEN = "0123456789abcdef0123456789abcdef"
PUBLIC = {"token": TOKEN, "public_url": "https://ward.example/scans"}
RIGHT = {"authorization": f"Bearer {TOKEN}", "host": "ward.example", "origin": "https://ward.example"}


@pytest.mark.parametrize("root", ["/scans", ""], ids=["path kept", "path taken off by the proxy"])
def test_the_public_name_and_path_are_let_in(make_client, phantom_file, root):
    client = make_client(**PUBLIC)
    assert client.get(f"{root}/v1/models", headers=RIGHT).status_code == 200
    assert client.get(f"{root}/healthz", headers=RIGHT).status_code == 200
    assert client.get(f"{root}/", headers=RIGHT).status_code == 200
    assert client.get(f"{root}/v1/models", headers={"host": "ward.example"}).status_code == 401
    with phantom_file.open("rb") as scan:
        found = client.post(f"{root}/v1/volumes", files={"file": ("s.nii.gz", scan)}, headers=RIGHT)
    assert found.headers["location"] == f"/scans/v1/volumes/{found.json()['id']}"
    assert client.get(found.headers["location"], headers=RIGHT).status_code == 200


def test_other_names_and_pages_are_still_refused(make_client):
    client = make_client(**PUBLIC)
    assert client.get("/v1/models", headers={**RIGHT, "host": "evil.example"}).status_code == 421
    assert client.get("/v1/models", headers={**RIGHT, "origin": "https://evil.example"}).status_code == 403


def test_no_spelling_of_the_path_passes_by_the_token(make_client):
    client = make_client(**PUBLIC)
    for path in (
        "/scans/scans/v1/models",
        "//v1/models",
        "/scans//v1/models",
        "/scans/v1/models/",
        "/scans/./v1/models",
    ):
        assert client.get(path, headers={"host": "ward.example"}).status_code in (401, 404), path


def test_another_loopback_address_is_as_good_as_the_first(make_client):
    client = make_client(host="127.0.0.2")
    headers = {"host": "127.0.0.2:8000", "origin": "http://127.0.0.2:8000"}
    assert client.get("/v1/models", headers=headers).status_code == 200


def test_a_slash_at_the_end_leads_to_no_other_host(client):
    found = client.get("/v1/models/", follow_redirects=False)
    assert found.status_code == 200


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"public_url": "ward.example", "token": TOKEN}, "--public-url"),
        ({"public_url": "ftp://ward.example", "token": TOKEN}, "--public-url"),
        ({"public_url": "https://[", "token": TOKEN}, "--public-url"),
        ({"public_url": "https://ward.example"}, "--token-file"),
        ({"root_path": "/a b"}, "--root-path"),
        ({"root_path": "/../v1"}, "--root-path"),
        ({"grace_s": -1}, "--grace"),
        ({"max_kept_bytes": 10}, "--max-disk"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(settings, named):
    with pytest.raises(InputError, match=named):
        ServeOptions(**settings)


def test_a_path_is_written_one_way():
    for given in ("scans", "/scans", "/scans/"):
        assert ServeOptions(root_path=given).root_path == "/scans"
    assert ServeOptions(public_url="https://h/", token=TOKEN).root_path == ""


def test_clients_behind_the_proxy_are_told_apart(listen_with):
    with listen_with(**PUBLIC) as (address, _):
        from slicesight.serving import chat_routes

        seen = []
        original = chat_routes.client_of
        chat_routes.client_of = lambda scope: seen.append(original(scope)) or seen[-1]
        try:
            for who in ("10.0.0.1", "10.0.0.2", "10.0.0.1"):
                body = {
                    "model": "tiny-random",
                    "messages": [
                        {
                            "role": "user",
                            "content": [
                                {"type": "text", "text": "a"},
                                {"type": "file", "file": {"file_id": "vol_" + "0" * 32}},
                            ],
                        }
                    ],
                }
                httpx.post(f"{address}/v1/chat/completions", json=body, headers={**RIGHT, "x-forwarded-for": who})
        finally:
            chat_routes.client_of = original
    assert seen[0] == seen[2] != seen[1]


def test_without_a_proxy_nobody_may_name_another_address(listen_with):
    from slicesight.serving.running import uvicorn_config

    assert not uvicorn_config(None, ServeOptions()).proxy_headers
    assert uvicorn_config(None, ServeOptions(**PUBLIC)).proxy_headers


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
@pytest.mark.parametrize("slash", ["/", ""], ids=["path taken off", "path kept"])
def test_nginx_serves_it_at_a_path(listen_with, tmp_path, phantom_file, slash):
    with listen_with(**{**PUBLIC, "public_url": "http://127.0.0.1/scans"}) as (address, _):
        config = tmp_path / "nginx.conf"
        config.write_text(
            f"user {getpass.getuser()}; daemon off; pid {tmp_path}/pid; error_log stderr; events {{}}\n"
            f"http {{ access_log off; client_body_temp_path {tmp_path}/body; proxy_temp_path {tmp_path}/proxy;\n"
            f"fastcgi_temp_path {tmp_path}/f; uwsgi_temp_path {tmp_path}/u; scgi_temp_path {tmp_path}/s;\n"
            f"server {{ listen 127.0.0.1:18081; client_max_body_size 2g;\n"
            f"location /scans/ {{ proxy_pass {address}{slash}; proxy_set_header Host $host; proxy_buffering off;\n"
            f"proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme; }} }} }}\n"
        )
        nginx = subprocess.Popen(["nginx", "-c", str(config)])
        try:
            right = {"authorization": f"Bearer {TOKEN}", "origin": "http://127.0.0.1"}
            with httpx.Client(base_url="http://127.0.0.1:18081", headers=right) as client:
                for _ in range(100):
                    try:
                        client.get("/scans/healthz")
                        break
                    except httpx.ConnectError:
                        time.sleep(0.05)
                with phantom_file.open("rb") as scan:
                    made = client.post("/scans/v1/volumes", files={"file": ("s.nii.gz", scan)})
                assert made.status_code == 201, made.text
                assert client.get(made.headers["location"]).status_code == 200
                assert client.get("/scans/").status_code == 200
        finally:
            nginx.terminate()
            nginx.wait(10)
