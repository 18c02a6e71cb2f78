"""How do weights go to a folder and back? As plain safetensors that `from_pretrained` reads, shared ones once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import load_model, save_file, save_model
from torch import Tensor, nn
from transformers import PreTrainedModel, ProcessorMixin

from slicesight.training.checkpoints import DamagedCheckpointError

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
        again = shared_names(model)
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in gathered.items() if name not in again}
        save_file(whole, folder / WEIGHTS, metadata=dict(METADATA))
    if isinstance(model, PreTrainedModel):
        model.config.save_pretrained(folder)
        if model.can_generate():
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


def shared_names(model: nn.Module) -> set[str]:
    """Names under which a parameter comes again (a head tied to the embeddings)."""
    first = {id(parameter): name for name, parameter in reversed(list(named_parameters(model)))}
    return {name for name, parameter in named_parameters(model) if first[id(parameter)] != name}


def named_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Every parameter under every one of its names."""
    return model.named_parameters(remove_duplicate=False)
