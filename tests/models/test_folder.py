"""A damaged model folder is one line that names the file at fault, whichever library stumbles over it."""

import json
import shutil
from pathlib import Path

import pytest
from torch import OutOfMemoryError, nn

from slicesight.errors import ModelError
from slicesight.files import read_json_object
from slicesight.models.checksums import SUMS_FILE
from slicesight.models.folder import check_whole, one_line_for_damage, read_model_folder, write_model_folder
from slicesight.models.med3dinsight.modeling import Segmenter

OLD = Path(__file__).parents[1] / "med3dinsight" / "old_folders"
NO_OBJECT = {
    "empty": (b"", "not valid JSON"),
    "binary": (bytes(range(256)), "not valid JSON"),
    "cut": (b'{"model_type": "sl', "not valid JSON"),
    "list": (b"[]", "holds a list"),
    "null": (b"null", "holds a NoneType"),
    "unclosed": (b"[" * 5000, "nested too deep"),
    "deep": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deep"),
}


class PanicException(BaseException):
    """As Rust's panics come out of the tokenizers."""


@pytest.fixture
def folder(tmp_path):
    write_model_folder(tmp_path / "m", kind="backbone", facts={}, model=nn.Linear(2, 3))
    return tmp_path / "m"


@pytest.fixture
def segmenter(tmp_path):
    return Path(shutil.copytree(OLD / "segmenter", tmp_path / "segmenter"))


@pytest.mark.parametrize("name", NO_OBJECT)
def test_json_that_is_no_object_is_one_line(tmp_path, name) -> None:
    content, words = NO_OBJECT[name]
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ModelError, match=rf"a\.json: {words}|a\.json: not valid JSON \({words}") as caught:
        read_json_object(tmp_path / "a.json", error=ModelError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NO_OBJECT)
def test_a_folder_whose_config_is_no_object_is_refused(folder, name) -> None:
    (folder / "config.json").write_bytes(NO_OBJECT[name][0])
    with pytest.raises(ModelError, match=r"config\.json"):
        read_model_folder(folder)


@pytest.mark.parametrize("error", [PanicException("x\ny"), RecursionError(), KeyError("a"), RuntimeError("b")])
def test_what_a_library_raises_is_one_line_about_the_folder(folder, error) -> None:
    with pytest.raises(ModelError) as caught, one_line_for_damage(folder):
        raise error
    message = str(caught.value)
    assert f"m: cannot be loaded ({type(error).__name__}" in message
    assert "\n" not in message
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, MemoryError, OutOfMemoryError])
def test_what_is_not_the_folders_fault_passes(folder, kind) -> None:
    with pytest.raises(kind), one_line_for_damage(folder):
        raise kind


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not valid JSON"),
        ("[]", "holds a list"),
        ("{}", "has no weight_map"),
        ('{"weight_map": {"a": 3}}', "has no weight_map"),
        ('{"weight_map": {"a": "gone.safetensors"}}', r"names gone\.safetensors, which is not in the folder"),
    ],
)
def test_a_damaged_index_of_shards_is_named(folder, text, words) -> None:
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ModelError, match=rf"index\.json: {words}"), one_line_for_damage(folder):
        raise ValueError


@pytest.mark.parametrize("size", [0, 5, 40, -4])
def test_weights_that_are_cut_off_are_named(folder, size) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    (folder / SUMS_FILE).unlink()  # as of a model without checksums
    with pytest.raises(ModelError, match=r"model\.safetensors: damaged"):
        read_model_folder(folder)


@pytest.mark.parametrize("place", [0, 7, 9, 20])
def test_a_flipped_bit_in_the_weights_header_is_named(folder, place) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[place] ^= 0x80
    path.write_bytes(content)
    (folder / SUMS_FILE).unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors: damaged"):
        read_model_folder(folder)


def test_missing_weights_are_never_filled_at_random() -> None:
    check_whole([], "m")
    with pytest.raises(ModelError, match="m: the weights lack 'a' and 1 more"):
        check_whole(["b", "a"], "m")


@pytest.mark.parametrize(
    "change",
    [
        {"labels": 3},
        {"labels": {"a": "x"}},
        {"backbone": {"name": "nope", "image_size": [1]}},
        {"backbone": {"name": 3, "image_size": "x"}},
        {"backbone": {"name": [], "image_size": None, "settings": 4}},
    ],
)
def test_a_segmenter_whose_config_has_wrong_values_is_one_line(segmenter, change) -> None:
    path = segmenter / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError) as caught:
        Segmenter.from_pretrained(segmenter)
    assert "\n" not in str(caught.value)
