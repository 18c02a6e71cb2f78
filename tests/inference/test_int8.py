"""8-bit layers against the formula restated here, and against the layers they stand for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import slicesight
from slicesight.errors import ModelError
from slicesight.inference.cpu import int8
from slicesight.inference.cpu import processor as machine
from slicesight.inference.cpu.int8 import Int8Linear, has_operator, quantize_model

needs_operator = pytest.mark.skipif(not has_operator(), reason="no 8-bit product on this processor")
QUESTIONS = ["Which phase is this?", "Is there a lesion in the liver?", "Describe the findings of this scan."]


def formula(layer, x):
    """Round every token by its largest value and every output channel by its own, multiply, scale back."""
    weights = layer.weight.double()
    channel = weights.abs().amax(1, keepdim=True) / 127
    token = x.double().abs().amax(-1, keepdim=True) / 127
    product = (x.double() / token).round() @ (weights / channel).round().t() * token * channel.t()
    return product if layer.bias is None else product + layer.bias.double()


@needs_operator
@pytest.mark.parametrize(("inputs", "outputs", "bias"), [(64, 96, True), (160, 448, False), (100, 37, True)])
def test_a_layer_computes_its_formula(inputs, outputs, bias):
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs, bias=bias)
    x = torch.randn(3, 5, inputs)
    with torch.inference_mode():
        torch.testing.assert_close(
            Int8Linear(layer)(x), formula(layer, x).float(), atol=1e-4, rtol=1e-4, check_dtype=True
        )


@needs_operator
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_stays_near_the_one_it_stands_for_even_beside_an_outlier(dtype):
    torch.manual_seed(0)
    layer = nn.Linear(256, 128).to(dtype)
    x = torch.randn(20, 256).to(dtype)
    x[0] *= 1000
    with torch.inference_mode():
        close, expected = Int8Linear(layer)(x).float(), layer(x).float()
    errors = (close - expected).norm(dim=1) / expected.norm(dim=1)
    assert close.dtype == torch.float32
    assert float(errors.max()) < 0.02


@needs_operator
def test_a_token_is_rounded_alike_whoever_passes_beside_it():
    """The codes and the size of a row are the same bits in any company: a row's largest value and a rounding each."""
    torch.manual_seed(0)
    x = torch.randn(11, 96) * torch.logspace(-3, 3, 11)[:, None]
    codes_MK, sizes_M1 = int8.quantize_tokens(x)
    for row in range(11):
        alone_1K, size_11 = int8.quantize_tokens(x[row : row + 1])
        assert torch.equal(alone_1K, codes_MK[row : row + 1])
        assert torch.equal(size_11, sizes_M1[row : row + 1])
    layer = Int8Linear(nn.Linear(96, 64))
    with torch.inference_mode():
        assert torch.equal(layer(torch.zeros(2, 96)), layer.bias.expand(2, -1))


@needs_operator
def test_a_product_is_within_its_roundings_alone_and_in_company():
    """The bits of the product are the kernel's affair, which may multiply the scales in another order for other rows.

    With u = 2^-24, the relative error of one rounding to float32, and y the product of the codes with their scales:
    the sum of the codes' products is whole and at most 96 * 255 * 127 < 2^24, so it is exact in any order. It is then
    multiplied by 1/127 as float32 (one rounding to store it), by the channel's scale and by the token's size, in any
    order three roundings more: 4 u |y|. Adding the bias b rounds once: u |y + b|. Products of errors are below u^2 each
    and are covered by 1 % more.
    """
    torch.manual_seed(0)
    plain = nn.Linear(96, 64)
    layer = Int8Linear(plain)
    x = torch.randn(11, 96) * torch.logspace(-3, 3, 11)[:, None]
    codes_MK, sizes_M1 = int8.quantize_tokens(x)
    scales_O, weights_OK = int8.quantize_weights(plain.weight.detach())
    sums_MO = (codes_MK.double() - int8.ZERO) @ weights_OK.double().t()
    exact_MO = sums_MO / int8.LEVELS * scales_O.double() * sizes_M1.double()
    whole_MO = exact_MO + plain.bias.detach().double()
    allowed_MO = 1.01 * 2**-24 * (4 * exact_MO.abs() + whole_MO.abs())
    with torch.inference_mode():
        together = layer(x)
        alone = torch.cat([layer(x[row : row + 1]) for row in range(11)])
    for found in (together, alone):
        assert bool(((found.double() - whole_MO).abs() <= allowed_MO).all())


@pytest.mark.parametrize("isa", ["AVX2", "AVX512_CORE"])
def test_instructions_whose_products_are_cut_off_are_not_used(isa):
    """Held to instructions without VNNI, oneDNN answers with other numbers and says nothing."""
    code = "from slicesight.inference.cpu.int8 import has_operator; print(has_operator())"
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": isa}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


@needs_operator
def test_language_model_and_2d_encoder_are_rounded_and_nothing_else(make_predictor):
    predictor = make_predictor()
    model = predictor.model
    head = model.get_output_embeddings()
    quantize_model(model)
    assert model.get_output_embeddings() is head
    for name, part in model.parts.items():
        kinds = {type(layer) for layer in part.modules() if hasattr(layer, "in_features") and layer is not head}
        assert (Int8Linear in kinds) == (name in int8.QUANTIZED_PARTS)
        assert kinds <= {Int8Linear} if name == "language_model" else True


@needs_operator
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rounded_model_answers_alike_alone_and_in_company(dtype, make_predictor, make_grid):
    predictor = make_predictor(dtype=dtype)
    quantize_model(predictor.model)
    encoded = predictor.encode(make_grid(predictor))
    answers = predictor.ask(encoded, QUESTIONS, max_new_tokens=8)
    if dtype == torch.float32:  # in bfloat16 the attention's own rounding follows the batch's shape
        alone = [predictor.ask(encoded, question, max_new_tokens=8)[0].text for question in QUESTIONS]
        assert [answer.text for answer in answers] == alone
    assert all(abs(sum(answer.scores) - 1) < 1e-3 for answer in answers)


@needs_operator
def test_load_rounds_on_wish(tiny_model_folder):
    predictor = slicesight.load(tiny_model_folder, quantize="int8")
    assert any(isinstance(layer, Int8Linear) for layer in predictor.model.language_model.modules())
    assert not any(isinstance(layer, Int8Linear) for layer in predictor.model.vision3d.modules())


@pytest.mark.parametrize(
    ("name", "device", "message"), [("int4", "cpu", "quantize is 'int4'"), ("int8", "cuda", "int8 needs")]
)
def test_a_wrong_kind_or_device_is_one_plain_line(name, device, message, make_predictor):
    with pytest.raises(ModelError, match=message) as caught:
        quantize_model(make_predictor().model, quantize=name, device=device)
    assert "\n" not in str(caught.value)


def test_without_8_bit_instructions_it_is_refused(make_predictor, monkeypatch):
    plain = machine.Processor(has_bf16=False, has_int8=False, has_matrix_unit=False, num_cores=1)
    monkeypatch.setattr(int8, "read_processor", lambda: plain)
    with pytest.raises(ModelError, match="int8 needs an x86 processor whose 8-bit products are exact"):
        quantize_model(make_predictor().model)


@needs_operator
def test_layers_of_one_module_round_the_same_tensor_once_and_no_other(monkeypatch):
    torch.manual_seed(0)
    seen = []
    usual = int8.quantize_tokens
    monkeypatch.setattr(int8, "quantize_tokens", lambda x_MK: seen.append(x_MK.shape) or usual(x_MK))
    shared = int8.SharedCodes()
    layers = [nn.Linear(64, width) for width in (32, 48)]
    one, other = (Int8Linear(layer, shared=shared) for layer in layers)
    with torch.inference_mode():
        x = torch.randn(3, 64)
        torch.testing.assert_close(one(x), formula(layers[0], x).float(), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(other(x), formula(layers[1], x).float(), atol=1e-4, rtol=1e-4)
        assert len(seen) == 1
        for _ in range(3):  # a new tensor is often put where the old one was
            del x
            x = torch.randn(3, 64)
            torch.testing.assert_close(one(x), formula(layers[0], x).float(), atol=1e-4, rtol=1e-4)
        assert len(seen) == 4
