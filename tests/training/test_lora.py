"""LoRA: few numbers learn, the rest stays, and what was learnt ends up in plain weights."""

import pytest
import torch

from slicesight.errors import InputError
from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration
from slicesight.training.recipe import Lora, Stage
from slicesight.training.run import set_trainable
from slicesight.training.stage import add_adapters, merge_adapters


@pytest.fixture
def model(tiny_model_folder) -> Med2E3ForConditionalGeneration:
    found = Med2E3ForConditionalGeneration.from_pretrained(tiny_model_folder, dtype=torch.float32)
    set_trainable(found, ())
    return found


def prompt() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.arange(3, 13)[None], "attention_mask": torch.ones(1, 10, dtype=torch.long)}


def test_merged_adapters_compute_the_same_in_a_model_of_the_same_names(model) -> None:
    names, before = set(model.state_dict()), model(**prompt()).logits
    adapters = add_adapters(model, Lora(parts=("language_model",), rank=2, alpha=8))
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert learning
    assert all("lora_" in name for name in learning)
    assert torch.equal(model(**prompt()).logits, before), "adapters begin as nothing"
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted = model.eval()(**prompt()).logits
    assert not torch.allclose(adapted, before, atol=1e-4)
    merge_adapters(adapters)
    assert set(model.state_dict()) == names
    torch.testing.assert_close(model(**prompt()).logits, adapted, rtol=1e-4, atol=1e-5)


def test_the_head_gets_no_adapter_and_targets_choose_layers_by_their_ending(model) -> None:
    add_adapters(model, Lora(parts=("language_model", "vision2d"), rank=2, targets=("q_proj",)))
    adapted = {name.split(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name}
    assert adapted
    assert all(name.endswith("q_proj") for name in adapted)
    assert {name.split(".")[0] for name in adapted} == {"language_model", "vision2d"}
    everywhere = Lora(parts=("language_model",), rank=2)
    fresh = Med2E3ForConditionalGeneration(model.config)
    add_adapters(fresh, everywhere)
    assert not any("lm_head" in name and "lora" in name for name, _ in fresh.named_parameters())


@pytest.mark.parametrize(
    ("lora", "expected"),
    [
        (Lora(parts=("projector_2d",)), "'projector_2d' takes no adapters"),
        (Lora(targets=("nowhere",)), "no linear layer called nowhere"),
        (Lora(parts=("vision3d",)), "vision3d has no linear layer"),
    ],
)
def test_a_part_or_layer_that_takes_no_adapter_is_one_line(model, lora: Lora, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        add_adapters(model, lora)


def test_a_part_cannot_learn_whole_and_by_adapters_at_once() -> None:
    with pytest.raises(InputError, match="language_model is under trainable and under lora"):
        Stage(name="s", trainable=("language_model",), learning_rate=1.0, steps=1, lora=Lora())
