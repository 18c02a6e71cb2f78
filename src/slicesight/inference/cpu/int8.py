"""How are weights and activations rounded to 8 bits, and where?

    y = (a / 127) s_w (q_x - 128) q_w,    q_x = round(127 x / a) + 128,    a = max |x| of the token

Weights keep one scale per output channel, activations one per token, so that a token's result never depends on which
others pass beside it. The product is PyTorch's own oneDNN operator, the one its compiler uses for 8-bit models; it
reads packed weights of a quarter of float32's bytes and multiplies with the processor's 8-bit instructions. Layers that
are given the same tensor (query, key and value; gate and up) round it once. Heads, norms, embeddings, convolutions,
attention and the 3D encoder keep their precision. M tokens, K inputs, O outputs.
"""

from __future__ import annotations

import hashlib
import platform
import weakref
from functools import cache

import torch
from torch import Tensor, nn

from slicesight.errors import ModelError
from slicesight.inference.cpu.processor import read_processor
from slicesight.inference.cpu.transposed_linear import TransposedLinear
from slicesight.inference.cpu.upcast_linear import UpcastLinear
from slicesight.models.med2e3 import Med2E3ForConditionalGeneration

LEVELS = 127
ZERO = 128
SMALLEST = 1e-30
"""Stands for a row of zeros' largest size, whose inverse must be a number."""
QUANTIZED_PARTS = ("language_model", "vision2d")


class SharedCodes:
    """The codes of the tensor that the layers of one module were given last, for as long as that tensor lives."""

    def __init__(self) -> None:
        self._latest: tuple[weakref.ref[Tensor], tuple[Tensor, Tensor]] | None = None

    def codes_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`quantize_tokens` of x (..., K) as M tokens; not again for the very tensor of the call before."""
        latest = self._latest
        if latest is not None and latest[0]() is x:
            return latest[1]
        codes = quantize_tokens(x.reshape(-1, x.shape[-1]))
        self._latest = weakref.ref(x, self._forget), codes
        return codes

    def _forget(self, reference: weakref.ref[Tensor]) -> None:
        latest = self._latest
        if latest is not None and latest[0] is reference:
            self._latest = None


class Int8Linear(nn.Module):
    """A linear layer with 8-bit weights and activations, for inference on the CPU.

    digest: of the weights, as part of the state, so that a cache can tell two of them apart; None leaves it out.
    shared: with the layers that may be given the same tensor.
    """

    def __init__(self, layer: nn.Linear, *, has_digest: bool = False, shared: SharedCodes | None = None) -> None:
        super().__init__()
        self.shared = shared or SharedCodes()
        self.in_features, self.out_features, self.dtype = layer.in_features, layer.out_features, layer.weight.dtype
        scales_O, weights_OK = quantize_weights(layer.weight.detach())
        self.register_buffer("scales_O", scales_O)
        self.register_buffer("zeros_O", torch.zeros(self.out_features, dtype=torch.int32))
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach(), requires_grad=False)
        self.digest = hashlib.sha256(weights_OK.numpy().tobytes()).hexdigest() if has_digest else None
        self.packed = torch.ops.onednn.qlinear_prepack(weights_OK, None)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., K) to (..., O), each token on its own scale."""
        codes_MK, sizes_M1 = self.shared.codes_of(x)
        out_MO = torch.ops.onednn.qlinear_pointwise(
            *(codes_MK, 1 / LEVELS, ZERO, self.packed, self.scales_O, self.zeros_O, None),
            *(1.0, 0, x.dtype, "none", [], ""),
        )
        out_MO = out_MO.mul_(sizes_M1.to(x.dtype))
        if self.bias is not None:
            out_MO = out_MO.add_(self.bias)
        out: Tensor = out_MO.reshape(*x.shape[:-1], self.out_features)
        return out

    def get_extra_state(self) -> Tensor:
        """The digest, which stands for the packed weights."""
        return torch.tensor(list((self.digest or "").encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Packed weights cannot be read back."""
        raise ModelError("an 8-bit model cannot be loaded from a state; load the model it was made from.")

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def quantize_weights(weights_OK: Tensor) -> tuple[Tensor, Tensor]:
    """(scale of every output channel, float32; codes -127 to 127)."""
    weights_OK = weights_OK.float()
    scales_O = weights_OK.abs().amax(dim=1).clamp(min=SMALLEST) / LEVELS
    return scales_O, (weights_OK / scales_O[:, None]).round().clamp(-LEVELS, LEVELS).to(torch.int8)


def quantize_tokens(x_MK: Tensor) -> tuple[Tensor, Tensor]:
    """(codes 1 to 255 around ZERO, the largest size of each token (M, 1) float32)."""
    x_MK = x_MK.float()
    lowest_M1, highest_M1 = x_MK.amin(dim=1, keepdim=True), x_MK.amax(dim=1, keepdim=True)
    sizes_M1 = torch.maximum(highest_M1, -lowest_M1).clamp_(min=SMALLEST)
    shifted_MK = (x_MK * (LEVELS / sizes_M1)).add_(ZERO + 0.5)  # codes are positive: cutting off rounds them
    return shifted_MK.to(torch.uint8), sizes_M1


def quantize_model(model: Med2E3ForConditionalGeneration, *, quantize: str = "int8", device: str = "cpu") -> None:
    """Put 8-bit layers in place of the linear ones of the language model and the 2D encoder, one at a time.

    Raises:
        ModelError: another kind than "int8", or a processor or device without the operator.
    """
    if quantize != "int8":
        raise ModelError(f"quantize is {quantize!r}; expected int8, or nothing.")
    if torch.device(device).type != "cpu" or not has_operator():
        raise ModelError(
            f"int8 needs an x86 processor whose 8-bit products are exact (VNNI, and oneDNN free to use it), "
            f"which {device} here is not; leave quantize out."
        )
    head = model.get_output_embeddings()
    for name in QUANTIZED_PARTS:
        part = getattr(model, name)
        if part is None:
            continue
        places = [
            (owner, child_name, child, shared)
            for owner, shared in [(owner, SharedCodes()) for owner in part.modules()]
            for child_name, child in owner.named_children()
            if type(child) in (nn.Linear, UpcastLinear, TransposedLinear) and child is not head
        ]
        while places:  # each layer's own weights are freed before the next is packed
            owner, child_name, child, shared = places.pop()
            setattr(owner, child_name, Int8Linear(child, has_digest=name != "language_model", shared=shared))
            del child


def has_operator() -> bool:
    """Whether this build of PyTorch has the 8-bit product and the kernel it chooses here is exact.

    The flags are not enough: oneDNN may be held to an older instruction set (ONEDNN_MAX_CPU_ISA, a virtual machine),
    whose products add two pairs of codes in 16 bits and cut off what is larger.
    """
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return is_x86 and torch.backends.mkldnn.is_available() and read_processor().has_int8 and _is_exact()


@cache
def _is_exact(inputs: int = 64, outputs: int = 16) -> bool:
    """Whether rows of the largest codes, alone and in company, give the whole number that they must."""
    packed = torch.ops.onednn.qlinear_prepack(torch.full((outputs, inputs), LEVELS, dtype=torch.int8), None)
    scales_O, zeros_O = torch.ones(outputs), torch.zeros(outputs, dtype=torch.int32)
    for rows in (1, 32):
        codes_MK = torch.full((rows, inputs), 255, dtype=torch.uint8)
        product_MO = torch.ops.onednn.qlinear_pointwise(
            *(codes_MK, 1.0, ZERO, packed, scales_O, zeros_O, None, 1.0, 0, torch.float32, "none", [], "")
        )
        if not bool((product_MO == inputs * (255 - ZERO) * LEVELS).all()):
            return False
    return True
