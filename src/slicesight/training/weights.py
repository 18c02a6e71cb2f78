"""How do weights go to a folder and back? As plain safetensors that `from_pretrained` reads, shared ones once."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_model, save_file, save_model
from torch import Tensor, nn
from transformers import PreTrainedModel, ProcessorMixin

from .checkpoints import DamagedCheckpointError

WEIGHTS = "model.safetensors"
METADATA = {"format": "pt"}


def write_weights(
    model: nn.Module,
    folder: Path,
    *,
    processor: ProcessorMixin | None = None,
    gathered: dict[str, Tensor] | None = None,
) -> None:
    """Write every weight of the model under the names it has in memory, its configuration and processor.

    gathered: the whole state dictionary where the model itself holds only a share of it (FSDP, ZeRO-3).
    """
    folder.mkdir(parents=True, exist_ok=True)
    if gathered is None:
        save_model(model, str(folder / WEIGHTS), metadata=dict(METADATA))
    else:
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in gathered.items()}
        save_file(drop_shared(whole), folder / WEIGHTS, metadata=dict(METADATA))
    if isinstance(model, PreTrainedModel):
        model.config.save_pretrained(folder)
        if model.generation_config is not None:
            model.generation_config.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)


def read_weights(model: nn.Module, folder: Path) -> None:
    """Load what `write_weights` wrote into a model of the same shape, every tensor of it.

    Raises:
        DamagedCheckpointError: names or shapes differ.
    """
    try:
        load_model(model, folder / WEIGHTS)
    except RuntimeError as error:
        raise DamagedCheckpointError(
            f"{folder / WEIGHTS} does not fit the model of this recipe: {' '.join(str(error).split())[:300]}; "
            f"resume with the recipe and the version that wrote it"
        ) from error


def drop_shared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each storage under the first of its names."""
    seen: set[int] = set()
    kept = {}
    for name, tensor in tensors.items():
        if tensor.data_ptr() not in seen or not tensor.numel():
            kept[name] = tensor
            seen.add(tensor.data_ptr())
    return kept
