"""Which way of multiplying is fastest on this processor? Measured once in two seconds, and kept for the next time.

The flags of a processor promise too much: bfloat16 products may be slower than float32's, 8-bit ones too where their
rounding costs more than they save, and turned or widened products pay on some kernels only. So each way is timed on
layers larger than the processor's caches, at the rows that answering has: 1 and 11 (decoding one question and a batch),
128 (reading prompts). Kept in the user's cache folder under processor, PyTorch, threads and what limits the kernels.
Rates are products of a multiplication and an addition, two operations each, per second.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch
from torch import nn

from slicesight.errors import InputError
from slicesight.files import read_json_object, write_text
from slicesight.inference.cpu import processor
from slicesight.inference.cpu.int8 import Int8Linear, has_operator
from slicesight.inference.cpu.processor import BF16_FLAGS, read_processor
from slicesight.inference.cpu.transposed_linear import TransposedLinear
from slicesight.inference.cpu.upcast_linear import NARROW as NARROW_DTYPES
from slicesight.inference.cpu.upcast_linear import UpcastLinear

FOLDER_VARIABLE = "SLICESIGHT_CACHE"
INT8_VARIABLE = "SLICESIGHT_INT8"
FORMAT = 1
WIDTH, NUM_LAYERS = 1024, 4
"""Layers of 1024 to 4096 numbers, as a small language model has; four are 64 MiB in float32."""
FEW_ROWS, SOME_ROWS, MANY_ROWS = 1, 11, 128
ROWS = (FEW_ROWS, SOME_ROWS, MANY_ROWS)
CLEARLY = 1.1
"""A way other than the plain one is taken when it is so much faster: timings of a busy machine vary."""
MOST_SECONDS = 2.0
"""Spent on a measurement; ways that were not reached count as none."""
LARGE_BYTES = 2**27
"""Weights of a language model below which nothing is measured: the usual ways will do."""
PLAIN, TURNED, NARROW, WIDENED, INT8 = "float32", "float32 turned", "bfloat16", "bfloat16 widened", "int8"
WORK = {FEW_ROWS: 20.0, SOME_ROWS: 20.0, MANY_ROWS: 4.0}
"""Passes of each number of rows in answering: 20 tokens of one and of a batch decoded, 512 read."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """rates: {way: {rows: rate}}; a way that this processor has not, or that was not reached, is absent.

    machine: what it was measured on. seconds: how long that took; 0 where nothing was measured.
    """

    machine: dict[str, str]
    rates: dict[str, dict[int, float]]
    seconds: float = 0.0

    @property
    def dtype(self) -> str:
        """The dtype that is fastest here, for a model that may have either."""
        narrow = max((self.speed(NARROW), self.speed(WIDENED)))
        return NARROW if narrow > CLEARLY * max(self.speed(PLAIN), self.speed(TURNED)) else PLAIN

    @property
    def is_turned(self) -> bool:
        """Whether few rows are multiplied the other way round in float32; so where nothing was measured."""
        return self._gain(TURNED, PLAIN, SOME_ROWS, unknown=2.0) > 1

    @property
    def is_widened(self) -> bool:
        """Whether many rows of a narrow model are multiplied in float32."""
        return self._gain(WIDENED, NARROW, MANY_ROWS, unknown=0.0) > CLEARLY

    @property
    def int8_gain(self) -> float | None:
        """How many times faster 8 bits answer than the best other way; None where there are none."""
        if INT8 not in self.rates:
            return None
        return self.speed(INT8) / max(self.speed(way) for way in (PLAIN, TURNED, NARROW, WIDENED))

    def speed(self, way: str) -> float:
        """Work per second over all rows that an answer has, each plain or in this way's variant; 0 for an unknown."""
        plain = {TURNED: PLAIN, WIDENED: NARROW}.get(way)
        found = self.rates.get(way)
        if not found:
            return 0.0
        # turned products are for few rows, widened ones for many: elsewhere the layer takes the plain one
        rates = dict(found if plain is None else self.rates.get(plain, found))
        if plain is not None:
            place = SOME_ROWS if way == TURNED else MANY_ROWS
            rates[place] = max(found[place], rates[place])
        return _speed(rates)

    def _gain(self, way: str, other: str, rows: int, *, unknown: float) -> float:
        if way not in self.rates or other not in self.rates:
            return unknown
        return self.rates[way][rows] / self.rates[other][rows]


def describe_tuning(tuning: Tuning) -> list[str]:
    """The table of rates and what follows from it, a line each."""
    lines = [", ".join(f"{name} {value}" for name, value in tuning.machine.items() if value)]
    if not tuning.rates:
        return [*lines, "nothing measured: the usual ways are used"]
    lines.append(f"{'GFLOP/s at rows':<18}" + "".join(f"{rows:>8}" for rows in ROWS))
    for way, rates in tuning.rates.items():
        lines.append(f"{way:<18}" + "".join(f"{rates[rows] / 1e9:>8.0f}" for rows in ROWS))
    lines.append(f"so: {', '.join(choices_of(tuning))}; measured in {tuning.seconds:.1f} s")
    return lines


def choices_of(tuning: Tuning) -> list[str]:
    """What is chosen, in words."""
    gain = tuning.int8_gain
    return [
        f"dtype fastest is {tuning.dtype}",
        f"products of few rows {'turned' if tuning.is_turned else 'as they are'}",
        f"bfloat16 {'widened to float32' if tuning.is_widened else 'as it is'} in large products",
        "no 8-bit products" if gain is None else f"--int8 {gain:.2f} times as fast as the best other way",
    ]


def tuning_for(model: nn.Module) -> Tuning:
    """The measured choices for a large or narrow model, and the usual ones for one that is quick anyway."""
    weights = list(model.parameters())
    is_large = sum(weight.numel() * weight.element_size() for weight in weights) >= LARGE_BYTES
    is_narrow = any(weight.dtype in NARROW_DTYPES for weight in weights)
    return read_tuning() if is_large or is_narrow else Tuning(machine=describe_machine(), rates={})


def read_tuning() -> Tuning:
    """As it was measured on this machine with this number of threads; measured now where it never was."""
    machine = describe_machine()
    return _read_or_measure(json.dumps(machine, sort_keys=True), str(cache_folder()))


@cache
def _read_or_measure(machine: str, folder: str) -> Tuning:
    path = Path(folder) / f"tuning-{hashlib.sha256(machine.encode()).hexdigest()[:16]}.json"
    if (found := _read(path, json.loads(machine))) is not None:
        return found
    tuning = measure_tuning(json.loads(machine))
    if len(tuning.rates) < len(ways()):
        return tuning  # the machine was too busy: measured again the next time
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text=json.dumps({"format": FORMAT, **asdict(tuning)}, indent=1) + "\n")
    except OSError:
        pass  # a folder that cannot be written costs two seconds each time, no more
    return tuning


def _read(path: Path, machine: Mapping[str, str]) -> Tuning | None:
    """None where there is none, or it is damaged or of another machine: it is measured again."""
    if not path.is_file():
        return None
    try:
        document = read_json_object(path, error=InputError)
        if document["format"] != FORMAT or document["machine"] != machine:
            return None
        rates = {
            str(way): {int(rows): float(rate) for rows, rate in own.items()} for way, own in document["rates"].items()
        }
        if any(set(own) != set(ROWS) or min(own.values()) <= 0 for own in rates.values()):
            return None
        return Tuning(machine=dict(machine), rates=rates, seconds=float(document["seconds"]))
    except (KeyError, TypeError, ValueError, AttributeError, OSError, InputError):
        return None


def measure_tuning(machine: dict[str, str], *, most_seconds: float = MOST_SECONDS) -> Tuning:
    """Every way that this processor has, in the order of their use, until the time is up."""
    start = time.perf_counter()
    rates: dict[str, dict[int, float]] = {}
    for way, make in ways().items():
        if rates and time.perf_counter() - start > most_seconds:
            break
        layers = [make() for _ in range(NUM_LAYERS)]
        dtype = torch.bfloat16 if way in (NARROW, WIDENED) else torch.float32
        rates[way] = {rows: processor.measure_rate(layers, rows=rows, dtype=dtype, clock=_own_seconds) for rows in ROWS}
    return Tuning(machine=machine, rates=rates, seconds=round(time.perf_counter() - start, 2))


def _own_seconds() -> float:
    """Time that this process's threads worked, each: others on a busy machine do not count."""
    return time.process_time() / max(1, torch.get_num_threads())


def ways() -> dict[str, Callable[[], nn.Module]]:
    """How a layer is made for each way."""

    def layer(kind: type[nn.Linear], dtype: torch.dtype) -> nn.Linear:
        return kind(WIDTH, 4 * WIDTH, bias=False, dtype=dtype)

    found: dict[str, Callable[[], nn.Module]] = {
        PLAIN: lambda: layer(nn.Linear, torch.float32),
        TURNED: lambda: layer(TransposedLinear, torch.float32),
        NARROW: lambda: layer(nn.Linear, torch.bfloat16),
    }
    if not read_processor().has_matrix_unit:
        found[WIDENED] = lambda: layer(UpcastLinear, torch.bfloat16)
    if has_operator():
        found[INT8] = lambda: Int8Linear(layer(nn.Linear, torch.float32))
    return found


def describe_machine() -> dict[str, str]:
    """What the choice depends on."""
    return {
        "processor": _processor_name(),
        "flags": " ".join(
            sorted(processor.read_flags() & {*BF16_FLAGS, "avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_tile"})
        ),
        "cores": str(processor.count_cores()),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "held to": os.environ.get("ONEDNN_MAX_CPU_ISA", ""),
    }


def _processor_name() -> str:
    import platform

    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "CPU part"):
                return value.strip()
    return platform.processor() or platform.machine()


def cache_folder() -> Path:
    """Where measurements are kept: $SLICESIGHT_CACHE, or the user's own cache folder."""
    if named := os.environ.get(FOLDER_VARIABLE):
        return Path(named)
    from platformdirs import user_cache_path

    return user_cache_path("slicesight", appauthor=False)


def int8_is_forced() -> bool:
    """Whether $SLICESIGHT_INT8 is "always": 8 bits even where they are slower."""
    return os.environ.get(INT8_VARIABLE, "").strip().lower() == "always"


def int8_gain_of(language_model: nn.Module) -> float:
    """How many times faster the model's own layers answer in 8 bits than as they are, measured on 64 MiB of them.

    Small layers lose by it: what a call costs is then more than its products.
    """
    dtype = next(language_model.parameters()).dtype
    plain = [layer for layer in processor.cold_linears(language_model, dtype=dtype) if isinstance(layer, nn.Linear)]
    speeds = []
    for layers in (plain, [Int8Linear(layer) for layer in plain]):
        rates = {rows: processor.measure_rate(layers, rows=rows, dtype=dtype, clock=_own_seconds) for rows in ROWS}
        speeds.append(_speed(rates))
    return speeds[1] / speeds[0]


def _speed(rates: Mapping[int, float]) -> float:
    """Answers per second at these rates, in some unit."""
    return 1 / sum(passes * rows / rates[rows] for rows, passes in WORK.items())
