"""How is a closed question held to its choices in vLLM? By the package's own tree of them, before vLLM draws a token.

vLLM takes this class by its setting logits_processors; a question's sequences and ends come with its SamplingParams.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from slicesight.inference.choice_decoding import ChoiceTree

if TYPE_CHECKING:
    from torch import Tensor
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor import RequestLogitsProcessor

PLACE = "slicesight_vllm.choices:HeldToChoices"
SEQUENCES, ENDS = "slicesight_choices", "slicesight_ends"


def choice_arguments(tree: ChoiceTree) -> dict[str, Any]:
    """What `SamplingParams.extra_args` holds for a question that is held to these choices."""
    return {SEQUENCES: tree.sequences, ENDS: sorted(tree.ends)}


class HeldToChoices(AdapterLogitsProcessor):
    """Leaves the requests that hold no choices as they are."""

    def is_argmax_invariant(self) -> bool:
        """It is not: the likeliest token may be none of the choices'."""
        return False

    def new_req_logits_processor(self, params: SamplingParams) -> RequestLogitsProcessor | None:
        """What masks one request's logits."""
        arguments = params.extra_args or {}
        if SEQUENCES not in arguments:
            return None
        tree = ChoiceTree(arguments[SEQUENCES], ends=frozenset(arguments[ENDS]))

        def mask(output_ids: list[int], logits_W: Tensor) -> Tensor:
            return tree.mask(logits_W, output_ids)

        return mask
