"""Does the house hold together? Imports are declared and pinned, rooms have their place, the README's commands work."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCE = REPOSITORY / "src" / "slicesight"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


def declared() -> dict[str, Requirement]:
    """Every requirement of the core and of every extra, by its normal name."""
    lines = list(PROJECT["project"]["dependencies"])
    for extra in PROJECT["project"]["optional-dependencies"].values():
        lines += extra
    return {_normal(found.name): found for found in map(Requirement, lines) if found.name != "slicesight"}


def pins() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {_normal(name): version for name, version in pairs}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _imported(path: Path, *, at_top_only: bool) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if at_top_only else ast.walk(tree)
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def test_every_folder_of_modules_is_a_package():
    folders = {path.parent for path in SOURCE.rglob("*.py")}
    assert not [str(folder) for folder in folders if not (folder / "__init__.py").is_file()]


def test_every_library_the_code_imports_is_declared():
    homes = packages_distributions()
    known = set(declared())
    missing = {}
    for path in SOURCE.rglob("*.py"):
        for name in _imported(path, at_top_only=False) - set(sys.stdlib_module_names) - {"slicesight"}:
            distributions = {_normal(home) for home in homes.get(name, [name])}
            if not distributions & known:
                missing.setdefault(name, []).append(str(path.relative_to(SOURCE)))
    # transformers brings these two, and they are its own interface
    assert set(missing) <= {"tokenizers", "huggingface_hub"}, missing


def test_every_declared_library_is_pinned_to_one_version_inside_its_range():
    for name, requirement in declared().items():
        assert name in pins(), f"{name} has no pin in constraints.txt"
        assert requirement.specifier.contains(pins()[name]), (
            f"{name}: {pins()[name]} is outside {requirement.specifier}"
        )


def test_the_version_is_written_once():
    import slicesight

    assert "version" in PROJECT["project"]["dynamic"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", slicesight.__version__)


def test_every_room_has_its_place_in_the_import_contract():
    contract = PROJECT["tool"]["importlinter"]["contracts"][0]
    places = {name.strip(" ()") for layer in contract["layers"] for name in layer.split("|")}
    rooms = {path.stem for path in SOURCE.glob("*.py") if path.stem != "__init__"}
    rooms |= {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert rooms <= places
    assert contract["exhaustive"]


def test_files_of_the_package_say_which_question_they_answer():
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not tree.body or ast.get_docstring(tree), path


def test_no_path_of_a_developers_machine_is_in_the_tree():
    suspicious = re.compile(r"/(?:home|root|Users|work|tmp)/\w")
    for folder in ("src", "recipes", "docs"):
        for path in (REPOSITORY / folder).rglob("*"):
            if path.suffix in {".py", ".md", ".yaml", ".j2", ".json"} and "_build" not in path.parts:
                assert not suspicious.search(path.read_text(encoding="utf-8")), path


def test_every_training_recipe_parses():
    """Those of other verbs name it; their own tests read them."""
    from slicesight.training.recipe import read_recipe

    recipes = [path for path in (REPOSITORY / "recipes").glob("*.yaml") if "\nverb: " not in path.read_text("utf-8")]
    assert recipes
    for path in recipes:
        assert read_recipe(path).name


def test_hooks_run_from_the_projects_own_environment():
    text = (REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    entries = re.findall(r"entry: (\S+)", text)
    assert len(entries) == 4
    assert all(entry.startswith(".venv/bin/") for entry in entries)


# --- the README ------------------------------------------------------------------------------------------------------


def code_blocks(language: str) -> list[str]:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", readme, flags=re.MULTILINE | re.DOTALL)


def shell_commands() -> list[str]:
    return [
        line.strip() for block in code_blocks("sh") for line in block.splitlines() if line.startswith("slicesight ")
    ]


def test_readme_has_a_picture_that_exists_and_links_that_lead_somewhere():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert re.search(r"!\[[^]]+\]\(docs/[\w/.-]+\.png\)", readme)
    for target in re.findall(r"\]\(([^)#]+)\)", readme):
        if "://" not in target:
            assert (REPOSITORY / target).exists(), target


def test_readme_names_only_make_targets_that_exist():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)", "".join(code_blocks("sh"))))
    assert named
    assert named <= targets


@pytest.fixture
def desk(tmp_path, monkeypatch, phantom, phantom_file, tiny_model_folder):
    """A folder as the README assumes it, where the shipped model is replaced by the tiny random one to be quick."""
    from slicesight.io.writers import write_dicom
    from slicesight.models.shipped import DEFAULT_MODEL, PHANTOM_MODEL

    (tmp_path / "scan.nii.gz").write_bytes(phantom_file.read_bytes())
    write_dicom(phantom.volume, tmp_path / "dicom_folder")
    monkeypatch.chdir(tmp_path)
    shipped = tmp_path / "weights"
    shipped.mkdir()
    for name in (DEFAULT_MODEL, PHANTOM_MODEL):
        (shipped / name).symlink_to(tiny_model_folder)
    monkeypatch.setattr("slicesight.models.shipped.SHIPPED_FOLDER", shipped)
    return tmp_path


def test_the_shell_commands_of_the_readme_run_one_after_the_other(desk, monkeypatch, capsys):
    import shlex

    from slicesight import cli

    commands = shell_commands()
    assert len(commands) >= 4
    for command in commands:
        arguments = shlex.split(command, comments=True)
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert not stopped.value.code, f"{command}: {capsys.readouterr().err}"
        for option in ("--html", "--png", "--json"):
            if option in arguments and (name := arguments[arguments.index(option) + 1]) != "-":
                assert (desk / name).stat().st_size > 0


def test_the_python_of_the_readme_runs(desk, capsys):
    (block,) = code_blocks("python")
    exec(compile(block, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) >= 2
    assert "slices" in printed or "(" in printed


def test_text_is_read_and_written_in_a_named_encoding() -> None:
    """Else the same file reads otherwise under another locale."""
    found = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or any(keyword.arg in ("encoding", "text") for keyword in node.keywords):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            mode = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
            is_method = isinstance(node.func, ast.Attribute)
            is_text = name == "open" and isinstance(mode, str) and mode in ("r", "w", "a", "x", "r+", "w+", "a+")
            if is_text or (is_method and name in ("read_text", "write_text")) or (name == "open" and not node.args):
                found.append(f"{path.relative_to(SOURCE)} line {node.lineno}: {ast.unparse(node)}")
    assert found == []
