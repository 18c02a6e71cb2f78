"""Where the phantom's organs lie, how large they are and how bright each contrast phase makes them.

Positions are LPS millimetres relative to the middle of the trunk: x grows to the patient's left, y to the back,
z to the head. Sizes follow an adult trunk; Hounsfield units are textbook values for the four phases.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slicesight.volumes.volume import Plane

Phase = Literal["non-contrast", "arterial phase", "portal venous phase", "delayed phase"]
PHASES: tuple[Phase, ...] = ("non-contrast", "arterial phase", "portal venous phase", "delayed phase")


@dataclass(frozen=True)
class Ellipsoid:
    """One lobe of an organ: centre and radii, (x, y, z) in LPS millimetres."""

    centre_mm: tuple[float, float, float]
    radii_mm: tuple[float, float, float]


@dataclass(frozen=True)
class Organ:
    """An organ as a union of ellipsoids, painted in table order; later organs overwrite earlier ones.

    hu: one value per phase, in the order of PHASES.
    parts: name of the part -> (lobe index, axis of the unit ball, sign); axis -1 takes the whole lobe.
    """

    name: str
    label: int
    lobes: tuple[Ellipsoid, ...]
    hu: tuple[float, float, float, float]
    parts: dict[str, tuple[int, int, int]] | None = None


_POLES = {"upper pole": (0, 2, 1), "lower pole": (0, 2, -1)}
_LOBES = {"upper lobe": (0, 2, 1), "lower lobe": (0, 2, -1)}

ORGANS: tuple[Organ, ...] = (
    Organ("right lung", 1, (Ellipsoid((-80, 2, 118), (64, 84, 102)),), (-850, -850, -850, -850), _LOBES),
    Organ("left lung", 2, (Ellipsoid((82, 2, 118), (60, 82, 102)),), (-850, -850, -850, -850), _LOBES),
    Organ("heart", 3, (Ellipsoid((26, -36, 76), (54, 44, 46)),), (42, 200, 150, 110)),
    Organ("stomach", 4, (Ellipsoid((66, -38, 0), (44, 42, 56)),), (22, 24, 26, 24)),
    Organ("colon", 5, (Ellipsoid((-112, -14, -105), (22, 22, 50)), Ellipsoid((114, 4, -100), (19, 19, 64))),
          (10, 10, 12, 10)),
    Organ("liver", 6, (Ellipsoid((-74, -6, -4), (76, 84, 74)), Ellipsoid((6, -52, 12), (66, 40, 42))),
          (58, 70, 112, 90), {"right lobe": (0, -1, 0), "left lobe": (1, -1, 0)}),
    Organ("gallbladder", 7, (Ellipsoid((-46, -66, -60), (15, 20, 25)),), (8, 8, 9, 10)),
    Organ("spleen", 8, (Ellipsoid((112, 42, 4), (32, 50, 52)),), (48, 128, 120, 95),
          {"anterior part": (0, 1, -1), "posterior part": (0, 1, 1)}),
    Organ("pancreas", 9, (Ellipsoid((-24, -18, -58), (27, 21, 29)), Ellipsoid((40, -2, -40), (54, 19, 21))),
          (42, 104, 94, 74), {"head": (0, -1, 0), "tail": (1, 0, 1)}),
    Organ("right kidney", 10, (Ellipsoid((-70, 50, -72), (32, 33, 57)),), (32, 120, 165, 145), _POLES),
    Organ("left kidney", 11, (Ellipsoid((72, 48, -58), (32, 33, 57)),), (32, 120, 165, 145), _POLES),
    Organ("bladder", 12, (Ellipsoid((0, -36, -186), (40, 35, 33)),), (8, 8, 10, 240)),
    Organ("prostate", 13, (Ellipsoid((0, 2, -222), (23, 19, 17)),), (40, 60, 75, 65)),
)  # fmt: skip
# Painted along their own course instead of as ellipsoids.
AORTA, VENA_CAVA, SPINE, BONE, MUSCLE = 14, 15, 16, 17, 18
VESSEL_HU = {"aorta": (40.0, 300.0, 170.0, 112.0), "inferior vena cava": (38.0, 62.0, 158.0, 112.0)}

LABEL_NAMES: dict[int, str] = {organ.label: organ.name for organ in ORGANS} | {
    AORTA: "aorta",
    VENA_CAVA: "inferior vena cava",
    SPINE: "spine",
    BONE: "ribs and pelvis",
    MUSCLE: "muscle",
}
ORGANS_BY_NAME: dict[str, Organ] = {organ.name: organ for organ in ORGANS}
HOSTS: tuple[str, ...] = tuple(organ.name for organ in ORGANS if organ.parts)


@dataclass(frozen=True)
class Abnormality:
    """How one kind of lesion looks: diameter range in mm, core and rim HU, texture amplitude in HU."""

    name: str
    diameter_mm: tuple[float, float]
    core_hu: tuple[float, float]
    rim_hu: tuple[float, float] | None = None
    texture_hu: float = 0.0
    hosts: tuple[str, ...] = HOSTS


_SOLID_ORGANS = tuple(host for host in HOSTS if "lung" not in host)
ABNORMALITIES: tuple[Abnormality, ...] = (
    Abnormality("cyst", (24, 44), (0, 12)),
    Abnormality("calcification", (12, 22), (500, 1000)),
    Abnormality("abscess", (30, 48), (12, 24), rim_hu=(185, 225)),
    Abnormality("gas collection", (18, 32), (-750, -550), hosts=_SOLID_ORGANS),
    Abnormality("lipoma", (22, 42), (-115, -95)),
    Abnormality("necrotic tumour", (32, 52), (75, 90), texture_hu=110),
)


@dataclass(frozen=True)
class Finding:
    """One abnormality: what, where, how large, and the acquisition slices that show it."""

    abnormality: str
    organ: str
    part: str
    diameter_mm: float
    centre_mm: tuple[float, float, float]
    source_slices: tuple[int, ...]


@dataclass(frozen=True)
class PhantomTruth:
    """Everything a question about the phantom can ask."""

    plane: Plane
    phase: Phase
    findings: tuple[Finding, ...]
    organ_slices: dict[str, tuple[int, ...]]
