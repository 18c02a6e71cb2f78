"""What do the servers of one shared folder count together? Whichever of them is asked for /metrics tells of all.

Every server writes its figures to run-shared/metrics/INSTANCE.json every two seconds; the one that is asked adds its
own of this moment to the others' files. What is counted (counters, histograms) stays when a server has gone, so that
sums never fall; what is so now (gauges) counts while its server lives, that is, wrote within ten seconds. All servers
see the same volumes, so of these the largest figure holds; of what is shut around a reading process the least.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from slicesight.errors import InputError
from slicesight.files import write_text

FOLDER = "metrics"
EVERY_S = 2.0
ALIVE_S = 10.0
_JOINED: dict[str, Callable[[Iterable[float]], float]] = {
    "slicesight_volumes": max,
    "slicesight_reading_shut": min,
}
"""How gauges of the servers become one figure; the others are added."""
_NEWEST = "_created"


class SharedMetrics:
    """One server's figures beside those of the others.

    folder: where all of them write; instance: this server's own name there.
    """

    def __init__(self, registry: CollectorRegistry, folder: Path, instance: str) -> None:
        self.registry, self.folder = registry, folder
        self.file = folder / f"{instance}.json"

    def write(self) -> None:
        """Leave this server's figures for the others."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        families = [
            [family.name, family.type, family.documentation, [[s.name, s.labels, s.value] for s in family.samples]]
            for family in self.registry.collect()
        ]
        write_text(self.file, text=json.dumps(families))

    def collect(self) -> Iterable[Metric]:
        """The sums, as a collector of `prometheus_client`."""
        self.write()
        num_alive, families = 0, dict[str, Metric]()
        values: dict[tuple[str, str, tuple[tuple[str, str], ...]], list[float]] = {}
        for file in sorted(self.folder.glob("*.json")):
            try:
                is_alive = time.time() - file.stat().st_mtime <= ALIVE_S
                found = json.loads(file.read_text(encoding="utf-8"))
            except FileNotFoundError:  # the run ends
                continue
            num_alive += is_alive
            for name, kind, documentation, samples in found:
                if kind == "gauge" and not is_alive:
                    continue
                families.setdefault(name, Metric(name, documentation, kind))
                for sample, labels, value in samples:
                    values.setdefault((name, sample, tuple(sorted(labels.items()))), []).append(value)
        for (name, sample, labels), held in values.items():
            join = min if sample.endswith(_NEWEST) else _JOINED.get(name, math.fsum)
            families[name].add_sample(sample, dict(labels), join(held))
        replicas = Metric("slicesight_replicas", "Servers that share their volumes and live.", "gauge")
        replicas.add_sample("slicesight_replicas", {}, num_alive)
        return [*families.values(), replicas]

    def close(self) -> None:
        """A last time; what it counted stays."""
        with contextlib.suppress(OSError, InputError):  # the folder may be gone
            self.write()
            past = time.time() - 2 * ALIVE_S
            os.utime(self.file, (past, past))
