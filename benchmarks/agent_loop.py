"""Does an agent that looks where the evidence points find what one that looks elsewhere does not?

A scripted agent stands for a language model with tools. It is asked on which slice of a phantom a finding lies and how
many HU the finding has there. No tool says that: it must ask the model, look at a slice, see which outline is in the
picture, and measure that structure. Right is a slice that shows the finding asked about, and its mean within 0.5 HU.
What it looks at is one of these, all else being equal:

    evidence  the middle of the slices that weigh most in the answer to the question
    other     the same, of the same question about an abnormality that the phantom does not have (blind to the question)
    middle    the middle of the scan
    random    any slice of the scan
    truth     the middle of the slices that truly show it; where another finding is larger there, that is measured

    python benchmarks/agent_loop.py --count 60 --tools 24   # every finding that is the only one of its kind

Prints shares with intervals by phantom, and the paired difference of evidence to each of the others. With --tools N
it also holds `measure_structure` against the truth for every organ of N phantoms, and asks `search_scans` for each of
them in a second take (noise of 20 HU, a slice less at each end, the table moved): how often is the first take found
first among all N?
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from mcp import Client
from PIL import Image

from slicesight.evaluation.statistics import mean_interval
from slicesight.io.writers import write_nifti
from slicesight.phantoms.folder import label_map
from slicesight.phantoms.rendering import make_phantom
from slicesight.serving.agents.options import AgentOptions
from slicesight.serving.agents.pictures import OUTLINES
from slicesight.serving.agents.server import agent_server
from slicesight.volumes.volume import Volume

SEED = 20_000
LOOKS = ("evidence", "other", "middle", "random", "truth")
QUESTIONS = ("Where is the {}?", "Where is the {} located?", "What is the location of the {}?")
LEAST_PIXELS = 8
TOLERANCE_HU = 0.5


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is asked about, and what would be right. slices: of the file, all that show it."""

    scan: str
    mask: str
    question: str
    other_question: str
    slices: tuple[int, ...]
    hu: float

    def is_right(self, answer: tuple[int, float] | None) -> bool:
        return answer is not None and answer[0] in self.slices and abs(answer[1] - self.hu) < TOLERANCE_HU


class ScriptedAgent:
    """What a language model with tools would do, without one. `used` lists the tools that it called."""

    def __init__(self, client, *, looks_at="evidence"):
        self.client, self.looks_at, self.used = client, looks_at, []

    async def call(self, tool, **arguments):
        self.used.append(tool)
        found = await self.client.call_tool(tool, arguments)
        assert not found.is_error, found.content[0].text
        return found.structured_content, [one.data for one in found.content if one.type == "image"]

    async def answer(self, finding: Finding) -> tuple[int, float] | None:
        """(slice, HU) of what is asked about; None where nothing is outlined on the slice looked at."""
        scan, mask = finding.scan, finding.mask
        facts, _ = await self.call("inspect_scan", scan=scan, contact_sheet=False)
        number = await self.slice_to_look_at(finding, facts["num_slices"])
        shown, (picture,) = await self.call("show_slices", scan=scan, slices=[number], mask=mask)
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))))
        counts = [(pixels == colour).all(axis=2).sum() for colour in OUTLINES]
        if max(counts) < LEAST_PIXELS:
            return None
        label = int(np.argmax(counts)) + 1
        measured, _ = await self.call("measure_structure", scan=scan, mask=mask, labels=[label], picture=False)
        return shown["pictures"][0]["slice"], measured["structures"][0]["mean"]

    async def slice_to_look_at(self, finding: Finding, num_slices: int) -> int:
        question = finding.other_question if self.looks_at == "other" else finding.question
        asked, _ = await self.call("ask_scan", scan=finding.scan, questions=[question], pictures=False)
        if self.looks_at == "middle":
            return num_slices // 2
        if self.looks_at == "random":
            drawn = np.random.default_rng(list((finding.scan + finding.question).encode()))
            return int(drawn.integers(num_slices))
        slices = asked["answers"][0]["evidence"]["heaviest"][0]["slices"]
        if self.looks_at == "truth":
            slices = finding.slices
        return slices[len(slices) // 2]


def make_findings(folder: Path, index: int) -> list[Finding]:
    """Write a phantom and the outlines of its findings -> what may be asked about it without doubt."""
    phantom = make_phantom(SEED, index, pixel_mm=(3.0, 3.5))
    volume, labels = phantom.volume, phantom.lesion_labels
    scan, mask = f"{index}.nii.gz", f"{index}-findings.nii.gz"
    write_nifti(volume, folder / scan)
    write_nifti(volume, folder / mask, labels=labels.astype(np.uint8))
    across = tuple(axis for axis in range(3) if axis != volume.acquisition_axis)
    kinds = [one.abnormality for one in phantom.truth.findings]
    absent = next(kind for kind in ("calcification", "cyst", "lipoma", "abscess") if kind not in kinds)
    found = []
    for label, kind in enumerate(kinds, start=1):
        if kinds.count(kind) > 1:
            continue
        template = QUESTIONS[(index + label) % len(QUESTIONS)]
        planes = np.flatnonzero((labels == label).any(axis=across)).tolist()
        found.append(
            Finding(
                scan=scan,
                mask=mask,
                question=template.format(kind),
                other_question=template.format(absent),
                slices=tuple(volume.geometry.source_slices(planes)),
                hu=float(volume.voxels[labels == label].mean()),
            )
        )
    return found


async def ask_agents(server, findings, looks) -> list[dict]:
    rows = []
    async with Client(server) as client:
        for finding in findings:
            row = {"scan": finding.scan, "question": finding.question}
            for look in looks:
                row[look] = finding.is_right(await ScriptedAgent(client, looks_at=look).answer(finding))
            rows.append(row)
    return rows


async def measure_and_search(server, folder: Path, count: int) -> tuple[list[float], list[float], list[bool]]:
    """(relative errors of millilitres, errors of mean HU) of every organ; whether each second take finds its first."""
    off_ml, off_hu, found = [], [], []
    async with Client(server) as client:
        agent = ScriptedAgent(client)
        first_takes = [f"take-{index}.nii.gz" for index in range(count)]
        for index in range(count):
            phantom = make_phantom(SEED, index, pixel_mm=(3.0, 3.5))
            labels, volume = label_map(phantom), phantom.volume
            write_nifti(volume, folder / f"take-{index}.nii.gz")
            write_nifti(volume, folder / f"organs-{index}.nii.gz", labels=labels)
            _write_second_take(volume, folder / f"second-{index}.nii.gz", seed=index)
            told, _ = await agent.call(
                "measure_structure", scan=f"take-{index}.nii.gz", mask=f"organs-{index}.nii.gz", picture=False
            )
            voxel_ml = float(np.prod(volume.spacing_mm)) / 1000
            assert {one["label"] for one in told["structures"]} == set(np.unique(labels)) - {0}
            for one in told["structures"]:
                inside = labels == one["label"]
                off_ml.append(abs(one["volume_ml"] / (inside.sum() * voxel_ml) - 1))
                off_hu.append(abs(one["mean"] - float(volume.voxels[inside].mean())))
        for index in range(count):
            told, _ = await agent.call("search_scans", scan=f"second-{index}.nii.gz", among=first_takes, top=1)
            found.append(told["neighbours"][0]["scan"] == first_takes[index])
    return off_ml, off_hu, found


def _write_second_take(volume: Volume, path: Path, *, seed: int) -> None:
    axis = volume.acquisition_axis
    inner = tuple(slice(1, -1) if one == axis else slice(None) for one in range(3))
    voxels = volume.voxels[inner]
    noisy = voxels + np.random.default_rng(seed).normal(0, 20, voxels.shape).astype(np.float32)
    affine = volume.affine_lps.copy()
    affine[:3, 3] += (12.0, -7.0, 30.0)
    write_nifti(replace(volume, voxels=noisy, affine_lps=affine), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--tools", type=int, default=0, help="phantoms whose organs are measured and that are searched")
    parser.add_argument("--model", default="phantom-tiny")
    parser.add_argument("--rows", type=Path, help="write a line of JSON per question")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        findings = [one for index in range(options.count) for one in make_findings(Path(place), index)]
        with agent_server(AgentOptions(roots=(Path(place),), model=options.model)) as server:
            rows = asyncio.run(ask_agents(server, findings, LOOKS))
            if options.tools:
                off_ml, off_hu, found = asyncio.run(measure_and_search(server, Path(place), options.tools))
    if options.tools:
        print(f"measure_structure: {len(off_ml)} structures, at most {max(off_ml):.1e} off in ml, {max(off_hu):.1e} HU")
        share = mean_interval(np.array(found, float))
        print(f"search_scans: {sum(found)} of {len(found)} first ({share.low:.2f}-{share.high:.2f})")
    if not rows:
        return
    if options.rows:
        options.rows.write_text("".join(json.dumps(row) + "\n" for row in rows))
    volumes = [row["scan"] for row in rows]
    print(f"{len(rows)} questions about {len(set(volumes))} phantoms, model {options.model}")
    for look in LOOKS:
        right = np.array([row[look] for row in rows], float)
        share = mean_interval(right, volumes)
        line = f"{look:10} {int(right.sum()):3} right  {share.value:.3f} ({share.low:.3f}-{share.high:.3f})"
        if look != "evidence":
            gap = mean_interval(np.array([row["evidence"] - row[look] for row in rows], float), volumes)
            line += f"   evidence is better by {gap.value:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})"
        print(line)


if __name__ == "__main__":
    main()
