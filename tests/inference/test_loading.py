"""Every way in which a model folder can be damaged is one line from `slicesight.load`."""

import json
import logging
import shutil

import pytest
from safetensors.torch import load_file, save_file

import slicesight
from slicesight.errors import InputError
from slicesight.models.checksums import SUMS_FILE, write_checksums

FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "processor_config.json", "card.json")
BROKEN = {"empty": "", "list": "[]", "null": "null", "unclosed": "[" * 5000, "deep": '{"a":' * 100_000}


@pytest.fixture
def folder(tiny_model_folder, tmp_path):
    return shutil.copytree(tiny_model_folder, tmp_path / "model")


def refusal(folder) -> str:
    with pytest.raises(InputError) as caught:
        slicesight.load(folder, device="cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_is_no_json_object_is_named(folder, name, kind) -> None:
    (folder / name).write_text(BROKEN[kind])
    assert f"{name}: " in refusal(folder)


@pytest.mark.parametrize(
    ("name", "keys", "value", "words"),
    [
        ("config.json", ("text_config", "hidden_size"), 64, "does not fit its config.json"),
        ("config.json", ("text_config", "vocab_size"), 77, "does not fit its config.json"),
        ("config.json", ("text_config", "vocab_size"), "many", "expected int"),
        ("config.json", ("text_config", "num_attention_heads"), 0, "cannot be loaded"),
        ("config.json", ("text_config", "num_hidden_layers"), 9, "the weights lack"),
        ("config.json", ("text_config",), [1], "cannot be loaded"),
        ("tokenizer.json", ("model", "vocab"), 3, "cannot be loaded"),
        ("tokenizer.json", ("model", "merges"), [["zz", "qq"]], "cannot be loaded"),
        ("tokenizer_config.json", ("pad_token",), 7, "cannot be loaded"),
        ("processor_config.json", ("grid",), 7, "grid is 7; expected a mapping"),
        ("processor_config.json", ("num_visual_tokens",), "x", "cannot be loaded"),
        ("processor_config.json", ("template",), [3], "cannot be loaded"),
    ],
)
def test_a_wrong_value_is_one_line(folder, name, keys, value, words) -> None:
    content = json.loads((folder / name).read_text())
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    (folder / name).write_text(json.dumps(content))
    assert words in refusal(folder)


def test_cut_weights_are_named(folder) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "its bytes are not those that were saved" in refusal(folder)
    (folder / SUMS_FILE).unlink()  # as of a model of before, or of somebody else's
    assert "model.safetensors: damaged" in refusal(folder)


def test_a_lacking_weight_is_not_made_up_and_no_table_is_printed(folder, caplog, monkeypatch) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    caplog.set_level(logging.WARNING, "transformers")
    path = folder / "model.safetensors"
    weights = load_file(path)
    gone = next(name for name in sorted(weights) if "mlp" in name)
    del weights[gone]
    save_file(weights, path, metadata={"format": "pt"})
    write_checksums(folder)
    assert f"the weights lack {gone!r}" in refusal(folder)
    assert [record for record in caplog.records if record.name.startswith("transformers")] == []


@pytest.mark.parametrize("kind", BROKEN)
def test_a_damaged_adapter_file_is_named(folder, kind) -> None:
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text(BROKEN[kind])
    assert "adapter_config.json: " in refusal(folder)
