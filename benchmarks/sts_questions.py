"""Make template questions about soft-tissue sarcomas from real scans and their masks, which no position answers.

    python benchmarks/sts_questions.py STS_FOLDER --out runs/sts-vqa/scans

STS_FOLDER/STS_001…034 hold {CT,MR_T1,PET}_image.nii.gz with a tumour _mask each, cut about 5 cm round the tumour. Asked
whole, they give the answers away: the tumour lies in the middle, and a scan's size is its tumour's plus 10 cm. So a
cube of NUM_SLICES slices, the same for every scan, is cut at a random place along all three axes, at one voxel size
(the scans' own distance of slices, so no plane is sharper than another), as grey values of one range, without its place
in the patient, and stacked along each plane. For a scan, plane and size class three cubes come together, with most of
the tumour in one third of the stack each. A slab is asked twice, of cubes of one scan, with tumour in one and none in
the other.

    kind      answers                               balanced over
    modality  CT, MR, PET                           plane, size class
    plane     axial, coronal, sagittal              modality, size class
    third     first, middle, last third             scan, plane, size class
    slab      yes, no                               scan, plane, slab
    size      of the tumour in the cube, by the     modality, plane
              terciles of random training cubes

Patients 001–026 train, 027–034 test. Written: OUT/manifest.jsonl, volumes/, labels/ (the same cubes of the masks) and
facts.json (the size classes' ends among them). Synthetic CT in the same grey values joins the training split, with its
own open questions and the closed one for its plane.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slicesight.data.manifest import LETTERS, Case, Conversation, Split, write_manifest
from slicesight.io.loading import read_volume
from slicesight.io.masks import read_labels
from slicesight.io.writers import write_nifti
from slicesight.phantoms.folder import phantom_case
from slicesight.phantoms.rendering import make_phantom
from slicesight.volumes.foreground import foreground_threshold
from slicesight.volumes.resize import resize
from slicesight.volumes.volume import PLANES, Volume
from slicesight.volumes.windows import window_bounds

SOURCE = "sts"
MODALITIES = {"CT": ("CT", "soft_tissue"), "MR": ("MR_T1", "percentile"), "PET": ("PET", "0,10")}
"""What each modality's files are called, and its grey window (PET: SUV)."""
LAST_TRAIN_PATIENT = 26
NUM_SLICES, VOXEL_MM = 24, 3.27
VOXEL_ML = VOXEL_MM**3 / 1000
THIRD = NUM_SLICES // 3
THIRDS = ("first", "middle", "last")
SIZES = ("small", "medium", "large")
SLAB, SLAB_STARTS = 8, (0, 4, 8, 12, 16)
SLABS_PER_TRIPLE = 2
MIN_ML = 3.0
CLEAR_SHARE = 0.45  # of the tumour that the fullest third holds
SLAB_SHARE = 0.02  # of a slab that is tumour where the answer is yes; where it is no, none is
KINDS = ("modality", "plane", "third", "slab", "size")
SYNTHETIC_SEED, SYNTHETIC_PIXEL_MM = 70_500, (3.5, 4.0)


@dataclass(frozen=True, eq=False)
class Scan:
    """One scan at VOXEL_MM: grey values 0 to 255 and tumour, both (Z, Y, X)."""

    patient: str
    modality: str
    grey: NDArray[np.float32]
    tumour: NDArray[np.bool_]

    @property
    def split(self) -> Split:
        return "train" if int(self.patient.rpartition("_")[2]) <= LAST_TRAIN_PATIENT else "test"


@dataclass(frozen=True, eq=False)
class Cube:
    """A cube of a scan, stacked along a plane."""

    scan: Scan
    plane: str
    corner: tuple[int, int, int]

    def cut(self, voxels_ZYX: NDArray) -> NDArray:
        return voxels_ZYX[tuple(slice(start, start + NUM_SLICES) for start in self.corner)]

    @property
    def tumour_by_slice(self) -> NDArray[np.int64]:
        """Tumour voxels of every slice of the stack -> (NUM_SLICES,)."""
        return np.moveaxis(self.cut(self.scan.tumour), PLANES.index(self.plane), 0).sum(axis=(1, 2))


def read_scans(folder: Path) -> Iterator[Scan]:
    """Every scan of the folder that a cube fits into."""
    for modality, (name, window) in MODALITIES.items():
        for path in sorted(folder.glob(f"STS_*/{name}_image.nii.gz")):
            volume = read_volume(path, unit="HU" if modality == "CT" else "arbitrary")
            size = [round(n * mm / VOXEL_MM) for n, mm in zip(volume.shape, volume.spacing_mm, strict=True)]
            if min(size) < NUM_SLICES:
                continue
            labels = read_labels(path.with_name(f"{name}_mask.nii.gz"), volume)
            to_grey = window_bounds(volume, window, threshold=foreground_threshold(volume)).to_grey
            grey = np.rint(255 * resize(volume.voxels, tuple(size), to_grey=to_grey)).astype(np.float32)
            share = resize(labels, tuple(size), to_grey=lambda block: (block > 0).astype(np.float32))
            yield Scan(path.parent.name, modality, grey, share > 0.5)


def tumour_by_third(tumour_ZYX: NDArray[np.bool_], axis: int) -> NDArray[np.int64]:
    """Tumour voxels in each third of the stack, for a cube at every corner it can have -> (3, Z', Y', X')."""
    counts = tumour_ZYX.astype(np.int64)
    for other in range(3):
        counts = _window_sums(counts, THIRD if other == axis else NUM_SLICES, other)
    room = tumour_ZYX.shape[axis] - NUM_SLICES + 1
    return np.stack([np.take(counts, np.arange(room) + THIRD * third, axis=axis) for third in range(3)])


def _window_sums(values: NDArray[np.int64], length: int, axis: int) -> NDArray[np.int64]:
    sums = np.cumsum(values, axis=axis)
    sums = np.concatenate([np.zeros_like(np.take(sums, [0], axis=axis)), sums], axis=axis)
    ends = np.arange(length, sums.shape[axis])
    return np.take(sums, ends, axis=axis) - np.take(sums, ends - length, axis=axis)


def size_cuts(scans: list[Scan], rng: np.random.Generator) -> tuple[int, int]:
    """Terciles, in whole ml, of the tumour in random cubes of the training scans, equally many of each scan."""
    drawn = []
    for scan in scans:
        if scan.split == "train":
            ml = tumour_by_third(scan.tumour, 0).sum(axis=0).ravel() * VOXEL_ML
            drawn.append(rng.choice(ml[ml >= MIN_ML], size=500))
    low, high = np.quantile(np.concatenate(drawn), [1 / 3, 2 / 3])
    return round(low), round(high)


def draw_triples(
    scans: list[Scan], cuts: tuple[int, int], *, per_cell: int, rng: np.random.Generator
) -> list[list[Cube]]:
    """`per_cell` triples of every modality, plane and size class, taking turns among the scans that have one."""
    triples = []
    for modality in MODALITIES:
        for axis, plane in enumerate(PLANES):
            members = [scan for scan in scans if scan.modality == modality]
            found: dict[int, list[tuple[Scan, list[NDArray]]]] = defaultdict(list)
            for scan in members:
                thirds = tumour_by_third(scan.tumour, axis)
                total = thirds.sum(axis=0)
                size = np.digitize(total * VOXEL_ML, cuts)
                usable = (total * VOXEL_ML >= MIN_ML) & (thirds.max(axis=0) >= CLEAR_SHARE * total)
                for number in range(3):
                    here = usable & (size == number)
                    corners = [np.argwhere(here & (thirds.argmax(axis=0) == third)) for third in range(3)]
                    if all(len(places) for places in corners):
                        found[number].append((scan, corners))
            for number in range(3):
                choices = found[number]
                if not choices:
                    raise SystemExit(f"no {modality} scan has cubes of size class {number} in the {plane} plane")
                turns = [i for _ in range(per_cell) for i in rng.permutation(len(choices))][:per_cell]
                for turn in turns:
                    scan, corners = choices[turn]
                    places = [options[rng.integers(len(options))] for options in corners]
                    triples.append([Cube(scan, plane, tuple(int(c) for c in place)) for place in places])
    return triples


def slab_pairs(triples: list[list[Cube]], rng: np.random.Generator) -> dict[Cube, list[tuple[int, bool]]]:
    """Which slabs to ask of which cube: always a cube with and one without tumour there, of one scan."""
    asked: dict[Cube, list[tuple[int, bool]]] = defaultdict(list)
    used: Counter[int] = Counter()
    for triple in triples:
        options: dict[int, tuple[list[Cube], list[Cube]]] = {}
        for start in SLAB_STARTS:
            inside = {cube: int(cube.tumour_by_slice[start : start + SLAB].sum()) for cube in triple}
            yes = [cube for cube in triple if inside[cube] >= SLAB_SHARE * SLAB * NUM_SLICES**2]
            no = [cube for cube in triple if inside[cube] == 0]
            if yes and no:
                options[start] = yes, no
        for start in sorted(options, key=lambda start: (used[start], rng.random()))[:SLABS_PER_TRIPLE]:
            used[start] += 1
            for answer, cubes in zip((True, False), options[start], strict=True):
                asked[cubes[rng.integers(len(cubes))]].append((start, answer))
    return asked


def conversations(cube: Cube, slabs: list[tuple[int, bool]], cuts: tuple[int, int]) -> tuple[Conversation, ...]:
    """The template questions about one cube."""
    counts = cube.tumour_by_slice
    ml = counts.sum() * VOXEL_ML
    third = int(counts.reshape(3, THIRD).sum(axis=1).argmax())
    shown = tuple(int(i) for i in np.flatnonzero(counts))
    pairs = [
        _closed("modality", "Which kind of scan is this?", tuple(MODALITIES), cube.scan.modality),
        _closed("plane", "In which plane are the slices?", PLANES, cube.plane),
        _closed("third", "Which third of the stack holds most of the tumour?", THIRDS, THIRDS[third], shown),
        _closed("size", "How large is the tumour shown?", SIZES, SIZES[np.digitize(ml, cuts)]),
    ]
    for start, is_yes in slabs:
        question = f"Is there tumour in slices {start + 1} to {start + SLAB}?"
        inside = tuple(i for i in shown if start <= i < start + SLAB) or None
        pairs.append(_closed("slab", question, ("yes", "no"), "yes" if is_yes else "no", inside))
    return tuple(pairs)


def guessed_from_whole_scans(scans: list[Scan]) -> dict[str, float]:
    """What position alone would be worth without the cubes: the commonest training answer, on the test patients.

    third: of the whole scan, along every plane. slab: at five places, each a third of the scan long.
    """
    counted: dict[tuple[str, str], Counter[bool | int]] = defaultdict(Counter)
    answers: dict[str, list[tuple[tuple[str, str], bool | int]]] = defaultdict(list)
    for scan in scans:
        for axis in range(3):
            counts = np.moveaxis(scan.tumour, axis, 0).sum(axis=(1, 2))
            cells = [counts[len(counts) * place // 6 : len(counts) * (place + 2) // 6].sum() for place in range(5)]
            said: list[tuple[tuple[str, str], bool | int]] = [(("third", ""), int(np.argmax(cells[::2])))]
            said += [(("slab", str(place)), bool(cell > 0)) for place, cell in enumerate(cells)]
            for key, answer in said:
                if scan.split == "train":
                    counted[key][answer] += 1
                else:
                    answers[key[0]].append((key, answer))
    return {
        kind: sum(counted[key].most_common(1)[0][0] == answer for key, answer in found) / len(found)
        for kind, found in answers.items()
    }


def _closed(
    topic: str, question: str, choices: tuple[str, ...], answer: str, shown: tuple[int, ...] | None = None
) -> Conversation:
    letter = LETTERS[choices.index(answer)]
    return Conversation(
        task="closed",
        topic=topic,
        question=question,
        choices=choices,
        answer=answer,
        answer_choice=letter,
        source_slices=shown,
    )


def write_cube(cube: Cube, out: Path, name: str) -> tuple[str, str]:
    """The cube and its mask as NIfTI below OUT, slices stored along its plane; names relative to OUT."""
    affine = np.zeros((4, 4))
    affine[[0, 1, 2], [2, 1, 0]], affine[3, 3] = VOXEL_MM, 1.0
    volume = Volume(
        voxels=np.ascontiguousarray(cube.cut(cube.scan.grey)),
        affine_lps=affine,
        spacing_mm=(VOXEL_MM,) * 3,
        acquisition_axis=PLANES.index(cube.plane),
    )
    files = f"volumes/{name}.nii.gz", f"labels/{name}.nii.gz"
    write_nifti(volume, out / files[0])
    write_nifti(volume, out / files[1], labels=cube.cut(cube.scan.tumour).astype(np.uint8))
    return files


def write_synthetic(out: Path, count: int) -> Iterator[Case]:
    """Phantoms in the soft tissue window as grey values 0 to 255, for the training split."""
    for index in range(count):
        phantom = make_phantom(SYNTHETIC_SEED, index, pixel_mm=SYNTHETIC_PIXEL_MM)
        window = window_bounds(phantom.volume, "soft_tissue", threshold=foreground_threshold(phantom.volume))
        grey = np.rint(255 * window.to_grey(phantom.volume.voxels))
        name = f"volumes/synthetic_{index:04d}.nii.gz"
        write_nifti(replace(phantom.volume, voxels=grey), out / name)
        case = phantom_case(phantom, seed=SYNTHETIC_SEED, index=index, volume=name)
        kept = tuple(asked for asked in case.conversations if asked.task == "open" or asked.topic == "plane")
        changes = {"split": "train", "patient": case.id, "source": "phantom", "conversations": kept}
        yield case.model_copy(update=changes)


def make(folder: Path, out: Path, *, train: int, test: int, synthetic: int, seed: int = 0) -> Path:
    """Write the whole data set; the manifest comes last.

    train, test: triples of every modality, plane and size class. synthetic: phantoms in the training split.
    """
    scans = list(read_scans(folder))
    if not scans:
        raise SystemExit(f"{folder}: no STS_*/CT_image.nii.gz there; name the folder of STS_001 …")
    for name in ("volumes", "labels"):
        (out / name).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    cuts = size_cuts(scans, rng)
    cases = []
    for split, per_cell in (("train", train), ("test", test)):
        triples = draw_triples([s for s in scans if s.split == split], cuts, per_cell=per_cell, rng=rng)
        asked = slab_pairs(triples, rng)
        for number, cube in enumerate(cube for triple in triples for cube in triple):
            name = f"{split}_{number:04d}"
            volume, labels = write_cube(cube, out, name)
            cases.append(
                Case(
                    id=name,
                    split=cube.scan.split,
                    patient=cube.scan.patient,
                    source=SOURCE,
                    volume=volume,
                    labels=labels,
                    conversations=conversations(cube, asked.get(cube, []), cuts),
                    truth={"modality": cube.scan.modality, "plane": cube.plane, "corner_zyx": list(cube.corner)},
                )
            )
    cases += write_synthetic(out, synthetic)
    facts = {"size_cuts_ml": cuts, "scans": dict(Counter(f"{s.split} {s.modality}" for s in scans)), "seed": seed}
    (out / "facts.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    write_manifest(cases, out / "manifest.jsonl")
    return out / "manifest.jsonl"


def arguments_of(parser: argparse.ArgumentParser) -> None:
    """The options that say how much is made."""
    parser.add_argument("sts", type=Path, metavar="STS_FOLDER")
    parser.add_argument("--train", type=int, default=5, help="triples of each modality, plane and size class")
    parser.add_argument("--test", type=int, default=2)
    parser.add_argument("--synthetic", type=int, default=40, help="phantoms that join the training split")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments_of(parser)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    path = make(options.sts, options.out, train=options.train, test=options.test, synthetic=options.synthetic)
    print(f"wrote {path}; next: python benchmarks/sts_vqa.py {options.sts}")


if __name__ == "__main__":
    main()
