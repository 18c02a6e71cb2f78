"""LoRA: few numbers learn, the rest stays, and what was learnt ends up in plain weights."""

import peft
import pytest
import torch

from slicesight.errors import InputError
from slicesight.models.adapters import apply_adapter, find_base
from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration
from slicesight.training.adapters import write_adapter
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


def test_adapters_are_published_without_their_model_and_give_the_merged_weights_back(
    model, tiny_model_folder, tmp_path
) -> None:
    lora = Lora(parts=("language_model", "vision2d"), rank=2, alpha=8, targets=("q_proj", "v_proj"))
    stage = Stage(name="s", trainable=("projector_2d",), learning_rate=1.0, steps=1, lora=lora)
    set_trainable(model, stage.trainable)
    adapters = add_adapters(model, lora)
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    write_adapter(model, stage, tmp_path / "adapter", base=str(tiny_model_folder), card={"name": "x"})
    merge_adapters(adapters)
    wanted = model.state_dict()
    size = sum(file.stat().st_size for file in (tmp_path / "adapter").iterdir())
    assert size < (tiny_model_folder / "model.safetensors").stat().st_size / 2
    assert find_base(tmp_path / "adapter") == str(tiny_model_folder)

    def base():
        return Med2E3ForConditionalGeneration.from_pretrained(tiny_model_folder, dtype=torch.float32)

    by_peft = peft.PeftModel.from_pretrained(base(), tmp_path / "adapter").merge_and_unload()
    for found in (apply_adapter(base(), tmp_path / "adapter").state_dict(), by_peft.state_dict()):
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    changed = {
        name.split(".")[0] for name, weight in base().state_dict().items() if not torch.equal(weight, wanted[name])
    }
    assert changed == {"language_model", "vision2d", "projector_2d"}
