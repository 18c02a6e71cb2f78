"""Is a release what it says? One version, a workflow that publishes what the script makes, files that parse."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

import slicesight

REPOSITORY = Path(__file__).resolve().parents[1]
WORKFLOW = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8"))
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_citation_is_of_this_version_and_has_both_methods():
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == slicesight.__version__
    assert cited["license"] == PROJECT["license"]
    titles = " ".join(one["title"] for one in cited["references"])
    assert "Med-2E3" in titles
    assert "Med3DInsight" in titles


def test_the_changelog_has_this_version_with_its_date_below_what_is_not_released():
    headings = re.findall(r"^## (.+)$", (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    versions = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)", one) for one in headings[1:]]
    assert all(versions), headings
    assert versions[0][1] == slicesight.__version__
    assert [one[2] for one in versions] == sorted((one[2] for one in versions), reverse=True)


def test_a_tag_alone_publishes_and_only_after_the_checks():
    jobs = WORKFLOW["jobs"]
    assert jobs["publish"]["needs"] == "smoke"
    assert jobs["smoke"]["needs"] == "build"
    assert "github.ref_type == 'tag'" in jobs["publish"]["if"]
    commands = [step.get("run", "") for step in jobs["build"]["steps"]]
    assert any(".ci/release" in line and "REQUIRE_PAGE=1" in line for line in commands)
    assert WORKFLOW["permissions"] == {"contents": "read"}, "only the job that publishes may write"
    assert not re.search(r"password|api[_-]?token|secrets\.", json.dumps(WORKFLOW))


CONDA_NAMES = {"isal": "python-isal", "matplotlib": "matplotlib-base", "torch": "pytorch"}


def test_the_recipe_for_conda_forge_needs_what_the_package_needs():
    recipe = yaml.safe_load((REPOSITORY / "deploy" / "conda" / "recipe.yaml").read_text(encoding="utf-8"))
    assert recipe["context"]["version"] == slicesight.__version__
    assert recipe["context"]["python_min"] == PROJECT["requires-python"].removeprefix(">=")
    assert recipe["build"]["python"]["entry_points"] == [f"{a} = {b}" for a, b in PROJECT["scripts"].items()]
    assert recipe["about"]["license"] == PROJECT["license"]
    declared = set()
    for line in PROJECT["dependencies"]:
        name, limits = re.fullmatch(r"([\w-]+)([^;]*)(?:;.*)?", line).groups()
        declared.add(f"{CONDA_NAMES.get(name, name)} {limits.strip()}")
    assert set(recipe["requirements"]["run"]) == declared | {"python >=${{ python_min }}"}


def test_classifiers_and_urls_are_known_to_pypi():
    known = pytest.importorskip("trove_classifiers").classifiers
    assert set(PROJECT["classifiers"]) <= known
    lowest = PROJECT["requires-python"].removeprefix(">=")
    assert f"Programming Language :: Python :: {lowest}" in PROJECT["classifiers"]


def test_the_forms_for_issues_parse_and_warn_of_patients():
    forms = sorted((REPOSITORY / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert len(forms) == 4, "three forms and their settings"
    bug = yaml.safe_load((REPOSITORY / ".github" / "ISSUE_TEMPLATE" / "wrong-or-broken.yml").read_text("utf-8"))
    assert {part["type"] for part in bug["body"]} <= {"markdown", "textarea", "input", "checkboxes"}
    assert "no patient" in json.dumps(bug)
    assert all((REPOSITORY / name).is_file() for name in ("SECURITY.md", "CODE_OF_CONDUCT.md", "LICENSE"))


@pytest.mark.slow  # builds the package four times
@pytest.mark.skipif(not (find_spec("build") and find_spec("twine")), reason="pip install '.[release]' brings the tools")
def test_two_builds_of_a_commit_are_the_same_and_whole(tmp_path):
    copy = tmp_path / "copy"
    subprocess.run(["git", "clone", "-q", REPOSITORY, copy], check=True)
    environment = {**os.environ, "PYTHON": sys.executable, "GITHUB_REF_TYPE": "", "REQUIRE_PAGE": ""}

    def release():
        done = subprocess.run([copy / ".ci" / "release"], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (copy / "dist").iterdir()}

    first = release()
    assert release() == first
    wheel = next((copy / "dist").glob("*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "weights/phantom-tiny/model.safetensors",
        "reports/templates/viewer.js",
        "reports/schemas/ask.schema.json",
    ):
        assert f"slicesight/{wanted}" in names
    sdist = next((copy / "dist").glob("*.tar.gz"))
    recipe = yaml.safe_load((copy / "dist" / "recipe.yaml").read_text())
    assert recipe["source"]["sha256"] == first[sdist.name]
    parts = json.loads(next((copy / "dist").glob("*.cdx.json")).read_text())["components"]
    assert {"torch", "pydicom"} <= {part["name"] for part in parts}
    environment |= {"GITHUB_REF_TYPE": "tag", "GITHUB_REF_NAME": "v9.9.9"}
    refused = subprocess.run([copy / ".ci" / "release"], env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "the tag is v9.9.9, but __version__ is" in refused.stderr
