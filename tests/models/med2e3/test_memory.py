"""Quick estimates of memory against the tensor-by-tensor count of the planner, and the container's limit."""

from __future__ import annotations

import pytest
import torch

from slicesight.models.med2e3.configuration import make_preset
from slicesight.planning import memory
from slicesight.planning.memory import block_bytes, cache_bytes_per_token, container_free_bytes, questions_at_once
from slicesight.planning.plan import plan

FAMILIES = {
    "llama": {},
    "fewer key heads": {"num_key_value_heads": 1},
    "own head width": {"model_type": "qwen3", "head_dim": 16},
    "phi3": {"model_type": "phi3"},
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_keys_and_values_of_a_token_are_counted_exactly(name, dtype, make_config):
    text = {**make_config().text_config.to_dict(), "pad_token_id": 0, "num_key_value_heads": 4, **FAMILIES[name]}
    config = make_config(text_config={key: value for key, value in text.items() if key != "head_dim" or name[0] == "o"})
    found = plan(config, dtype=dtype, num_questions=3, length=100)
    each = cache_bytes_per_token(config, getattr(torch, dtype))
    assert found.cache_bytes == 3 * 101 * each, "the planner decodes one token more"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_blocks_estimate_bounds_what_the_planner_counts(dtype, make_config):
    for config, length in ((make_config(), 200), (make_preset("med2e3-phi3"), 768)):
        found = {stage.name: stage for stage in plan(config, dtype=dtype, length=length).stages}
        estimate = block_bytes(config, getattr(torch, dtype), num_tokens=length, num_keys=length, num_logits=1)
        counted = found["prefill"].peak_bytes - found["prefill"].kept_bytes
        assert counted <= estimate <= 8 * counted


def test_batches_follow_what_is_free():
    settings = {"bytes_per_question": 10, "working_bytes": 5}
    assert questions_at_once(100, **settings, at_most=16) == 9
    assert questions_at_once(100, **settings, at_most=4) == 4
    assert questions_at_once(14, **settings, at_most=4) == 0
    assert questions_at_once(0, **settings, at_most=4) == 0


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"memory.max": "1000", "memory.current": "700", "memory.stat": "anon 500\ninactive_file 200"}, 500),
        ({"memory.max": "max", "memory.current": "700"}, 2**62),
        (
            {
                "memory/memory.limit_in_bytes": "1000",
                "memory/memory.usage_in_bytes": "900",
                "memory/memory.stat": "total_inactive_file 50",
            },
            150,
        ),
        ({}, 2**62),
    ],
)
def test_a_containers_limit_counts(files, expected, tmp_path, monkeypatch):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "CGROUP_FOLDER", tmp_path)
    assert min(container_free_bytes()) == expected


def test_what_torch_keeps_of_a_gpu_for_later_counts_as_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * memory.GIB, 80 * memory.GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 70 * memory.GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10 * memory.GIB)
    assert memory.find_free_bytes("cuda") == 63 * memory.GIB
