"""vLLM in bfloat16 and with several workers answers as the package does, where the machine can (make test-vllm)."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from vllm_answers import QUESTIONS

import slicesight
from slicesight.errors import ModelError

pytestmark = pytest.mark.vllm
if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed here: make test-vllm makes an environment for it", allow_module_level=True)


def answers_of(model, scan, *settings, **variables):
    """What vLLM's own processes say."""
    environment = {
        **{name: value for name, value in os.environ.items() if name != "VLLM_ENABLE_V1_MULTIPROCESSING"},
        "VLLM_CPU_KVCACHE_SPACE": "1",
        **variables,
    }
    script = Path(__file__).with_name("vllm_answers.py")
    command = [sys.executable, str(script), str(model), str(scan), *settings]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1800)
    assert done.returncode == 0, done.stderr[-20000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_calibrated_model_is_as_sure_in_processes_of_its_own(phantom_file):
    found = answers_of("anatomy-small", phantom_file)
    wanted = slicesight.load("anatomy-small").ask(phantom_file, QUESTIONS, max_new_tokens=24, answer_anyway=True)
    assert_same(found, wanted)
    assert {one["abstained"] for one in found["answers"]} == {"strange_scan"}


def test_two_workers_share_the_language_model(phi3_folder, phantom_file):
    found = answers_of(phi3_folder, phantom_file, "tensor_parallel_size=2", VLLM_CPU_OMP_THREADS_BIND="nobind")
    assert_same(found, slicesight.load(phi3_folder).ask(phantom_file, QUESTIONS, max_new_tokens=24))


def assert_same(found, wanted):
    assert found["encoded"] == 1
    for one, other in zip(found["answers"], wanted, strict=True):
        assert (one["text"], one["abstained"], one["confidence"]) == (other.text, other.abstained, other.confidence)
        assert np.allclose(one["scores"], other.scores, atol=2e-6, rtol=0)


def test_settings_that_vllm_does_not_take_are_one_line():
    from slicesight_vllm.loading import load

    with pytest.raises(ModelError, match=r"attention heads \(5\)") as caught:
        load("phantom-tiny", tensor_parallel_size=2)
    assert "\n" not in str(caught.value)


def test_in_bfloat16_slices_weigh_as_much_up_to_its_rounding(phantom_file):
    if "amx_bf16" in Path("/proc/cpuinfo").read_text():
        pytest.skip("vllm-cpu 0.32 was seen to die of an illegal instruction in bfloat16 where there is AMX")
    found = answers_of("phantom-tiny", phantom_file, "dtype=bfloat16")
    wanted = slicesight.load("phantom-tiny", dtype="bfloat16").ask(phantom_file, QUESTIONS, max_new_tokens=24)
    for one, other in zip(found["answers"], wanted, strict=True):
        assert one["text"]
        assert np.allclose(one["scores"], other.scores, atol=0.02, rtol=0)
