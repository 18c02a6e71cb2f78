"""How do scans become triplets of volume, slice and text? (`slicesight insight triplets`)

In three passes, each of which goes on where it stopped: cut cubes and slices; find the texts; let the frozen 2D models
make vectors of both. The folder:

    settings.json      what made it, and of which scans; a folder made otherwise is refused
    cubes/NAME.npy     (D, H, W) uint8        slices/NAME.npy    (T, P, P) uint8, with NAME.json beside
    captions.jsonl     what a captioner answered, a line per picture, as soon as it was answered
    vectors/NAME.safetensors                  image (T, O) and, unless text is none, text (T, O)
    tokens/NAME.npy                           (T, G, G, C) float16, where dense_components are kept (dense_tokens.py)
    teacher/                                  the image encoder, where it learnt from the slices (self_teacher.py)
    triplets.jsonl     a line per triplet: scan, plane, index, count, text, text_source
    scans.jsonl        a line per scan: name, image, patient, split, modality; written last: the folder is whole
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from slicesight.errors import InputError, VolumeError
from slicesight.files import replacing, write_text
from slicesight.io.loading import read_volume
from slicesight.io.masks import read_labels
from slicesight.models.med3dinsight import descriptions, teachers
from slicesight.models.med3dinsight.descriptions import SlicePlace, Structure
from slicesight.training.fitting import Progress
from slicesight.training.pretraining_recipe import SELF_TRAINED, TripletSettings
from slicesight.training.scan_list import ScanCase, name_of, read_cases, save_array
from slicesight.training.triplets.crops import cut_crops
from slicesight.training.triplets.dense_tokens import FITTED_ON, fit_basis, packed, read_basis, shown_patches
from slicesight.training.triplets.self_teacher import learn_teacher
from slicesight.training.triplets.slices import ScanSlices, cut_scan

FORMAT = 1
SCAN_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".npy", ".zip")


@dataclass(frozen=True, kw_only=True)
class TripletReport:
    """What came of it; skipped holds (scan, reason) where bad scans were to be skipped.

    text_source: "annotation-derived" where a label map was read.
    """

    folder: Path
    num_scans: int
    num_triplets: int
    num_texts: int
    text_source: str
    skipped: tuple[tuple[str, str], ...]


def make_triplets(
    source: str | Path,
    out: str | Path,
    settings: TripletSettings,
    *,
    on_bad_case: Literal["stop", "skip"] = "stop",
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> TripletReport:
    """Make, or finish, the folder of triplets of all scans.

    Args:
        source: a .jsonl of scans (data.py), a folder of scans, or one scan.

    Raises:
        InputError: a folder made with other settings or of other scans; a model that cannot be loaded.
        VolumeError: a scan that cannot be read, unless `on_bad_case` is "skip".
    """
    folder, cases = Path(out), list_scans(source)
    _check_models(settings)
    _claim(folder, settings, cases)
    progress = progress or (lambda doing, done, total: None)
    skipped: list[tuple[str, str]] = []
    readable: list[ScanCase] = []
    for number, case in enumerate(cases):
        progress("cutting slices", number, len(cases))
        try:
            readable += _cut(folder, case, settings)
        except VolumeError as error:
            if on_bad_case == "stop":
                raise
            skipped.append((case.name, " ".join(str(error).split())))
    if not readable:
        raise InputError(f"{source}: none of its {len(cases)} scans could be read; the first: {skipped[0][1]}")
    texts = _find_texts(folder, readable, settings, device=device, progress=progress)
    _make_vectors(folder, readable, texts, settings, device=device, progress=progress)
    num_triplets = _write_lists(folder, readable, texts, settings)
    num_texts = 0 if settings.text == "none" else num_triplets
    return TripletReport(
        folder=folder,
        num_scans=len(readable),
        num_triplets=num_triplets,
        num_texts=num_texts,
        text_source=text_source(settings),
        skipped=tuple(skipped),
    )


def list_scans(source: str | Path) -> list[ScanCase]:
    """The scans of a .jsonl, of a folder (each scan file or sub-folder of it is one), or the one scan itself."""
    place = Path(source)
    if place.suffix == ".jsonl":
        return read_cases(place)
    if not place.exists():
        raise InputError(f"{place}: no such file or folder; expected a .jsonl of scans, a folder of scans, or one scan")
    inside = sorted(place.iterdir()) if place.is_dir() else []
    scans = [
        entry
        for entry in inside
        if not entry.name.startswith(".") and (entry.is_dir() or entry.name.lower().endswith(SCAN_SUFFIXES))
    ]
    return [
        ScanCase(
            image=scan, mask=None, label=None, patient=scan.name, split="train", line=number, name=name_of(number, scan)
        )
        for number, scan in enumerate(scans or [place], start=1)
    ]


def read_cut(folder: Path, name: str) -> dict[str, Any]:
    """The facts of one scan's slices: places, structures, modality."""
    return dict(json.loads((folder / "slices" / f"{name}.json").read_text(encoding="utf-8")))


def text_source(settings: TripletSettings) -> str:
    """Where the texts come from, as it stands beside every one of them."""
    return {
        "none": "none",
        "position": "template of plane and place",
        "labels": descriptions.ANNOTATION_DERIVED,
        "model": f"captioner {settings.captioner}",
    }[settings.text]


def _check_models(settings: TripletSettings) -> None:
    """Find a wrong name before the scans are cut, not after."""
    for name in (settings.captioner, settings.image_encoder, settings.text_encoder):
        if name is not None and name not in (teachers.PIXELS, teachers.WORDS, SELF_TRAINED):
            teachers.read_config(name)
    if settings.text != "none" and settings.text_encoder is None:
        if settings.image_encoder == SELF_TRAINED:
            raise InputError(f"text_encoder is not set, and {SELF_TRAINED} has no text side; set it, or text: none")
        teachers.check_text_side(settings.image_encoder)


def _claim(folder: Path, settings: TripletSettings, cases: list[ScanCase]) -> None:
    """Write settings.json, or check that the folder was made with these settings of these scans."""
    named = [[case.name, case.image.name, case.split, *([] if case.fill is None else [case.fill])] for case in cases]
    scans = hashlib.sha256(json.dumps(named).encode())
    wanted: dict[str, Any] = {
        "format": FORMAT,
        "settings": settings.to_dict(),
        "num_scans": len(cases),
        "scans": scans.hexdigest(),
    }
    file = folder / "settings.json"
    if file.is_file():
        found = json.loads(file.read_text(encoding="utf-8"))
        if found == wanted:
            return
        ours, theirs = wanted["settings"], found.get("settings", {})
        other = [key for key in ours if theirs.get(key) != ours[key]]
        what = f"with {other[0]} {theirs.get(other[0])!r}, wanted {ours[other[0]]!r}" if other else "of other scans"
        raise InputError(f"{folder}: holds triplets made {what}; name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); name a folder you may write to") from error
    if any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty and holds no triplets; name a new folder")
    for part in ("cubes", "slices", "vectors"):
        (folder / part).mkdir()
    write_text(file, text=json.dumps(wanted, indent=2) + "\n")


def _cut(folder: Path, case: ScanCase, settings: TripletSettings) -> list[ScanCase]:
    """Cut a scan unless that was done -> itself, or its crops, each as a scan of its own."""
    own = [case]
    if settings.spacing_mm is not None:
        own = [replace(case, name=f"{case.name}-c{number}") for number in range(settings.crops)]
    if all((folder / "slices" / f"{one.name}.json").is_file() for one in own):
        return own
    volume = read_volume(case.image, fill=case.fill)
    labels = None
    if settings.text == "labels":
        if case.mask is None:
            raise VolumeError(
                f"{case.image.name}: has no mask, and text: labels reads one; add it, or set another text"
            )
        labels = read_labels(case.mask, volume)
    if settings.spacing_mm is None:
        _write_cut(folder, case.name, cut_scan(volume, settings, labels_ZYX=labels), settings)
        return own
    for one, found in zip(own, cut_crops(volume, settings, name=case.name, labels_ZYX=labels), strict=True):
        _write_cut(folder, one.name, found, settings)
    return own


def _write_cut(folder: Path, name: str, found: ScanSlices, settings: TripletSettings) -> None:
    save_array(folder / "cubes" / f"{name}.npy", found.cube)
    save_array(folder / "slices" / f"{name}.npy", found.pictures)
    facts: dict[str, Any] = {
        "modality": found.modality,
        "places": [place.to_dict() for place in found.places],
        "structures": [[asdict(structure) for structure in shown] for shown in found.structures],
    }
    if settings.dense_components:
        facts["shapes"] = found.shapes
    write_text(folder / "slices" / f"{name}.json", text=json.dumps(facts) + "\n")


def _find_texts(
    folder: Path, cases: list[ScanCase], settings: TripletSettings, *, device: str | torch.device, progress: Progress
) -> dict[str, list[str]]:
    """The texts of every scan's slices, in order; empty lists without text."""
    if settings.text == "none":
        return {case.name: [] for case in cases}
    facts = {case.name: read_cut(folder, case.name) for case in cases}
    places = {name: [SlicePlace(**place) for place in found["places"]] for name, found in facts.items()}
    if settings.text == "model":
        assert settings.captioner is not None

        def pictures_and_prompts() -> Iterator[tuple[NDArray[np.uint8], str]]:
            for name, found in facts.items():
                for picture, place in zip(_pictures(folder, name), places[name], strict=True):
                    modality = "medical" if found["modality"] == "unknown" else found["modality"]
                    fields = {"plane": place.plane, "modality": modality, "region": settings.region}
                    yield picture, settings.prompt.format(**fields)

        captions = iter(
            descriptions.caption_all(
                pictures_and_prompts(),
                captioner=settings.captioner,
                max_new_tokens=settings.max_new_tokens,
                batch_size=settings.caption_batch,
                cache=descriptions.CaptionCache(folder / "captions.jsonl"),
                device=device,
                total=sum(map(len, places.values())),
                progress=lambda done, total: progress("asking the captioner", done, total),
            )
        )
        return {name: [next(captions) for _ in shown] for name, shown in places.items()}
    texts: dict[str, list[str]] = {}
    for name, found in facts.items():
        texts[name] = []
        for place, shown in zip(places[name], found["structures"], strict=True):
            text = descriptions.describe_place(place, modality=found["modality"], region=settings.region)
            if settings.text == "labels":
                structures = [Structure(**structure) for structure in shown]
                text += " " + descriptions.describe_structures(place, structures, settings.label_names)
            texts[name].append(text)
    return texts


def _make_vectors(
    folder: Path,
    cases: list[ScanCase],
    texts: dict[str, list[str]],
    settings: TripletSettings,
    *,
    device: str | torch.device,
    progress: Progress,
) -> None:
    waiting = [case for case in cases if not (folder / "vectors" / f"{case.name}.safetensors").is_file()]
    if not waiting:
        return
    name = settings.image_encoder
    if settings.self_training is not None:
        training = [folder / "slices" / f"{case.name}.npy" for case in cases if case.split == "train"]
        learn_teacher(training, folder / "teacher", settings.self_training, device=device, progress=progress)
        name = str(folder / "teacher")
    see = teachers.open_image_encoder(name, side=settings.image_encoder_size, device=device, bf16=settings.encode_bf16)
    read = None
    if settings.text != "none":
        read = teachers.open_text_encoder(settings.text_encoder, image_encoder=settings.image_encoder, device=device)
    look = _looking(folder, cases, settings, see, progress) if settings.dense_components else None
    for number, case in enumerate(waiting):
        progress("encoding slices", number, len(waiting))
        pictures, sentences, step = _pictures(folder, case.name), texts[case.name], settings.encode_batch
        parts = [pictures[first : first + step] for first in range(0, len(pictures), step)]
        images = look(case.name, pictures) if look is not None else np.concatenate([see.encode(p) for p in parts])
        vectors = {"image": images}
        if read is not None:
            firsts = range(0, len(sentences), step)
            vectors["text"] = np.concatenate([read.encode(sentences[first : first + step]) for first in firsts])
        with replacing(folder / "vectors" / f"{case.name}.safetensors") as temporary:
            save_file(vectors, temporary)


def _looking(
    folder: Path,
    cases: list[ScanCase],
    settings: TripletSettings,
    see: teachers.ImageEncoder | teachers.CoarsePixels,
    progress: Progress,
) -> Callable[[str, NDArray[np.uint8]], NDArray[np.float32]]:
    """A function that keeps the patch tokens of a scan's pictures, and gives the pictures' vectors."""
    step, place, basis_file = settings.encode_batch, folder / "tokens", folder / "tokens" / "basis.safetensors"
    place.mkdir(exist_ok=True)

    def encode(pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        found = [see.encode_densely(pictures[first : first + step]) for first in range(0, len(pictures), step)]
        return np.concatenate([one for one, _ in found]), np.concatenate([one for _, one in found])

    def shown(case: ScanCase) -> NDArray[np.float32]:
        pictures = _pictures(folder, case.name)
        tokens = encode(pictures)[1]
        return tokens[shown_patches(pictures, tokens.shape[1])]

    if not basis_file.is_file():
        training = [case for case in cases if case.split == "train"] or cases
        chosen = training[:: -(-len(training) // FITTED_ON)]
        parts = []
        for number, case in enumerate(chosen):
            progress("fitting the tokens' basis", number, len(chosen))
            parts.append(shown(case))
        fit_basis(parts, settings.dense_components).save(basis_file)
    basis = read_basis(basis_file)

    def keep(name: str, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        vectors, tokens = encode(pictures)
        with replacing(place / f"{name}.npy") as temporary:
            np.save(temporary, packed(tokens, pictures, basis), allow_pickle=False)
        return vectors

    return keep


def _write_lists(folder: Path, cases: list[ScanCase], texts: dict[str, list[str]], settings: TripletSettings) -> int:
    source = text_source(settings)
    lines, scans = [], []
    for case in cases:
        found = read_cut(folder, case.name)
        named: Sequence[str | None] = texts[case.name] or [None] * len(found["places"])
        for place, text in zip(found["places"], named, strict=True):
            lines.append({"scan": case.name, **place, "text": text, "text_source": source})
        about = {"name": case.name, "image": case.image.name, "patient": case.patient, "split": case.split}
        scans.append({**about, "modality": found["modality"], "num_slices": len(found["places"])})
    for name, rows in (("triplets.jsonl", lines), ("scans.jsonl", scans)):
        write_text(folder / name, text="".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return len(lines)


def _pictures(folder: Path, name: str) -> NDArray[np.uint8]:
    pictures: NDArray[np.uint8] = np.load(folder / "slices" / f"{name}.npy", allow_pickle=False)
    return pictures
