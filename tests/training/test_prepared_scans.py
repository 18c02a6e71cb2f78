"""Prepared scans as training data: the split's cases, the slices its texts point at, and what cannot be trained on."""

from types import SimpleNamespace

import numpy as np
import pytest

from slicesight.data.dataset import PreparedDataset, open_dataset, to_float
from slicesight.data.manifest import Case, Conversation, write_manifest
from slicesight.errors import InputError
from slicesight.training.recipe import read_recipe
from slicesight.training.run import run_recipe
from slicesight.volumes.grid import GridSpec

pytest.importorskip("pyarrow")

SPEC = GridSpec(num_slices=8, height=32, width=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, phantom):
    """Three small prepared scans: two of the split train, one of test."""
    from slicesight.data.preprocess import prepare_volumes
    from slicesight.io.writers import write_nifti

    place = tmp_path_factory.mktemp("prepared")
    write_nifti(phantom.volume, place / "a.nii.gz")
    num_source = phantom.volume.num_source_slices
    asked = (
        Conversation(task="open", topic="plane", question="Which plane?", answer="axial"),
        Conversation(task="open", topic="organ", question="Where?", answer="liver", source_slices=(0, 1)),
        Conversation(
            task="open", topic="phase", question="Which phase?", answer="none", source_slices=tuple(range(num_source))
        ),
    )
    cases = [
        Case(id=name, volume="a.nii.gz", conversations=asked, split=split)
        for name, split in (("a", "train"), ("b", "train"), ("c", "test"))
    ]
    write_manifest(cases, place / "manifest.jsonl")
    prepare_volumes(place / "manifest.jsonl", place, spec=SPEC)
    return place


def test_the_cases_of_the_split_are_there_with_their_voxels_texts_and_plane(folder, phantom) -> None:
    scans = open_dataset(f"prepared:{folder}", split="train")
    assert [case.id for case in scans.cases] == ["a", "b"]
    case = scans.cases[0]
    voxels = scans.voxels(case)
    assert voxels.dtype == np.float32
    assert voxels.shape == (8, 32, 32)
    assert voxels.max() == pytest.approx(1.0, abs=0.02)
    assert scans.conversations(case, 0) == scans.conversations(case, 5)
    assert scans.plane(case) == phantom.truth.plane
    assert len(open_dataset(f"prepared:{folder}", grid=SPEC)) == 3


def test_true_slices_are_the_grid_slices_of_the_files_slices_unless_all_show_it(folder) -> None:
    scans = open_dataset(f"prepared:{folder}", split="train")
    case = scans.cases[0]
    nowhere, first, everywhere = (scans.true_slices(case, asked) for asked in case.conversations)
    assert not nowhere.any()
    assert not everywhere.any()
    assert first.any()
    sources = scans.prepared.source_slices("a")
    assert all((0 in source or 1 in source) == shown for source, shown in zip(sources, first, strict=True))


def test_what_makes_other_voxels_makes_another_fingerprint_or_preparation(folder) -> None:
    scans = open_dataset(f"prepared:{folder}")
    one, same, *_ = scans.cases
    assert scans.fingerprint(one) == scans.fingerprint(same), "the same file, whatever the case is called"
    other = SimpleNamespace(spec=GridSpec(num_slices=9), dtype="uint8", cases=scans.cases, folder=folder)
    assert PreparedDataset(other).preparation != scans.preparation


def test_stored_values_become_zero_to_one() -> None:
    assert to_float(np.array([0, 51, 255], dtype=np.uint8)).tolist() == pytest.approx([0, 0.2, 1])
    assert to_float(np.array([0, 0.5, 1], dtype=np.float16)).tolist() == [0, 0.5, 1]


def test_what_cannot_be_trained_on_is_one_line(folder, tmp_path) -> None:
    for split, grid, expected in (
        ("val", None, "no case is in the split 'val'; the splits there are test, train"),
        ("train", GridSpec(), "the recipe's grid is"),
    ):
        with pytest.raises(InputError, match=expected):
            open_dataset(f"prepared:{folder}", split=split, grid=grid)
    three = SimpleNamespace(spec=GridSpec(window="lung+bone+brain"), folder=folder, cases=[])
    with pytest.raises(InputError, match="a model reads one channel"):
        PreparedDataset(three)
    with pytest.raises(InputError, match="slicesight prepare"):
        open_dataset(f"prepared:{tmp_path}")


def test_a_recipe_trains_on_prepared_scans_from_nothing(folder, tiny_recipe, tmp_path) -> None:
    changes = (
        f"output_dir={tmp_path / 'run'}",
        f"data={{prepared: {folder}}}",
        "grid=null",
        "save_every=null",
        "stages=[{name: s, trainable: [projector_2d], epochs: 2, learning_rate: 1e-3, volumes_per_step: 1}]",
        *(f"pretrain_{part}=null" for part in ("slices", "volumes", "language")),
    )
    model = run_recipe(read_recipe(tiny_recipe, changes))
    assert (model / "model.safetensors").is_file()
    assert '"num_slices": 8' in (model / "processor_config.json").read_text()
