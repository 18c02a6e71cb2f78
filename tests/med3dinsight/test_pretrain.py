"""Pre-training: pairs are learnt, every control removes what it says, and a stopped run ends like a whole one."""

import json

import pytest
import torch

from slicesight.errors import InputError, ModelError
from slicesight.models.encoders3d.backbone import BACKBONES
from slicesight.models.encoders3d.backbones import load_backbone
from slicesight.models.med3dinsight import PretrainingModel
from slicesight.settings import build_settings
from slicesight.training.pretraining import build_pretraining, run_pretraining
from slicesight.training.pretraining_recipe import PretrainRecipe, TripletSettings
from slicesight.training.triplets.dataset import PretrainSteps, open_triplets
from slicesight.training.triplets.making import make_triplets

SEGRESNET = {"name": "segresnet", "settings": {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}}
PSAT = {"num_queries": 4, "num_layers": 1, "num_heads": 2, "dropout": 0.0}
TINY = {
    "swin_unetr": (64, {"feature_size": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 2}),
    "unetr": (
        32,
        {"feature_size": 8, "hidden_size": 24, "mlp_dim": 32, "num_heads": 2},
    ),
    "segresnet": (16, SEGRESNET["settings"]),
    "dynunet": (16, {"strides": [1, 2, 2], "filters": [8, 12, 16]}),
    "m3d_vit": (
        16,
        {
            "patch_size": [4, 8, 8],
            "hidden_size": 16,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "feature_size": 8,
        },
    ),
    "cnn3d": (16, {"widths": [8, 16], "blocks": [0, 1], "strides": [[2, 2, 2], [2, 2, 2]], "num_groups": 4}),
}


@pytest.fixture(scope="module")
def folders(balls, tmp_path_factory):
    """Triplets of several cube sizes, for networks that halve up to five times."""
    place = tmp_path_factory.mktemp("triplets")
    for side in (16, 32, 64):
        settings = TripletSettings(
            image_encoder="pixels",
            text_encoder="words",
            text="labels",
            size=(side, min(side, 32), min(side, 32)),
            slices_per_plane=8,
            picture_size=40,
        )
        make_triplets(balls, place / str(side), settings)
    return place


def make_recipe(folders, output_dir="out", *, side=16, **changes) -> PretrainRecipe:
    content = {
        "name": "tiny",
        "output_dir": str(output_dir),
        "data": str(folders / str(side)),
        "backbone": SEGRESNET,
        "psat": PSAT,
        "transport_iterations": 10,
        **changes,
        "training": {
            "steps": 4,
            "batch_size": 8,
            "learning_rate": 3e-3,
            "optimizer": "adam",
            "log_every": 2,
            **changes.get("training", {}),
        },
    }
    return build_settings(PretrainRecipe, content, where="recipe")


def build(recipe, triplets, shares_space=False) -> PretrainingModel:
    return build_pretraining(recipe, image_size=triplets.size, sizes=triplets.sizes, shares_space=shares_space)


def make_model(recipe) -> tuple[PretrainingModel, PretrainSteps]:
    triplets = open_triplets(recipe.data)
    torch.manual_seed(recipe.seed)
    return build(recipe, triplets), PretrainSteps(triplets.of_split("train"), recipe)


def first_batch(steps, size=8):
    items = [steps[number] for number in range(size)]
    return {key: torch.stack([item[key] for item in items]) for key in items[0]}


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_pretrains_and_travels_on(name, folders, tmp_path) -> None:
    side, settings = TINY[name]
    recipe = make_recipe(
        folders,
        tmp_path / name,
        side=side,
        backbone={"name": name, "settings": settings},
        reconstruction_weight=0 if side == 64 else 1,  # its decoder would take half of these tests' time
        training={"steps": 1},
    )
    run_pretraining(recipe)
    model = PretrainingModel.from_pretrained(tmp_path / name)
    backbone = load_backbone(tmp_path / name)
    assert backbone.spec.name == name
    assert backbone.spec.image_size[0] == side
    for key, weight in backbone.state_dict().items():
        assert torch.equal(weight, model.backbone.state_dict()[key])


def test_every_part_of_the_model_gets_a_gradient(folders) -> None:
    for variant in ("released", "corrected"):
        model, steps = make_model(make_recipe(folders, variant=variant))
        loss, facts = model(first_batch(steps))
        loss.backward()
        silent = [name for name, part in model.named_parameters() if part.grad is None or not part.grad.any()]
        assert not [name for name in silent if not name.startswith("psat.layers.0.self_attn.in_proj")], silent
        assert set(facts) == {"image", "image_hits", "text", "text_hits", "reconstruction"}


def test_the_loss_is_the_weighted_sum_of_its_parts(folders) -> None:
    recipe = make_recipe(folders, image_weight=2.0, text_weight=0.5, reconstruction_weight=3.0)
    model, steps = make_model(recipe)
    loss, facts = model(first_batch(steps))
    wanted = 2.0 * facts["image"] + 0.5 * facts["text"] + 3.0 * facts["reconstruction"]
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("alignment", ["transport", "contrastive"])
def test_pairs_are_learnt(folders, tmp_path, alignment) -> None:
    recipe = make_recipe(
        folders,
        tmp_path / "run",
        alignment=alignment,
        text_weight=0,
        reconstruction_weight=0,
        mask_share=0,
        transport_iterations=30,
        training={"steps": 30, "log_every": 5},
    )
    run_pretraining(recipe)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.3
    assert lines[-1]["image_hits"] > 2 * lines[0]["image_hits"]


def test_reconstruction_alone_has_no_psat_and_reads_no_slices(folders, tmp_path) -> None:
    recipe = make_recipe(folders, tmp_path / "run", image_weight=0, text_weight=0, training={"batch_size": 2})
    run_pretraining(recipe)
    model = PretrainingModel.from_pretrained(tmp_path / "run")
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"backbone", "head"}
    with pytest.raises(ModelError, match="by reconstruction alone"):
        model.read(torch.zeros(1, 1, 16, 16, 16), torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1).long())


def volumes_seen(folders, **changes):
    """What the backbone encodes in one step, and the step's batch."""
    model, steps = make_model(make_recipe(folders, **changes))
    batch, seen, encode = first_batch(steps), [], model.backbone.encode
    model.backbone.encode = lambda volumes: seen.append(volumes) or encode(volumes)
    model(batch)
    return seen, batch


def test_slices_are_read_from_the_whole_volume_and_hidden_cells_are_black_where_it_is_reconstructed(folders) -> None:
    (whole, masked), batch = volumes_seen(folders)
    assert torch.equal(whole, batch["volumes"])
    assert not masked[batch["masked"]].any()
    assert torch.equal(masked[~batch["masked"]], batch["volumes"][~batch["masked"]])


def test_no_volume_is_encoded_that_no_loss_needs(folders) -> None:
    for changes, number in (
        ({"variant": "released"}, 1),
        ({"reconstruction_weight": 0}, 1),
        ({"image_weight": 0, "text_weight": 0}, 1),
    ):
        seen, batch = volumes_seen(folders, **changes)
        assert len(seen) == number
        if "image_weight" in changes:
            assert not seen[0][batch["masked"]].any()
        else:
            assert torch.equal(seen[0], batch["volumes"])
    assert "masked" not in volumes_seen(folders, variant="released")[1]


def test_one_space_gives_one_output_for_both_targets(folders) -> None:
    triplets = open_triplets(folders / "16")
    recipe = make_recipe(folders)
    shared = build(recipe, triplets, shares_space=True)
    assert list(shared.psat.outputs) == ["shared"]
    steps = PretrainSteps(triplets.of_split("train"), recipe)
    batch = first_batch(steps)
    found = shared.eval().read(batch["volumes"], batch["planes"], batch["bins"])
    assert torch.equal(found["image"], found["text"])
    alone = build(make_recipe(folders, text_weight=0), triplets, shares_space=True)
    assert list(alone.psat.outputs) == ["image"]


def test_without_plane_slice_embeddings_all_slices_of_a_volume_read_alike(folders) -> None:
    model, steps = make_model(make_recipe(folders, psat={**PSAT, "plane_slice": False}, slices_per_volume=3))
    batch = first_batch(steps)
    found = model.eval().read(batch["volumes"], batch["planes"], batch["bins"])["image"]
    assert torch.allclose(found[:, 0], found[:, 2], atol=1e-6)
    assert not any("plane_slice" in name for name, _ in model.named_parameters())


def test_the_queue_adds_partners_and_no_pairs(folders) -> None:
    model, steps = make_model(make_recipe(folders, queue=16, alignment="contrastive"))
    batch = first_batch(steps)
    torch.manual_seed(5)
    first = model(batch)[1]["image"]
    assert int(model.queue.held) == 8
    torch.manual_seed(5)
    second = model(batch)[1]["image"]
    assert second > first  # the same pairs stand in the queue as partners to be mistaken for


def test_a_stopped_run_resumes_to_the_same_weights(folders, tmp_path, monkeypatch) -> None:
    settings = {"queue": 8, "psat": {**PSAT, "dropout": 0.2}}
    training = {"steps": 4, "checkpoint_every": 2, "log_every": 2}
    whole = run_pretraining(make_recipe(folders, tmp_path / "whole", training=training, **settings))
    done = []

    def progress(doing, number, total):
        done.append(number)
        if number == 3:
            raise KeyboardInterrupt

    recipe = make_recipe(folders, tmp_path / "stopped", training=training, **settings)
    with pytest.raises(KeyboardInterrupt):
        run_pretraining(recipe, progress=progress)
    with pytest.raises(InputError, match="add --resume"):
        run_pretraining(recipe)
    done.clear()
    resumed = run_pretraining(recipe, resume=True, progress=lambda doing, number, total: done.append(number))
    assert done == [3, 4]
    before, after = (PretrainingModel.from_pretrained(folder).state_dict() for folder in (whole, resumed))
    assert all(torch.equal(before[name], after[name]) for name in before)
    logs = [
        [{k: v for k, v in json.loads(line).items() if k not in ("seconds", "minutes_left")} for line in text]
        for text in ((folder / "log.jsonl").read_text().splitlines() for folder in (whole, resumed))
    ]
    assert logs[0] == logs[1]
    assert not (resumed / "checkpoints").exists()


def test_a_gradient_that_is_no_number_stops_the_run_instead_of_making_steps_of_nothing(
    folders, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda parameters, most: torch.tensor(float("inf")))
    with pytest.raises(
        InputError, match=r"gradient's norm is inf at step 1; lower training\.learning_rate, or set bf16"
    ):
        run_pretraining(make_recipe(folders, tmp_path / "run", image_weight=0, text_weight=0))


def test_the_folder_says_what_made_it(folders, tmp_path) -> None:
    folder = run_pretraining(make_recipe(folders, tmp_path / "run"))
    config = json.loads((folder / "config.json").read_text())
    assert (config["kind"], config["text_source"], config["num_scans"]) == ("pretraining", "annotation-derived", 6)
    facts = json.loads((folder / "recipe.json").read_text())
    assert facts["recipe"]["seed"] == 0
    assert {"torch", "numpy"} <= set(facts["libraries"])
    assert {"slicesight", "python", "git"} <= set(facts)
    assert (folder / "loss.png").stat().st_size > 0
    assert run_pretraining(make_recipe(folders, tmp_path / "run")) == folder  # nothing to do
    with pytest.raises(InputError, match="finished run with other settings"):
        run_pretraining(make_recipe(folders, tmp_path / "run", seed=1))


def test_what_the_triplets_lack_is_one_line(folders, balls, tmp_path) -> None:
    settings = TripletSettings(image_encoder="pixels", size=(16, 16, 16), slices_per_plane=8, picture_size=40)
    make_triplets(balls, tmp_path / "none" / "16", settings)
    with pytest.raises(InputError, match=r"text_weight is 1\.0, and the triplets hold no texts; set text_weight: 0"):
        run_pretraining(make_recipe(tmp_path / "none", tmp_path / "run"))
    with pytest.raises(InputError, match="does not say how to make them"):
        run_pretraining(build_settings(PretrainRecipe, {"name": "x", "output_dir": "x", "data": str(balls)}, where="x"))
    scan = open_triplets(folders / "16").scans[0]
    scan.index[:], scan.count[:] = 299, 300
    steps = PretrainSteps((scan,), make_recipe(folders, variant="released"))
    with pytest.raises(InputError, match="released variant's table ends"):
        steps[0]
