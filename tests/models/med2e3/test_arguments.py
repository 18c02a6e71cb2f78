"""Is a wrong argument of the processor or the model one line that says what was found, expected, and what to change?"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from slicesight.errors import InputError, ModelError
from slicesight.models.med2e3.processing import Med2E3Processor

GOOD = torch.zeros(8, 32, 32)


@pytest.fixture
def processor(tokenizer):
    return Med2E3Processor(tokenizer, num_visual_tokens=3, template="short")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"volumes": "scan.nii.gz"}, r"scan.nii.gz: no such file"),
        ({"volumes": [Path("scan.nii.gz"), GOOD]}, r"scan.nii.gz: no such file"),
        ({"volumes": 7}, "volumes is a int; expected scans: files, Volumes, or arrays"),
        ({"volumes": []}, "volumes is a list; expected scans"),
        ({"volumes": [None]}, "a volume is None; expected a file, a Volume, or a tensor or array"),
        ({"volumes": np.zeros((2, 2))}, r"a volume is of shape \(2,\); expected .* tensor or array \(N, H, W\)"),
        ({"volumes": GOOD, "volume_index": [1]}, "volume_index holds 1; expected entries below 1"),
        (
            {"volumes": torch.stack([GOOD, GOOD]), "volume_index": [0]},
            "no prompt asks about volume 1 of 2: .*Collator",
        ),
        ({"volumes": [GOOD, torch.zeros(4, 32, 32)]}, "volumes of different shapes"),
        ({"volumes": GOOD - 1000}, r"values from -1000 to -1000; expected finite numbers in \[0, 1\]"),
        ({"volumes": GOOD + 1.01}, "values from 1.01 to 1.01"),
        ({"volumes": GOOD * float("nan")}, "values from nan to nan"),
        ({"return_tensors": "np"}, "return_tensors is 'np'; expected one of 'pt'"),
        ({"supervise": "first"}, "supervise is 'first'; expected one of 'last', 'all'"),
        ({"padding_side": "top"}, "padding_side is 'top'; expected one of 'left', 'right'"),
        ({"answers": ["Yes.", "No."]}, "2 answers for 1 questions; give one for each"),
        ({"history": []}, "0 history for 1 questions"),
    ],
)
def test_the_processor_refuses_it(processor, arguments, words):
    with pytest.raises(InputError, match=words) as caught:
        processor("What is shown?", **arguments)
    assert "\n" not in str(caught.value)


def test_what_resizing_carries_a_hair_beyond_one_is_taken(processor):
    assert processor("What is shown?", volumes=GOOD + 1.0005)["volumes"].shape == (1, 1, 8, 32, 32)


@pytest.mark.parametrize(
    ("volumes", "words"),
    [
        ("scan.nii.gz", "volumes is str 'scan.nii.gz'; expected a tensor of 5 axes"),
        (np.zeros((1, 1, 8, 32, 32)), "volumes is a ndarray; expected a tensor of 5 axes"),
        (GOOD, r"volumes has shape \(8, 32, 32\); expected 5 axes"),
        (torch.zeros(1, 1, 8, 32, 32, dtype=torch.int16), "volumes are torch.int16; expected floating-point"),
        (torch.zeros(1, 1, 8, 16, 32), r"this model reads \(V, 1, 8, 32, 32\)"),
    ],
)
def test_the_model_refuses_it_wherever_volumes_are_taken(make_model, volumes, words):
    model = make_model()
    ids = torch.tensor([[5]])
    for call in (
        lambda: model.encode_volumes(volumes),
        lambda: model(input_ids=ids, volumes=volumes),
        lambda: model.generate(input_ids=ids, volumes=volumes),
    ):
        with pytest.raises(ModelError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_model_without_input_or_with_a_wrong_index_says_so(make_model, volumes):
    model = make_model()
    with pytest.raises(ModelError, match="input_ids is a NoneType; expected a tensor of 2 axes"):
        model()
    with pytest.raises(ModelError, match=r"volume_index is torch.float32; expected whole numbers"):
        model(input_ids=torch.tensor([[5]]), volumes=volumes, volume_index=torch.tensor([[0.0]]))
    with pytest.raises(ModelError, match="volume_index is a list; expected a tensor"):
        model(input_ids=torch.tensor([[5]]), volumes=volumes, volume_index=[0])


def test_batch_norm_keeps_its_running_statistics_in_training(make_model):
    model = make_model()
    model.vision2d.encoder.extra = nn.BatchNorm2d(3)
    model.train()
    assert model.vision2d.encoder.training
    assert not model.vision2d.encoder.extra.training
