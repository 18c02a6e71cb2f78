"""Does the manual speak of what is there? Files, names and options of every page, held against the code.

What stands in `code` is held against the tree: a path must exist, or be a name that the code writes; a dotted name must
lead through a module or class to something defined there; a single name must occur in code or recipes. A command
line's verb and options must be those of the command tree, or of the script it runs. Where a page speaks of a name
that is gone, as the table of moved rooms does, it stands without backticks.
"""

from __future__ import annotations

import ast
import functools
import re
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest
import typer
import typer.main

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCE = REPOSITORY / "src" / "slicesight"
PAGES = sorted(
    [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"]
    + [path for path in (REPOSITORY / "docs").rglob("*.md") if "_build" not in path.parts]
)
SUFFIXES = "py|md|cff|yaml|yml|toml|json|jsonl|j2|csv|txt|npy|html|png|safetensors|parquet|css|ts|tsx"
PATH = re.compile(
    rf"(?<![\w./*{{-])(?:[\w.-]+/)*[\w-][\w.-]*\.(?:{SUFFIXES})(?![\w.])|(?<![\w./:-])(?:[\w.-]+/)+(?![\w*.-])"
)
DOTTED = re.compile(r"(?<![\w./-])[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+(?![\w/]|\.\w)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9_-]*")
WORD = re.compile(r"(?<![\w.])[A-Za-z_]\w*(?![\w.])")

OTHERS_DOTTED = {
    "archive.hospital": "an example of a host's name",
    "nltk.downloader": "a module of the library nltk",
    "LLM.chat": "a method of vLLM",
    "vllm.entrypoints.openai.api_server": "a module of vLLM",
    "torch.ao": "PyTorch's older quantisation",
}
"""Dotted names that are not ours, each with whose it is."""
OTHERS_OPTIONS = {
    "--local-dir": "hf download",
    "--index-url": "pip install",
    "--torch-backend": "uv pip install",
    "--num_machines": "accelerate launch",
    "--machine_rank": "accelerate launch",
    "--main_process_ip": "accelerate launch",
    "--nproc-per-node": "torchrun",
    "--config_file": "accelerate launch",
    "--allowed-local-media-path": "vllm serve",
    "--allowed-media-domains": "vllm serve",
    "--dtype": "vllm serve",
    "--enable-lora": "vllm serve",
    "--max-model-len": "vllm serve",
    "--num_processes": "accelerate launch",
    "--fast": "TotalSegmentator",
    "--body_seg": "TotalSegmentator",
    "--force_split": "TotalSegmentator",
    "--strict": "twine",
    "--read-only": "docker run",
    "--entrypoint": "docker run",
    "--build-arg": "docker build",
}
"""Options of other programs, each with the program's name."""
OTHERS_WORDS = {
    "manpath": "a program of the manual pages",
    "pt_1": "a patient of OpenKBP",
    "HTTPS_PROXY": "the system's variable for a proxy",
    "REQUESTS_CA_BUNDLE": "the variable of the library requests",
    "max_order": "an argument of the library evaluate",
    "KillMode": "a setting of systemd",
    "storescp": "a program of dcmtk",
    "FORWARDED_ALLOW_IPS": "the variable of the library uvicorn",
}
"""Single names that are not ours, each with whose it is."""
USERS_PATHS = {
    "hospital.pem": "a user's certificate",
    "labelled.jsonl": "a user's list of scans",
    "series.json": "the text of a user's folder called series",
    "preprocessor_config.json": "what a model folder of the Hugging Face hub holds",
    "checkpoints/04-instruct-000200/": "an example of a checkpoint's name",
}
"""Paths that a page gives other people's files, each with why it is not in the tree."""


# --- what is there ---------------------------------------------------------------------------------------------------


@functools.cache
def code_files() -> dict[Path, str]:
    """Every file that a page may speak of and that is text: code, recipes, tests, scripts, the web page's source."""
    roots = ("src", "tests", "benchmarks", "recipes", "docs", "web/src", "web/tests", "plugins", ".ci")
    files = [path for root in roots for path in (REPOSITORY / root).rglob("*") if path.is_file()]
    files += [path for path in REPOSITORY.iterdir() if path.is_file()]
    wanted = {".py", ".yaml", ".json", ".toml", ".j2", ".ts", ".tsx", ".css", ".html", ".txt", ".cfg", ""}
    hidden = {"_build", "__pycache__", "node_modules", "fixtures"}
    found = {}
    for path in files:
        parts = path.relative_to(REPOSITORY).parts
        is_text = path.suffix in wanted and not hidden & set(parts) and path.stat().st_size < 1 << 20
        if is_text and path != Path(__file__).resolve():
            found[path] = path.read_text(encoding="utf-8", errors="ignore")
    return found


@functools.cache
def words_of_code() -> frozenset[str]:
    """Every word that code or a recipe holds; pages themselves do not count."""
    return frozenset(word for text in code_files().values() for word in re.findall(r"\w+", text))


@functools.cache
def modules() -> dict[str, dict[str, set[str]]]:
    """Dotted module -> what it defines -> the members of that, for src, tests and benchmarks."""
    found = {}
    for path, text in code_files().items():
        if path.suffix != ".py":
            continue
        for root in ("src", "."):
            if (REPOSITORY / root) in path.parents:
                name = ".".join(path.relative_to(REPOSITORY / root).with_suffix("").parts).removesuffix(".__init__")
                break
        found[name] = _definitions(ast.parse(text), is_package=path.name == "__init__.py")
    return found


def _definitions(tree: ast.Module, *, is_package: bool) -> dict[str, set[str]]:
    names: dict[str, set[str]] = defaultdict(set)
    if is_package:  # what a package imports it offers as its own
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        names.update({alias.asname or alias.name: set() for node in imports for alias in node.names})
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            names[node.name] |= _members(node)
    for node in tree.body:
        for name in _named(node):
            names[name] |= set()
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):  # a table of names, such as _HOMES
            keys = {key.value for key in node.value.keys if isinstance(key, ast.Constant)}
            for name in _named(node):
                names[name] |= keys
            if _named(node) in (["_HOMES"], ["_OLD_NAMES"]):
                names.update({key: set() for key in keys})
    return names


def _named(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    return []


def _members(node: ast.ClassDef) -> set[str]:
    found = {name for part in node.body for name in _named(part)}
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
            found.add(part.attr)
        elif isinstance(part, ast.FunctionDef) and part.name == "__init__":
            found |= {argument.arg for argument in (*part.args.args, *part.args.kwonlyargs)}
    return found


@functools.cache
def defined() -> tuple[dict[str, list[dict[str, set[str]]]], dict[str, set[str]]]:
    """Every tail of a module's dotted name -> what such modules define; every class -> its members."""
    tails: dict[str, list[dict[str, set[str]]]] = defaultdict(list)
    classes: dict[str, set[str]] = defaultdict(set)
    for name, names in modules().items():
        parts = name.split(".")
        for start in range(len(parts)):
            tails[".".join(parts[start:])].append(names)
        for one, members in names.items():
            classes[one] |= members
    return dict(tails), dict(classes)


@functools.cache
def settings_keys() -> frozenset[str]:
    """What may stand in a recipe, a configuration or a JSON file: fields of classes, arguments, strings of code."""
    keys = {member for members in defined()[1].values() for member in members}
    for path, text in code_files().items():
        if path.suffix == ".py" and SOURCE in path.parents:
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    keys |= set(re.findall(r"\w+", node.value)) if len(node.value) < 60 else set()
                elif isinstance(node, ast.arg):
                    keys.add(node.arg)
    return frozenset(keys)


@functools.cache
def commands() -> dict[tuple[str, ...], set[str]]:
    """("insight", "predict") -> {"--out", ...}, from the command tree."""
    from slicesight import cli

    def walk(command, path):
        found = {path: {option for one in command.params for option in (*one.opts, *one.secondary_opts)} | {"--help"}}
        for name, child in getattr(command, "commands", {}).items():
            found |= walk(child, (*path, name))
        return found

    return walk(typer.main.get_command(cli.app), ())


@functools.cache
def _own_files() -> tuple[set[str], set[str]]:
    """Every path of the repository as text, and every last part of one, folders with a slash behind."""
    paths, names = set(), set()
    tops = {path.name for path in REPOSITORY.iterdir()} - {".git", ".venv", ".venv-vllm", "runs", "demo"}
    for top in tops:
        for path in ((REPOSITORY / top), *(REPOSITORY / top).rglob("*")):
            if {"node_modules", "__pycache__", "_build"} & set(path.parts):
                continue
            end = "/" if path.is_dir() else ""
            paths.add(f"{path.relative_to(REPOSITORY)}{end}")
            names.add(f"{path.name}{end}")
    return paths, names


# --- what pages say --------------------------------------------------------------------------------------------------


def _spans(page: Path) -> list[tuple[int, str]]:
    """(line, code) of every span in backticks outside blocks."""
    found, fenced = [], False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            line = re.sub(r"\{[\w-]+\}(?=`)", "{role}", line)  # Sphinx roles check themselves
            found += [(number, span) for span in re.findall(r"(?<!\{role\})`([^`]+)`", line)]
    return found


def _command_lines(page: Path) -> list[tuple[int, str]]:
    """(line, command) of every line of a block and every span that runs a program; continued lines are joined."""
    found, fenced, held = [], False, ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if line.lstrip().startswith("```"):
            fenced, held = not fenced, ""
        elif fenced:
            held += line.split("  #")[0].strip()
            if held.endswith("\\"):
                held = held[:-1] + " "
            else:
                found.append((number, held))
                held = ""
    return [(number, one) for number, one in (*found, *_spans(page)) if one]


def _ours(command: str) -> list[tuple[str, set[str]]]:
    """The parts of a command line that run our programs -> (what is run, the options it was given)."""
    found = []
    for part in re.split(r"\||&&|;(?!\d)", command):
        match = re.search(
            r"(?:^|\s)(slicesight|python (?:-m slicesight|benchmarks/\S+\.py|docs/\S+\.py))(?=\s|$)", part
        )
        if match and not re.search(r"pip install|docker|import ", part):
            found.append((part[match.start() :].strip(), set(OPTION.findall(part[match.end() :]))))
    return found


def _verb_of(words: list[str]) -> tuple[str, ...]:
    verb: tuple[str, ...] = ()
    for word in words:
        if (*verb, word) not in commands():
            break
        verb = (*verb, word)
    return verb


def _dotted_is_there(name: str) -> bool:
    """A module's name by any of its tails, then what it defines, then members; or a class and its members."""
    tails, classes = defined()
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        head, rest = ".".join(parts[:cut]), parts[cut:]
        if head in tails and (not rest or any(_leads(names, rest) for names in tails[head])):
            return True
    if parts[0] in classes and parts[0][0].isupper():
        return parts[1] in classes[parts[0]] or not classes[parts[0]]
    return False


def _leads(names: dict[str, set[str]], rest: list[str]) -> bool:
    return rest[0] in names and (len(rest) == 1 or rest[1] in names[rest[0]] or not names[rest[0]])


def _is_setting(name: str) -> bool:
    """`grid.plane`, `stages.0.epochs`: every part is a field or a key somewhere."""
    return all(part in settings_keys() for part in name.split("."))


def _is_word_of_code(word: str) -> bool:
    """Whether code or a recipe has this word; the server's figures are put together from their parts."""
    figure = re.sub(r"^(slicesight)?_", "", re.sub(r"_(total|seconds)$", "", word))
    return word in words_of_code() or (figure != word and figure in words_of_code())


def _first_parts_of_modules() -> set[str]:
    return {part for name in modules() for part in name.split(".")}


# --- the tests -------------------------------------------------------------------------------------------------------


def each_page(test):
    return pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))(test)


@each_page
def test_every_file_and_folder_a_page_names_is_there_or_is_written_by_the_code(page):
    paths, names = _own_files()
    strings = {word for text in code_files().values() for word in re.findall(r"[\w.-]+", text)}
    missing = []
    for number, span in _spans(page):
        if "://" in span or span.startswith("pip ") or _ours(span):
            continue
        for path in PATH.findall(span):
            roots = ("", "src/slicesight/", "docs/", "docs/how-to/", "tests/", "src/")
            is_ours = any(f"{root}{path}" in paths for root in roots)
            last = path.rstrip("/").rpartition("/")[2]
            is_name = "/" not in path.rstrip("/") and (path in names or path.rstrip("/") in strings)
            is_written = not path.endswith((".py", ".md")) and last in strings
            if not (is_ours or is_name or is_written or path in USERS_PATHS):
                missing.append(f"{page.relative_to(REPOSITORY)}:{number}: {path}")
    assert not missing, "\n".join(missing)


@each_page
def test_every_dotted_name_of_a_page_leads_to_something_in_the_code(page):
    parts = _first_parts_of_modules()
    missing = []
    for number, span in _spans(page):
        if "://" in span or "@" in span:
            continue
        for name in DOTTED.findall(PATH.sub(" ", span)):
            if re.search(rf"\.({SUFFIXES}|nii|gz|dcm|pt|pem|bin|tar|model)$", name) or name in OTHERS_DOTTED:
                continue
            known = _dotted_is_there(name) or (name.split(".")[0] not in parts and _is_setting(name))
            if not known and not (name.islower() and name.split(".")[0] in settings_keys() and _is_setting(name)):
                missing.append(f"{page.relative_to(REPOSITORY)}:{number}: {name}")
    assert not missing, "\n".join(missing)


def test_every_name_the_reference_page_takes_from_the_code_is_there():
    text = (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8")
    names = re.findall(r"^\.\. auto\w+:: (\S+)", text, flags=re.MULTILINE)
    assert names
    assert not [name for name in names if not _dotted_is_there(name)]


@each_page
def test_every_single_name_of_a_page_occurs_in_code_or_recipes(page):
    missing = []
    for number, span in _spans(page):
        if not re.fullmatch(r"[\w.:,=/ ()\[\]{}\"'+-]+", span) or "://" in span or span.count(" ") > 3:
            continue
        if re.match(r"(pip|make|git|npm|python|docker|\.venv|pytest)\b", span):
            continue
        for word in WORD.findall(PATH.sub(" ", OPTION.sub(" ", span))):
            is_code = "_" in word or word != word.lower() or word == span
            if is_code and len(word) > 2 and word not in OTHERS_WORDS and not _is_word_of_code(word):
                missing.append(f"{page.relative_to(REPOSITORY)}:{number}: {word}")
    assert not missing, "\n".join(missing)


@each_page
def test_every_command_and_option_of_a_page_is_one_the_command_line_has(page):
    every = set().union(*commands().values())
    scripts = " ".join(text for path, text in code_files().items() if path.parent.name == "benchmarks")
    wrong = []
    for number, line in _command_lines(page):
        place = f"{page.relative_to(REPOSITORY)}:{number}"
        for command, options in _ours(line):
            words = re.sub(r"^python -m slicesight", "slicesight", command).split()
            if words[0] == "slicesight":
                verb = _verb_of(words[1:])
                if len(words) > 1 and not verb and re.fullmatch(r"[a-z]+", words[1]):
                    wrong.append(f"{place}: {command}: no such verb")
                wrong += [f"{place}: {' '.join(verb)} {one}" for one in options - commands()[verb] if verb]
            else:
                script = (REPOSITORY / words[1]).read_text(encoding="utf-8")
                wrong += [f"{place}: {words[1]} {one}" for one in options if f'"{one}"' not in script]
    for number, span in _spans(page):
        if not _ours(span):
            lost = {one for one in OPTION.findall(span) if one not in every and f'"{one}"' not in scripts}
            wrong += [f"{page.relative_to(REPOSITORY)}:{number}: {one}" for one in lost - set(OTHERS_OPTIONS)]
    assert not wrong, "\n".join(wrong)


def test_every_page_is_in_the_manuals_list():
    docs = REPOSITORY / "docs"
    listed = set(re.findall(r"^[\w/-]+$", (docs / "index.md").read_text(encoding="utf-8"), flags=re.MULTILINE))
    pages = {str(page.relative_to(docs).with_suffix("")) for page in PAGES if docs in page.parents} - {"index"}
    assert pages == listed & pages


def test_the_table_of_contributing_names_every_room():
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = " ".join(line for line in text.splitlines() if line.startswith("|"))
    contract = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    rooms = {name.strip(" ()") for layer in contract["contracts"][0]["layers"] for name in layer.split("|")}
    missing = {room for room in rooms - {"__main__"} if not re.search(rf"`(?:src/slicesight/)?{room}(?:/|\.py)", table)}
    assert not missing


def test_what_is_allowed_although_it_is_not_ours_is_still_named():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    allowed = (*OTHERS_DOTTED, *OTHERS_OPTIONS, *OTHERS_WORDS, *USERS_PATHS)
    assert not [name for name in allowed if name not in text]


def test_a_name_that_is_gone_would_be_found():
    assert _dotted_is_there("slicesight.volumes.grid.to_grid")
    assert _dotted_is_there("volume.Volume")
    assert not _dotted_is_there("tgis.describe_slices")
    assert not _dotted_is_there("volume.Volume.no_such_member")
    assert ("insight", "predict") in commands()
    assert "--model" in commands()[("ask",)]


def test_what_a_line_of_pip_asks_for_is_a_package_and_an_extra_of_this_tree() -> None:
    folders = {"slicesight": ".", "slicesight-core": "plugins/core", "slicesight-vllm": "plugins/vllm"}
    folders |= {"napari-slicesight": "plugins/napari"}
    extras = {}
    for name, folder in folders.items():
        project = tomllib.loads((REPOSITORY / folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert project["name"] == name
        extras[name] = extras[folder] = set(project.get("optional-dependencies", ()))
    places = [*PAGES, *SOURCE.rglob("*.py"), *(REPOSITORY / "docs").rglob("*.ipynb")]
    asked = {
        (match[1].removeprefix("./"), extra)
        for place in places
        for line in place.read_text(encoding="utf-8").splitlines()
        if "pip install" in line
        for match in re.finditer(r"([\w./-]+)\[([a-z, -]+)\](?!\()", line)
        for extra in match[2].replace(" ", "").split(",")
    }
    assert {("slicesight", "remote"), (".", "train"), ("plugins/napari", "app")} <= asked
    unknown = [one for one in sorted(asked) if one[1] not in extras.get(one[0], ())]
    assert unknown == []
