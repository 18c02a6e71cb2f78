"""How much memory does one more question take, and how many fit at once?

A question at work holds keys and values of its own tokens in every layer of the language model; a block of tokens on
its way through the layers holds activations. Both are estimated from the configuration alone, in microseconds:
`slicesight plan` counts the same things tensor by tensor, and the tests hold the two against each other.
B questions at once, T tokens of a block, D language-model width.
"""

from __future__ import annotations

from pathlib import Path

import torch

from slicesight.errors import ModelError
from slicesight.models.med2e3.configuration import Med2E3Config

GIB = 2**30
CGROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)
CGROUP_FOLDER = Path("/sys/fs/cgroup")


def cache_bytes_per_token(config: Med2E3Config, dtype: torch.dtype) -> int:
    """Keys and values of one token in every layer."""
    text = config.text_config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(2 * text.num_hidden_layers * heads * head_width * dtype.itemsize)


def block_bytes(config: Med2E3Config, dtype: torch.dtype, *, num_tokens: int, num_keys: int, num_logits: int) -> int:
    """An upper bound of what passing `num_tokens` tokens, each seeing `num_keys` others, allocates beside its keys.

    num_logits: positions whose next token is asked for.
    """
    text = config.text_config.get_text_config()
    width, inner = int(text.hidden_size), int(getattr(text, "intermediate_size", None) or 4 * text.hidden_size)
    activations = num_tokens * (16 * width + 5 * inner) * max(dtype.itemsize, 2)
    mask = 3 * num_tokens * num_keys * 4
    keys = 4 * num_keys * width * dtype.itemsize  # prefix and own keys side by side, one layer at a time
    logits = num_logits * int(text.vocab_size) * (dtype.itemsize + 12)
    return activations + mask + keys + logits


def questions_at_once(free_bytes: int, *, bytes_per_question: int, working_bytes: int, at_most: int) -> int:
    """How many questions fit beside what one block of work needs; 0 if not even one does."""
    return max(0, min(at_most, (free_bytes - working_bytes) // max(1, bytes_per_question)))


def find_free_bytes(device: str) -> int:
    """Memory free on "cpu" or "cuda", or a size such as "24GiB".

    On the CPU the limit of the container counts as well as the machine's own memory.

    Raises:
        ModelError: no such device, or not a size.
    """
    if device == "cpu":
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return min(int(line.split()[1]) * 1024, *container_free_bytes())
    if device.startswith("cuda") and torch.cuda.is_available():
        return int(torch.cuda.mem_get_info(device)[0]) + kept_bytes(device)
    if device.lower().endswith("gib"):
        try:
            return int(float(device[:-3]) * GIB)
        except ValueError:
            pass
    raise ModelError(f"--device is {device!r}; expected cpu, cuda (if there is one) or a size such as 24GiB.")


def kept_bytes(device: str) -> int:
    """What torch's allocator has taken from a GPU and nothing uses: the driver calls it taken, torch hands it out."""
    return int(torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def container_free_bytes() -> list[int]:
    """What the control group (v2, v1) leaves, file pages it can drop counted as free; a huge number without a limit."""
    found = [2**62]
    for limit_name, used_name, cached_name in CGROUP_FILES:
        limit_file, used_file = CGROUP_FOLDER / limit_name, CGROUP_FOLDER / used_name
        if not (limit_file.is_file() and used_file.is_file()):
            continue
        limit = limit_file.read_text(encoding="utf-8").strip()
        if limit == "max":
            continue
        stat_file = used_file.parent / "memory.stat"
        lines = stat_file.read_text(encoding="utf-8").splitlines() if stat_file.is_file() else []
        stat = dict(line.split() for line in lines)
        used = int(used_file.read_text(encoding="utf-8")) - int(stat.get(cached_name, 0))
        found.append(max(0, int(limit) - used))
    return found
