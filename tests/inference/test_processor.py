"""What the processor says of itself, and blocks chosen by what was measured."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from slicesight.inference.cpu import processor as machine
from slicesight.inference.cpu.processor import choose_block, cold_linears, count_cores, measure_block, read_processor

XEON = "processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 avx512_vnni amx_tile amx_bf16 amx_int8\n"
OLD = "processor\t: 0\nflags\t\t: fpu sse2 avx avx2\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n"


@pytest.mark.parametrize(
    ("text", "has_bf16", "has_int8", "has_matrix_unit"),
    [(XEON, True, True, True), (OLD, False, False, False), (ARM, True, True, False), ("", False, False, False)],
)
def test_flags_are_read(text, has_bf16, has_int8, has_matrix_unit, tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text(text)
    found = read_processor(file)
    assert (found.has_bf16, found.has_int8, found.has_matrix_unit) == (has_bf16, has_int8, has_matrix_unit)
    assert found.num_cores >= 1


def test_without_a_list_of_flags_nothing_is_assumed(tmp_path):
    assert not read_processor(tmp_path / "nothing").has_bf16


def test_cores_are_those_this_process_may_use(monkeypatch):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4, 5, 6, 7}, raising=False)
    monkeypatch.setattr(machine, "_quota", lambda _: 2.5)
    monkeypatch.setattr(machine, "_quota_v1", lambda _: None)
    assert count_cores() == 2
    monkeypatch.setattr(machine, "_quota", lambda _: None)
    assert count_cores() == 8


def test_the_smallest_block_near_the_best_rate_is_chosen(monkeypatch):
    rates = {128: 0.5, 256: 0.96, 512: 1.0, 1024: 0.8}
    monkeypatch.setattr(machine, "measure_rate", lambda linears, *, rows, dtype: rates[rows])
    assert measure_block([], dtype=torch.float32, sizes=tuple(rates)) == 256


def test_a_small_model_takes_the_default_block_unmeasured(make_predictor, monkeypatch):
    monkeypatch.setattr(machine, "measure_block", lambda *_, **__: pytest.fail("not worth measuring"))
    assert choose_block(make_predictor().model.language_model) == machine.DEFAULT_BLOCK


def test_measurements_walk_through_enough_weights_and_leave_the_head_out(monkeypatch):
    model = nn.Module()
    model.layers = nn.ModuleList(nn.Linear(10, 10) for _ in range(9))
    model.lm_head = nn.Linear(10, 1000)
    monkeypatch.setattr(machine, "COLD_BYTES", 1000)
    found = cold_linears(model, dtype=torch.float32)
    assert len(found) == 3
    assert model.lm_head not in found


def test_loading_never_takes_more_threads_than_cores(tiny_model_folder, monkeypatch):
    import slicesight

    monkeypatch.setattr(machine, "count_cores", lambda: 3)
    taken = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    slicesight.load(tiny_model_folder)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    slicesight.load(tiny_model_folder)
    assert taken == [3, 2]
