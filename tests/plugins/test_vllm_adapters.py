"""A LoRA adapter beside a model in vLLM says what the model says with the adapter merged (make test-vllm)."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch
from two_engines import assert_same

from slicesight.errors import ModelError
from slicesight.models.shipped import find_folder

pytestmark = pytest.mark.vllm
if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed here: make test-vllm makes an environment for it", allow_module_level=True)
pytest.importorskip("peft", reason="the package's own engine merges adapters with peft")

QUESTIONS = ["Which phase is this?", "Is there a lesion in the liver?", "Describe the findings of this scan."]


def write_adapter(folder, base, *, part="language_model.", ends=("proj",), rank=5, scale=0.9, called=None):
    """Random adapters of every linear layer of a part, in the files that peft writes."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    torch.manual_seed(2)
    weights, targets = {}, []
    with safe_open(base / "model.safetensors", framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  # it is no dict
            layer = name.removesuffix(".weight")
            shape = file.get_slice(name).get_shape()
            if name.startswith(part) and layer.endswith(ends) and len(shape) == 2:
                targets.append(layer)
                spread = scale / shape[1] ** 0.5
                stem = f"base_model.model.{layer if called is None else layer.rpartition('.')[0] + '.' + called}"
                weights[f"{stem}.lora_A.weight"] = torch.randn(rank, shape[1]) * spread
                weights[f"{stem}.lora_B.weight"] = torch.randn(shape[0], rank) * spread
    folder.mkdir()
    settings = {
        "peft_type": "LORA",
        "base_model_name_or_path": str(base),
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": targets,
        "bias": "none",
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module", params=["phantom-tiny", "tiny-phi3"])
def base(request, phi3_folder):
    return find_folder("phantom-tiny") if request.param == "phantom-tiny" else phi3_folder


def test_an_adapter_answers_as_the_model_does_with_it_merged(base, phi3_folder, in_both_engines, phantom, tmp_path):
    import slicesight

    adapter = write_adapter(tmp_path / "adapter", base)
    plain = slicesight.load(base).ask(phantom.volume, QUESTIONS, max_new_tokens=24)
    with in_both_engines(adapter) as both:
        found, wanted = (one.ask(phantom.volume, QUESTIONS, max_new_tokens=24) for one in (both.vllm, both.own))
        assert_same(found, wanted)
        assert [one.text for one in found] != [one.text for one in plain], "the adapter changed nothing"
        assert both.vllm.card.name == both.own.card.name
        assert both.vllm.count_encoded() == 1
        if base == phi3_folder:  # whose 2D encoder has linear layers
            with pytest.raises(ModelError, match="outside the language model"):
                add_encoders_adapter(both.vllm.engine, base, tmp_path)
        assert_same(both.vllm.ask(phantom.volume, QUESTIONS, max_new_tokens=24), wanted)


def add_encoders_adapter(engine, base, folder):
    """As vLLM's own server does when it is told of an adapter."""
    from vllm.lora.request import LoRARequest

    made = write_adapter(folder / "encoders", base, part="vision2d", ends="q_proj", called="o_proj")
    engine.add_lora(LoRARequest("encoders", 2, str(made)))
