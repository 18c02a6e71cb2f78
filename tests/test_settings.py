"""YAML to settings: every mistake is one line that says what was found, expected and what to change."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from slicesight.errors import InputError
from slicesight.settings import build_settings, changed, read_settings


@dataclass(frozen=True, kw_only=True)
class Scans:
    folder: str | None = None
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class Table:
    file: str
    split: str = "train"


@dataclass(frozen=True, kw_only=True)
class Step:
    rate: float
    words: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Run:
    name: str
    data: Scans | Table = field(default_factory=Scans)
    steps: tuple[Step, ...] = ()
    word: Literal["cut", "keep", 3] | None = None
    shape: tuple[int, int, int] = (1, 1, 1)
    mixed: tuple[str, float] = ("a", 0.0)
    counts: dict[str, int] | None = None
    free: dict[str, Any] = field(default_factory=dict)
    quiet: bool = False


RUN = """
verb: walk
name: tiny
data: {file: a.csv}
steps: [{rate: 1e-3}, {rate: 2, words: [x, y]}]
"""


@pytest.fixture
def recipe(tmp_path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(RUN)
    return path


def test_every_kind_of_value_is_converted(recipe) -> None:
    changes = (
        "word=3",
        "shape=[2, 3, 4]",
        "mixed=[b, 1]",
        "counts={a: 5}",
        "free={anything: [1, {b: null}]}",
        "steps.0.words=[z]",
        "quiet=true",
    )
    run = read_settings(Run, recipe, changes, verb="walk")
    assert run == Run(
        name="tiny",
        data=Table(file="a.csv"),
        steps=(Step(rate=1e-3, words=("z",)), Step(rate=2.0, words=("x", "y"))),
        word=3,
        shape=(2, 3, 4),
        mixed=("b", 1.0),
        counts={"a": 5},
        free={"anything": [1, {"b": None}]},
        quiet=True,
    )
    assert isinstance(run.steps[1].rate, float)
    assert isinstance(run.mixed[1], float)


def test_what_is_left_out_has_its_default_and_null_stays_null(recipe) -> None:
    run = read_settings(Run, recipe, ("word=null", "counts=null", "data={}"), verb="walk")
    assert (run.word, run.counts, run.data, run.shape) == (None, None, Scans(), (1, 1, 1))


def test_of_several_kinds_the_one_with_most_of_the_keys_is_meant(recipe) -> None:
    assert read_settings(Run, recipe, ("data={count: 3}",), verb="walk").data == Scans(count=3)
    with pytest.raises(InputError, match=r"data: unknown key 'splti'; did you mean 'split'\?"):
        read_settings(Run, recipe, ("data={file: x, splti: train}",), verb="walk")


def test_settings_can_be_built_from_their_own_plain_form(recipe) -> None:
    from dataclasses import asdict

    run = read_settings(Run, recipe, verb="walk")
    assert build_settings(Run, asdict(run), where="again") == run  # tuples, not lists


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("nmae=x", "tiny.yaml: unknown key 'nmae'; did you mean 'name'?"),
        ("zzz=1", "unknown key 'zzz'; the keys are name, data, steps, word"),
        ("steps.1.wrods=[]", "tiny.yaml: steps.1: unknown key 'wrods'; did you mean 'words'?"),
        ("steps=[{words: []}]", "tiny.yaml: steps.0: rate is missing; set it"),
        ("steps=7", "steps: expected a list, found 7"),
        ("steps.0=7", "steps.0: expected a mapping, found int"),
        ("steps.0.rate=true", "steps.0: rate: expected a number, found True"),
        ("steps.0.rate=fast", "steps.0: rate: expected a number, found 'fast'"),
        ("steps.0.rate=[1]", "steps.0: rate: expected a number, found [1]"),
        ("steps.0.words=[1]", "steps.0: words.0: expected text, found 1"),
        ("word=kepe", "word: 'kepe' is unknown; did you mean 'keep'?"),
        ("word=zzz", "word: 'zzz' is unknown; the words are cut, keep, 3"),
        ("shape=[1, 2]", "shape: expected 3 values, found 2"),
        ("shape=[1, 2, x]", "shape.2: expected a whole number, found 'x'"),
        ("mixed=[1, 2]", "mixed.0: expected text, found 1"),
        ("counts=5", "counts: expected a mapping, found 5"),
        ("counts={a: many}", "counts.a: expected a whole number, found 'many'"),
        ("quiet=1", "quiet: expected true or false, found 1"),
        ("name=null", "name: expected text, found None"),
        ("data=5", "data: expected a mapping, found int"),
        ("quiet", "--set quiet: expected key=value, for instance --set seed=3"),
        ("steps.3.rate=1", "--set steps.3.rate=1: the recipe has no place 'steps.3.rate'"),
        ("name.x=1", "--set name.x=1: the recipe has no place 'name.x'"),
        ("name=[", "--set name=[: '[' is not valid YAML"),
    ],
)
def test_a_wrong_setting_is_one_line_that_says_what_to_change(recipe, change, expected) -> None:
    with pytest.raises(InputError) as error:
        read_settings(Run, recipe, (change,), verb="walk")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_a_recipe_of_another_verb_is_told_its_command(recipe) -> None:
    for needs_verb in (True, False):
        with pytest.raises(InputError, match=r"for 'slicesight run'; run it with: slicesight walk .*tiny\.yaml"):
            read_settings(Run, recipe, verb="run", needs_verb=needs_verb)


def test_a_recipe_without_a_verb_is_taken_only_where_none_is_needed(recipe) -> None:
    recipe.write_text(RUN.replace("verb: walk", ""))
    with pytest.raises(InputError, match="is no recipe for 'slicesight walk'; expected the line 'verb: walk'"):
        read_settings(Run, recipe, verb="walk")
    assert read_settings(Run, recipe, verb="walk", needs_verb=False).name == "tiny"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a: [1", "broken.yaml: not valid YAML"),
        (b"name: \xff", "broken.yaml: not valid YAML"),
        (b"- 1", "broken.yaml: expected a mapping of settings, found list"),
        (b"", "broken.yaml: expected a mapping of settings, found NoneType"),
        (b"verb: walk\nquiet: true", "broken.yaml: name is missing; set it"),
    ],
)
def test_a_broken_file_is_named(tmp_path, content, expected) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_settings(Run, path, verb="walk")
    assert str(error.value).startswith(expected)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(InputError, match=r"none.yaml: no such recipe; expected a YAML file"):
        read_settings(Run, tmp_path / "none.yaml", verb="walk")


def test_changes_reach_into_lists_and_make_missing_mappings() -> None:
    assert changed({"a": {"b": [1]}}, ("a.b.0=2", "c.d=x")) == {"a": {"b": [2]}, "c": {"d": "x"}}


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"[" * 5000, "nested too deep"),
        (b"a: " + b"[" * 5000 + b"]" * 5000, "nested too deep"),
        (b"a: &a [*a]", "nested too deep"),
        (LAUGHS.encode(), "its aliases (*name) make more than 100000 values"),
        (bytes(range(256)), "not valid YAML"),
        (b"a: 2026-99-99", "not valid YAML"),
        (b"? [1]\n: 2", "not valid YAML"),
    ],
)
def test_a_recipe_that_would_take_the_machine_down_is_one_line(tmp_path, content, expected) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_settings(Run, path, verb="walk")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_a_deep_value_of_a_change_is_one_line() -> None:
    with pytest.raises(InputError, match="is not valid YAML"):
        changed({}, ("a=" + "[" * 5000,))
