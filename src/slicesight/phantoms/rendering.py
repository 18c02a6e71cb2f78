"""A synthetic CT of the trunk with known truth: what is where, in which slices, in which phase and plane.

Deterministic: `make_phantom(seed, index)` draws everything from `SeedSequence([seed, index])`. Arrays are ZYX in the
canonical orientation of `Volume`, world coordinates LPS millimetres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy
from numpy.random import Generator
from numpy.typing import NDArray

from slicesight.phantoms import anatomy
from slicesight.phantoms.anatomy import BONE, MUSCLE, ORGANS, PHASES, Ellipsoid, Finding, Organ, PhantomTruth, Phase
from slicesight.volumes.geometry import slice_centres
from slicesight.volumes.volume import PLANES, Volume

FIELD_OF_VIEW_MM = ((-236.0, 216.0), (-138.0, 138.0), (-192.0, 192.0))  # z, y, x
PIXEL_MM = (1.5, 2.4)
SLICE_MM = {"axial": (5.0, 9.0), "coronal": (4.0, 7.0), "sagittal": (5.0, 8.0)}
NUM_FINDINGS_PROBABILITY = (0.1, 0.3, 0.3, 0.3)


@dataclass(frozen=True)
class Phantom:
    """The scan, its organ labels (values of `anatomy.LABEL_NAMES`) and lesion labels (1-based index of the finding)."""

    volume: Volume
    organ_labels: NDArray[np.uint8]
    lesion_labels: NDArray[np.uint8]
    truth: PhantomTruth


def make_phantom(seed: int, index: int, *, pixel_mm: tuple[float, float] = PIXEL_MM, noise: bool = True) -> Phantom:
    """Draw phantom number `index` of the family `seed`.

    Args:
        pixel_mm: range of the in-plane pixel size; smaller pixels look better and take longer.
        noise: False leaves out the scanner noise, for tests of geometry.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
    axis, phase = int(rng.integers(3)), PHASES[rng.integers(len(PHASES))]
    canvas = _Canvas(rng, axis=axis, phase=phase, pixel_mm=pixel_mm)
    canvas.paint_body()
    for organ in ORGANS:
        canvas.paint_organ(organ)
    canvas.paint_vessels()
    findings = canvas.paint_findings()
    if noise:
        canvas.hu += rng.standard_normal(canvas.hu.shape, dtype=np.float32) * np.float32(rng.uniform(14, 38))
    sigma = [0.7, 0.7, 0.7]
    sigma[axis] = 0.35
    voxels = scipy.ndimage.gaussian_filter(canvas.hu, sigma, output=np.float32, truncate=2.5)
    np.clip(np.rint(voxels, out=voxels), -1024, 3071, out=voxels)
    return Phantom(
        volume=canvas.volume(voxels),
        organ_labels=canvas.organ_labels,
        lesion_labels=canvas.lesion_labels,
        truth=PhantomTruth(plane=PLANES[axis], phase=phase, findings=findings, organ_slices=canvas.organ_slices()),
    )


class _Canvas:
    """HU and labels under construction on one voxel grid."""

    def __init__(self, rng: Generator, *, axis: int, phase: Phase, pixel_mm: tuple[float, float]) -> None:
        self.rng, self.axis, self.phase_index = rng, axis, PHASES.index(phase)
        self.stretch = rng.uniform(0.93, 1.07, 3)  # x, y, z
        pixel = rng.uniform(*pixel_mm)
        self.spacing = np.full(3, pixel)
        self.spacing[axis] = rng.uniform(*SLICE_MM[PLANES[axis]])
        ends = np.array(FIELD_OF_VIEW_MM) + rng.uniform(-8, 8, (3, 2))
        shape = np.floor((ends[:, 1] - ends[:, 0]) / self.spacing).astype(int)
        self.origin = ends[:, 0]
        self.patient_offset_mm = rng.uniform(-120, 120, 3)
        zyx = [self.origin[a] + self.spacing[a] * np.arange(shape[a]) for a in range(3)]
        self.z, self.y, self.x = (c.astype(np.float32) for c in zyx)
        self.hu = np.full(shape, -1000, dtype=np.float32)
        self.organ_labels = np.zeros(shape, dtype=np.uint8)
        self.lesion_labels = np.zeros(shape, dtype=np.uint8)
        self.lobes: dict[str, list[Ellipsoid]] = {}

    def volume(self, voxels: NDArray[np.float32]) -> Volume:
        affine = np.eye(4)
        affine[:3, :3] = np.diag(self.spacing)[::-1]  # column 0 steps along z, which is the third LPS coordinate
        affine[:3, 3] = (self.origin + self.patient_offset_mm)[::-1]
        return Volume(
            voxels=voxels,
            affine_lps=affine,
            spacing_mm=(float(self.spacing[0]), float(self.spacing[1]), float(self.spacing[2])),
            acquisition_axis=self.axis,
            slice_positions_mm=slice_centres(affine, voxels.shape, axis=self.axis, reversed_=False),
            modality="CT",
            unit="HU",
            is_synthetic=True,
            source={"format": "phantom"},
        )

    def organ_slices(self) -> dict[str, tuple[int, ...]]:
        """Acquisition slices in which each organ of the table covers at least 30 voxels."""
        sheets = np.moveaxis(self.organ_labels, self.axis, 0)
        counts = np.stack([np.bincount(sheet.ravel(), minlength=32) for sheet in sheets])
        named = [(organ.name, organ.label) for organ in ORGANS] + [("aorta", anatomy.AORTA)]
        return {name: tuple(int(i) for i in np.flatnonzero(counts[:, label] >= 30)) for name, label in named}

    def paint_body(self) -> None:
        rng = self.rng
        x, y, z = self.x / self.stretch[0], self.y / self.stretch[1], self.z / self.stretch[2]
        waist = np.exp(-(((z + 70) / 70) ** 2))
        width = (166 - 14 * waist - 26 * np.clip((z - 150) / 70, 0, 1))[:, None, None]
        depth = (112 - 8 * waist - 12 * np.clip((z - 140) / 80, 0, 1))[:, None, None]
        x3, y3, z3 = x[None, None, :], y[None, :, None], z[:, None, None]
        radius = ((np.abs(x3) / width) ** 2.4 + (np.abs(y3) / depth) ** 2.4) ** np.float32(1 / 2.4)
        fat = rng.uniform(0.05, 0.11)
        self.hu[radius < 1] = -102
        wall = (radius < 1 - fat) & (radius > 0.82)
        self.hu[wall] = 56
        self.organ_labels[wall] = MUSCLE
        cavity = radius <= 0.82
        self.hu[cavity] = -92
        tilt = z3 - 0.35 * y3 - 0.2 * np.abs(x3)
        ribs = (radius > 0.83) & (radius < 0.885) & (z3 > -30) & (np.cos(2 * np.pi * tilt / 29) > 0.25)
        self._bone(ribs, 380)
        mediastinum = cavity & (np.abs(x3 - 8) < 34) & (z3 > 20)
        self.hu[mediastinum] = 30
        for side in (-1, 1):
            self._solid((side * 40, 62, -105), (19, 19, 78), 58, MUSCLE)
            self._solid((side * 44, 92, -60), (30, 20, 150), 54, MUSCLE)
            self._solid((side * 96, 58, -210), (40, 34, 60), 56, MUSCLE)
            self._shell((side * 92, 34, -168), (44, 56, 62), 0.8, 420, below=-108)
            self._solid((side * 92, 6, -226), (24, 24, 24), 420, BONE)
        self._solid((0, 84, -176), (46, 22, 46), 300, BONE)
        spine_y = 74 + 6 * np.sin(z / 70)
        in_body = ((x3 / 23) ** 2 + ((y3 - spine_y[:, None, None]) / 18) ** 2) < 1
        disc = np.mod(z3, 34) < 7
        self.hu[in_body & (z3 > -150)] = 270
        self.organ_labels[in_body & (z3 > -150)] = anatomy.SPINE
        self.hu[in_body & disc & (z3 > -150)] = 90
        edge = in_body & (((x3 / 20) ** 2 + ((y3 - spine_y[:, None, None]) / 15) ** 2) > 1) & ~disc & (z3 > -150)
        self.hu[edge] = 520
        back = y3 - spine_y[:, None, None] - 30
        canal = (x3 / 11) ** 2 + (back / 9) ** 2
        self._bone((canal < 2.2) & (canal > 1) & (z3 > -150), 420)
        self.hu[(canal <= 1) & (z3 > -150)] = 22
        spinous = (np.abs(x3) < 4) & (back > 8) & (back < 30) & (np.mod(z3 + 10, 34) < 18) & (z3 > -150)
        self._bone(spinous & (radius < 0.97), 400)
        for _ in range(int(rng.integers(14, 22))):  # loops of small bowel
            centre = rng.uniform((-80, -84, -160), (80, -10, -85))
            size = rng.uniform(11, 19, 3)
            self._solid(centre, size, float(rng.choice((25, 35, 45, 60))), 0)
            self._solid(centre, size * 0.65, float(rng.choice((5, 15, 15, 20, -700), p=(0.3, 0.3, 0.2, 0.1, 0.1))), 0)
        if rng.random() < 0.5:  # the table under the patient
            table = np.abs(y3 - (121 - (x3 / 150) ** 2 * 22)) < 2.5
            self.hu[np.broadcast_to(table & (radius > 1.02), self.hu.shape)] = -250

    def _bone(self, where: NDArray[np.bool_], hu: float) -> None:
        where = np.broadcast_to(where, self.hu.shape)
        self.hu[where] = hu
        self.organ_labels[where] = BONE

    def paint_organ(self, organ: Organ) -> None:
        rng = self.rng
        shift, growth = rng.uniform(-5, 5, 3), rng.uniform(0.94, 1.07)
        self.lobes[organ.name] = []
        hu = organ.hu[self.phase_index] * rng.uniform(0.94, 1.06)
        for lobe in organ.lobes:
            lobe = Ellipsoid(tuple(np.add(lobe.centre_mm, shift)), tuple(np.multiply(lobe.radii_mm, growth)))
            self.lobes[organ.name].append(lobe)
            box, distance = self._distance(lobe, wobble=0.07)
            inside = distance < 1
            view, labels = self.hu[box], self.organ_labels[box]
            if "lung" in organ.name:  # the lungs stop at the chest wall, heart and diaphragm side organs overwrite them
                inside &= (view < -80) | (view == 30)
                inside &= np.broadcast_to((self.z[box[0]] > 8)[:, None, None], inside.shape)
            view[inside] = hu
            labels[inside] = organ.label
            if "kidney" in organ.name:
                medulla = (distance < 0.5) & inside
                view[medulla] = (32, 70, 150, 140)[self.phase_index]
                view[distance < 0.1] = (5, 5, 10, 330)[self.phase_index]
            elif "lung" in organ.name:
                grain = scipy.ndimage.gaussian_filter(rng.standard_normal(view.shape, dtype=np.float32), 1.2)
                view[inside & (grain > 0.38)] = -250 if self.phase_index == 0 else -120
            elif organ.name == "stomach":
                view[inside & (distance > 0.8)] = 60
                gas_mm = lobe.centre_mm[1] * self.stretch[1] - rng.uniform(0, 18)
                view[inside & (distance < 0.7) & (self.y[box[1]] < gas_mm)[None, :, None]] = -880
            elif organ.name == "colon":
                grain = scipy.ndimage.gaussian_filter(rng.standard_normal(view.shape, dtype=np.float32), 1.5)
                view[inside] += np.where(grain > 0.15, -520, 20)[inside]
                view[inside & (distance > 0.78)] = 45
            elif organ.name == "gallbladder":
                view[inside & (distance > 0.8)] = 55
            elif organ.name == "liver":
                grain = scipy.ndimage.gaussian_filter(
                    rng.standard_normal(view.shape, dtype=np.float32), (1.2, 2.2, 2.2)
                )
                ridge = np.abs(grain) < 0.006 * grain.std() / 0.1
                view[inside & ridge] = hu + (-18, 10, 45, 15)[self.phase_index]

    def paint_vessels(self) -> None:
        x3, y3, z3 = self.x[None, None, :], self.y[None, :, None], self.z[:, None, None]
        sx, sy, sz = (float(s) for s in self.stretch)
        courses = (
            ("aorta", anatomy.AORTA, 15 + 0.05 * np.clip(z3, 0, 200), 46, 12.5, -125, 165),
            ("inferior vena cava", anatomy.VENA_CAVA, -19 + 0 * z3, 40, 12.5, -125, 52),
        )
        for name, label, centre_x, centre_y, radius_mm, low, high in courses:
            inside = (x3 - centre_x * sx) ** 2 + (y3 - centre_y * sy) ** 2 < radius_mm**2
            inside = inside & (z3 > low * sz) & (z3 < high * sz)
            self.hu[inside] = anatomy.VESSEL_HU[name][self.phase_index] * self.rng.uniform(0.94, 1.06)
            self.organ_labels[inside] = label

    def paint_findings(self) -> tuple[Finding, ...]:
        rng = self.rng
        count = int(rng.choice(4, p=NUM_FINDINGS_PROBABILITY))
        hosts = [anatomy.HOSTS[i] for i in rng.permutation(len(anatomy.HOSTS))]
        kinds = [anatomy.ABNORMALITIES[i] for i in rng.permutation(len(anatomy.ABNORMALITIES))]
        findings: list[Finding] = []
        for host in hosts:
            kind = next((k for k in kinds if host in k.hosts), None)
            if len(findings) == count or kind is None:
                break
            finding = self._paint_finding(kind, anatomy.ORGANS_BY_NAME[host], number=len(findings) + 1)
            if finding is not None:
                findings.append(finding)
                kinds.remove(kind)
        return tuple(findings)

    def _paint_finding(self, kind: anatomy.Abnormality, organ: Organ, *, number: int) -> Finding | None:
        rng = self.rng
        assert organ.parts is not None
        part = str(rng.choice(list(organ.parts)))
        lobe_index, axis, sign = organ.parts[part]
        lobe = self.lobes[organ.name][lobe_index]
        thickest = 1.7 * min(lobe.radii_mm) * float(self.stretch.min())
        for _ in range(40):
            diameter = min(rng.uniform(*kind.diameter_mm), thickest)
            inside_ball = rng.normal(size=3)
            inside_ball *= rng.uniform(0, 0.55) / np.linalg.norm(inside_ball)
            if axis >= 0:
                inside_ball[axis] = sign * rng.uniform(0.34, 0.6)
            centre = np.add(lobe.centre_mm, inside_ball * lobe.radii_mm)
            radii = diameter / 2 * rng.uniform(0.88, 1.12, 3)
            box, distance = self._distance(Ellipsoid(tuple(centre), tuple(radii / self.stretch)), wobble=0.12)
            inside = distance < 1
            hosted = inside & (self.organ_labels[box] == organ.label)
            if hosted.sum() < max(8, 0.8 * inside.sum()):
                continue
            view = self.hu[box]
            core = rng.uniform(*kind.core_hu)
            view[hosted] = core
            if kind.texture_hu:
                grain = rng.standard_normal(view.shape, dtype=np.float32)
                grain = scipy.ndimage.gaussian_filter(grain, 3.2 / self.spacing)
                view[hosted] = core + kind.texture_hu * np.sign(grain[hosted])
            if kind.rim_hu:
                view[hosted & (distance > 0.42)] = rng.uniform(*kind.rim_hu)
            self.lesion_labels[box][hosted] = number
            along = np.moveaxis(hosted, self.axis, 0).any(axis=(1, 2))
            first = box[self.axis].start
            return Finding(
                abnormality=kind.name,
                organ=organ.name,
                part=part,
                diameter_mm=round(float(diameter), 1),
                centre_mm=self._to_patient(centre),
                source_slices=tuple(int(first + i) for i in np.flatnonzero(along)),
            )
        return None

    def _to_patient(self, centre_mm: NDArray[np.float64]) -> tuple[float, float, float]:
        x, y, z = (centre_mm * self.stretch + self.patient_offset_mm[::-1]).tolist()
        return x, y, z

    def _distance(self, shape: Ellipsoid, *, wobble: float) -> tuple[tuple[slice, slice, slice], NDArray[np.float32]]:
        """Bounding box and squared normalised distance (1 on the surface) of a slightly lumpy ellipsoid."""
        slices, terms = [], []
        for coordinates, centre, radius, stretch in zip(
            (self.z, self.y, self.x), shape.centre_mm[::-1], shape.radii_mm[::-1], self.stretch[::-1], strict=True
        ):
            centre, radius = float(centre * stretch), float(radius * stretch)
            reach = 1.15 * radius
            start, stop = np.searchsorted(coordinates, (centre - reach, centre + reach))
            slices.append(slice(int(start), int(stop)))
            unit = (coordinates[start:stop] - centre) / radius
            lumps = wobble * np.sin(self.rng.uniform(2.0, 4.5) * unit + self.rng.uniform(0, 2 * np.pi))
            terms.append((unit**2 + lumps).astype(np.float32))
        distance = terms[0][:, None, None] + terms[1][None, :, None] + terms[2][None, None, :]
        return (slices[0], slices[1], slices[2]), distance

    def _solid(self, centre: object, radii: object, hu: float, label: int) -> None:
        box, distance = self._distance(Ellipsoid(tuple(centre), tuple(radii)), wobble=0.08)  # type: ignore[arg-type]
        self.hu[box][distance < 1] = hu
        self.organ_labels[box][distance < 1] = label

    def _shell(self, centre: object, radii: object, inner: float, hu: float, *, below: float) -> None:
        box, distance = self._distance(Ellipsoid(tuple(centre), tuple(radii)), wobble=0.03)  # type: ignore[arg-type]
        shell = (distance < 1) & (distance > inner) & (self.z[box[0]] < below)[:, None, None]
        outward = np.abs(self.x[box[2]])[None, None, :] + 0.7 * self.y[box[1]][None, :, None] > 92
        shell &= outward
        self.hu[box][shell] = hu
        self.organ_labels[box][shell] = BONE
