"""The fastest way to multiply is measured once for a machine, kept, and never slower than the plain one."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from torch import nn

import slicesight
from slicesight.inference import loading
from slicesight.inference.cpu import tuning as module
from slicesight.inference.cpu.int8 import Int8Linear, has_operator
from slicesight.inference.cpu.transposed_linear import TransposedLinear
from slicesight.inference.cpu.tuning import (
    INT8,
    NARROW,
    PLAIN,
    ROWS,
    TURNED,
    WIDENED,
    Tuning,
    choices_of,
    describe_machine,
    describe_tuning,
    measure_tuning,
    read_tuning,
    tuning_for,
)
from slicesight.inference.cpu.upcast_linear import UpcastLinear


def tuned(**rates: tuple[float, float, float]) -> Tuning:
    """Rates at 1, 11 and 128 rows; names with underscores for spaces."""
    return Tuning(
        machine={"processor": "X"},
        rates={way.replace("_", " "): dict(zip(ROWS, found, strict=True)) for way, found in rates.items()},
    )


@pytest.mark.parametrize(
    ("narrow", "dtype"), [((2, 2, 2), "bfloat16"), ((1, 1, 0.5), "float32"), ((1.05, 1.05, 1.05), "float32")]
)
def test_the_dtype_is_the_clearly_faster_one(narrow, dtype):
    assert tuned(float32=(1, 1, 1), bfloat16=narrow).dtype == dtype


def test_reading_one_token_counts_more_than_its_rate_of_many():
    """A way that is fast with many rows only does not win answers of single tokens."""
    assert tuned(float32=(10, 10, 10), bfloat16=(2, 2, 40)).dtype == "float32"


def test_widened_products_of_many_rows_make_a_narrow_model_faster():
    found = tuned(float32=(1, 1, 1), bfloat16=(2, 2, 0.5), bfloat16_widened=(9, 9, 1.5))
    assert found.is_widened
    assert found.dtype == "bfloat16"
    assert not tuned(float32=(1, 1, 1), bfloat16=(2, 2, 2), bfloat16_widened=(2, 2, 2.1)).is_widened


@pytest.mark.parametrize(("rate", "is_turned"), [(1.5, True), (0.6, False)])
def test_products_are_turned_where_that_is_faster(rate, is_turned):
    assert tuned(float32=(1, 1, 1), float32_turned=(1, rate, 1)).is_turned is is_turned


def test_8_bits_are_held_against_the_best_other_way():
    assert tuned(float32=(1, 1, 1), bfloat16=(2, 2, 2), int8=(3, 3, 3)).int8_gain == pytest.approx(1.5)
    assert tuned(float32=(1, 1, 1)).int8_gain is None


def test_where_nothing_was_measured_the_usual_ways_are_used():
    unmeasured = Tuning(machine={}, rates={})
    assert (unmeasured.dtype, unmeasured.is_turned, unmeasured.is_widened) == ("float32", True, False)
    assert describe_tuning(unmeasured)[-1] == "nothing measured: the usual ways are used"


def test_every_way_of_this_processor_is_measured_and_shown():
    found = measure_tuning(describe_machine(), most_seconds=60)
    assert {PLAIN, TURNED, NARROW} <= set(found.rates)
    assert (INT8 in found.rates) == has_operator()
    assert all(set(own) == set(ROWS) and min(own.values()) > 0 for own in found.rates.values())
    table = describe_tuning(found)
    assert f"torch {torch.__version__}" in table[0]
    assert [line.split("  ")[0].strip() for line in table[2:-1]] == list(found.rates)


def test_a_measurement_stops_when_its_time_is_up_and_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv(module.FOLDER_VARIABLE, str(tmp_path / "busy"))
    monkeypatch.setattr(module.processor, "measure_rate", lambda *_, **__: 1.0)
    assert set(measure_tuning({}, most_seconds=-1.0).rates) == {PLAIN}
    monkeypatch.setattr(module, "measure_tuning", lambda machine: Tuning(machine=machine, rates={PLAIN: {}}))
    read_tuning()
    assert not (tmp_path / "busy").exists()


@pytest.fixture
def measurements(monkeypatch, tmp_path):
    """How often it was measured; a fresh cache folder."""
    made: list[int] = []

    def measure(machine):
        made.append(1)
        return Tuning(machine=machine, rates={way: dict.fromkeys(ROWS, 1.0) for way in module.ways()}, seconds=0.5)

    monkeypatch.setattr(module, "measure_tuning", measure)
    monkeypatch.setenv(module.FOLDER_VARIABLE, str(tmp_path / "cache"))
    module._read_or_measure.cache_clear()
    yield made
    module._read_or_measure.cache_clear()


def test_it_is_measured_once_for_a_machine_and_kept(measurements, tmp_path):
    first = read_tuning()
    module._read_or_measure.cache_clear()
    assert read_tuning() == first
    assert len(measurements) == 1
    (path,) = (tmp_path / "cache").iterdir()
    assert json.loads(path.read_text())["machine"]["torch"] == torch.__version__


def test_other_threads_or_another_limit_are_another_machine(measurements, monkeypatch):
    read_tuning()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    read_tuning()
    monkeypatch.setattr(module.torch, "get_num_threads", lambda: 96)
    read_tuning()
    assert len(measurements) == 3


@pytest.mark.parametrize(
    "damage",
    ["", "[", "{}", '{"format": 1, "machine": {}, "rates": {}}', '{"format": 99}', "rates", "negative"],
)
def test_a_damaged_file_is_measured_anew(measurements, tmp_path, damage):
    read_tuning()
    (path,) = (tmp_path / "cache").iterdir()
    document = json.loads(path.read_text())
    if damage == "rates":
        document["rates"][PLAIN].pop("1")
    elif damage == "negative":
        document["rates"][PLAIN]["1"] = -1
    path.write_text(json.dumps(document) if damage in ("rates", "negative") else damage)
    module._read_or_measure.cache_clear()
    read_tuning()
    assert len(measurements) == 2


def test_a_folder_that_cannot_be_written_costs_no_answer(measurements, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(module.FOLDER_VARIABLE, str(tmp_path / "file" / "below"))
    assert read_tuning().rates


def test_small_models_are_not_measured_for(make_predictor, monkeypatch):
    monkeypatch.setattr(module, "read_tuning", lambda: pytest.fail("not worth measuring"))
    assert tuning_for(make_predictor().model.language_model).rates == {}
    monkeypatch.setattr(module, "read_tuning", lambda: tuned(float32=(1, 1, 1)))
    assert tuning_for(make_predictor(dtype=torch.bfloat16).model.language_model).rates


@pytest.mark.parametrize("is_measured", [False, True])
def test_layers_are_what_was_measured_to_be_faster(tiny_model_folder, monkeypatch, is_measured):
    slow = tuned(float32=(1, 1, 1), float32_turned=(1, 0.5, 1), bfloat16=(1, 1, 1), bfloat16_widened=(1, 1, 2))
    monkeypatch.setattr("slicesight.inference.cpu.tuning.read_tuning", lambda: slow)
    monkeypatch.setattr(module, "LARGE_BYTES", 0 if is_measured else module.LARGE_BYTES)
    model = slicesight.load(tiny_model_folder).model
    assert any(type(layer) is TransposedLinear for layer in model.modules()) is not is_measured
    assert any(type(layer) is UpcastLinear for layer in model.modules()) is False or is_measured
    narrow = slicesight.load(tiny_model_folder, dtype="bfloat16").model
    assert any(type(layer) is UpcastLinear for layer in narrow.modules())


@pytest.mark.skipif(not has_operator(), reason="this processor has no exact 8-bit products")
@pytest.mark.parametrize(("gain", "forced", "is_int8"), [(0.5, "", False), (0.5, "always", True), (1.5, "", True)])
def test_8_bits_are_used_where_they_pay_or_are_forced_and_else_it_is_said(
    tiny_model_folder, monkeypatch, caplog, gain, forced, is_int8
):
    monkeypatch.setenv(module.INT8_VARIABLE, forced)
    monkeypatch.setattr(module, "int8_gain_of", lambda model: gain)
    with caplog.at_level(logging.WARNING):
        model = slicesight.load(tiny_model_folder, quantize=loading.INT8_IF_FASTER).model
    assert any(isinstance(layer, Int8Linear) for layer in model.modules()) is is_int8
    said = [record.getMessage() for record in caplog.records if "8 bits are left out" in record.getMessage()]
    assert len(said) == (0 if is_int8 else 1)
    assert all("0.50 times as fast" in line and "\n" not in line for line in said)


@pytest.mark.skipif(not has_operator(), reason="this processor has no exact 8-bit products")
def test_the_gain_of_8_bits_is_measured_on_the_models_own_layers(monkeypatch):
    speed = {nn.Linear: 3.0, Int8Linear: 6.0}
    monkeypatch.setattr(module.processor, "measure_rate", lambda layers, **_: speed[type(layers[0])])
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 16))
    assert module.int8_gain_of(model) == pytest.approx(2.0)


def test_choices_are_said_in_words():
    found = choices_of(tuned(float32=(1, 1, 1), float32_turned=(1, 2, 1), bfloat16=(3, 3, 3), int8=(6, 6, 6)))
    assert found == [
        "dtype fastest is bfloat16",
        "products of few rows turned",
        "bfloat16 as it is in large products",
        "--int8 2.00 times as fast as the best other way",
    ]
    assert WIDENED == "bfloat16 widened"
