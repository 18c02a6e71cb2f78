"""Starts: trained parts keep their weights in the model put together, every shipped recipe builds."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig, SiglipConfig, SiglipModel

from slicesight.errors import InputError
from slicesight.models.checksums import write_checksums
from slicesight.models.encoders3d.configuration import CNN3DConfig, M3DViTConfig
from slicesight.models.importers.m3d import M3DClip, M3DClipConfig
from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration
from slicesight.models.shipped import find_folder, shipped_models
from slicesight.training.recipe import Parts, Recipe, read_recipe
from slicesight.training.run import run_recipe, set_trainable
from slicesight.training.stage import add_adapters
from slicesight.training.start import build_on_meta, load_start, put_together, train_tokenizer
from slicesight.volumes.grid import GridSpec

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(path for path in FOLDER.glob("*.yaml") if "\nverb: " not in path.read_text("utf-8"))
GRID = GridSpec(num_slices=8, height=32, width=32)
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TINY = """
name: tiny
output_dir: out
data: {folder: phantoms, count: 4}
grid: {num_slices: 8, height: 32, width: 32}
model: {}
stages: []
"""


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Parts:
    """A language model, a whole SigLIP and a 3D encoder of a few thousand weights each, as folders."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(1)
    tokenizer = train_tokenizer(["Which plane do the slices show? Answer: axial"] * 5, vocab_size=300)
    tokenizer.save_pretrained(folder / "llm")
    words = {**VISION, "vocab_size": len(tokenizer), "num_key_value_heads": 2, "tie_word_embeddings": True}
    AutoModelForCausalLM.from_config(LlamaConfig(**words)).save_pretrained(folder / "llm")
    vision = {**VISION, "image_size": 32, "patch_size": 8}
    SiglipModel(SiglipConfig(text_config={**VISION, "vocab_size": 30}, vision_config=vision)).save_pretrained(
        folder / "siglip"
    )
    AutoModel.from_config(CNN3DConfig(image_size=[8, 32, 32], widths=[8, 8], blocks=[0, 0],
                                      strides=[[2, 4, 4], [2, 2, 2]])).save_pretrained(folder / "cnn3d")  # fmt: skip
    return Parts(language_model=str(folder / "llm"), vision2d=str(folder / "siglip"), vision3d=str(folder / "cnn3d"))


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return read_recipe(path)


def test_a_model_of_trained_parts_has_their_weights_and_fresh_connectors(
    recipe: Recipe, parts: Parts, tmp_path
) -> None:
    torch.manual_seed(0)
    model, processor = put_together(recipe, parts, GRID)
    language = AutoModelForCausalLM.from_pretrained(parts.language_model).state_dict()
    siglip = AutoModel.from_pretrained(parts.vision2d).vision_model.state_dict()
    cnn = AutoModel.from_pretrained(parts.vision3d).state_dict()
    assert all(torch.equal(model.language_model.state_dict()[name], weight) for name, weight in language.items())
    found = {name.removeprefix("vision_model."): weight for name, weight in model.vision2d.encoder.state_dict().items()}
    assert found
    assert all(torch.equal(weight, siglip[name]) for name, weight in found.items())
    assert all(torch.equal(model.vision3d.encoder.state_dict()[name], weight) for name, weight in cnn.items())
    whole = Med2E3ForConditionalGeneration(model.config)
    for name in ("projector_2d", "projector_3d"):
        for layer in (0, 2):
            found, usual = (getattr(each, name)[layer] for each in (model, whole))
            assert 0.6 < found.weight.std() / usual.weight.std() < 1.6, "connectors begin as in a model built whole"
            assert not found.bias.any()
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    batch = processor(["Which plane?"], answers=["axial"], volumes=torch.rand(1, 1, 8, 32, 32))
    loss = model(**batch).loss
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(Med2E3ForConditionalGeneration.from_pretrained(tmp_path / "saved")(**batch).loss, loss)


def test_parts_that_are_left_out_begin_at_random_by_the_seed(recipe: Recipe, parts: Parts) -> None:
    words = {"model_type": "cnn3d", "widths": [8, 16], "blocks": [0, 0], "strides": [[2, 4, 4], [2, 2, 2]]}
    recipe = replace(recipe, model={"vision3d_config": words})
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        model, _ = put_together(recipe, replace(parts, vision3d=None), GRID)
        weights.append(torch.cat([p.flatten() for p in model.vision3d.parameters()]).detach())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.isfinite(weights[0]).all()


def test_m3d_clip_gives_its_3d_encoder_read_before_the_final_norm(recipe: Recipe, parts: Parts, tmp_path) -> None:
    vit = M3DViTConfig(**VISION, image_size=[8, 32, 32], patch_size=[2, 8, 8], pool_size=[1, 1, 1], final_norm=True)
    bert = {"model_type": "bert", **VISION, "vocab_size": 50}
    M3DClip(M3DClipConfig(vision3d_config=vit.to_dict(), text_encoder_config=bert)).save_pretrained(tmp_path / "clip")
    model, _ = put_together(recipe, replace(parts, vision3d=str(tmp_path / "clip")), GRID)
    assert model.vision3d.encoder.norm is None
    assert model.config.vision3d_config.pooled_grid == (2, 2, 2), "pooled as Med-2E3 does, not as it was saved"
    volumes = torch.rand(1, 1, 8, 32, 32)
    original = AutoModel.from_pretrained(tmp_path / "clip").volume_encoder
    original.norm = None
    assert torch.equal(model.vision3d.encoder(volumes), original(volumes))


def test_an_encoder_that_insight_pretrained_is_a_part(recipe: Recipe, parts: Parts, tmp_path) -> None:
    pytest.importorskip("monai")
    from slicesight.models.encoders3d.backbones import build_backbone, save_backbone

    words = {"widths": [8, 8], "blocks": [0, 0], "strides": [[2, 4, 4], [2, 2, 2]], "feature_size": 4}
    backbone = build_backbone("cnn3d", image_size=(8, 32, 32), **words)
    save_backbone(backbone, tmp_path / "insight")
    trained = replace(parts, vision3d=str(tmp_path / "insight"))
    model, _ = put_together(recipe, trained, GRID)
    taught = backbone.vision3d().state_dict()
    assert all(torch.equal(model.vision3d.encoder.state_dict()[name], weight) for name, weight in taught.items())
    with pytest.raises(InputError, match=r"insight reads volumes of .8, 32, 32., .* with --size 8,32,32"):
        put_together(recipe, trained, GridSpec(num_slices=16, height=32, width=32))


@pytest.mark.parametrize("part", ["language_model", "vision2d", "vision3d"])
def test_a_part_that_is_not_there_is_one_line_that_names_it(recipe: Recipe, parts: Parts, part: str) -> None:
    with pytest.raises(InputError, match="parts: /no/where cannot be") as error:
        put_together(recipe, replace(parts, **{part: "/no/where"}), GRID)
    assert "\n" not in str(error.value)


def test_an_init_that_cannot_be_started_from_is_one_line(recipe: Recipe, parts: Parts, tmp_path) -> None:
    shipped = r"\(anatomy-small, phantom-tiny\)"
    with pytest.raises(InputError, match=rf"is no folder with a model; name one, or a shipped model {shipped}"):
        load_start(replace(recipe, init=str(tmp_path)), GRID)
    with pytest.raises(InputError, match="llm holds a llama, expected a whole Med-2E3; name it under parts"):
        load_start(replace(recipe, init=parts.language_model), GRID)
    with pytest.raises(InputError, match=r"reads scans of 32×96×96, but .* grid of 8×32×32; .* --size 32,96,96 into"):
        load_start(replace(recipe, init="phantom-tiny"), GRID)


def test_a_run_that_is_refused_leaves_nothing_and_what_it_was_to_replace(recipe: Recipe, tmp_path) -> None:
    data = replace(recipe.data, folder=str(tmp_path / "phantoms"))
    refused = replace(recipe, init="phantom-tiny", data=data, output_dir=str(tmp_path / "run"))
    with pytest.raises(InputError, match="reads scans of 32×96×96"):
        run_recipe(refused)
    assert not (tmp_path / "run").exists()
    own = ("recipe.yaml", "log.jsonl", "model/config.json", "checkpoints/00-align-000200/complete.json")
    for file in (tmp_path / "run" / name for name in own):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("its own")
    with pytest.raises(InputError, match="reads scans of 32×96×96"):
        run_recipe(refused, overwrite=True)
    left = {str(file.relative_to(tmp_path / "run")): file.read_text() for file in (tmp_path / "run").rglob("*.*")}
    assert left == dict.fromkeys(own, "its own")


@pytest.mark.parametrize(
    ("text", "words"), [('{"model_type": "med2', "not valid JSON"), ("[1]", "holds a list; expected")]
)
def test_an_init_with_a_damaged_config_is_one_line(recipe: Recipe, tmp_path, text: str, words: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=f"config.json: {words}"):
        load_start(replace(recipe, init=str(tmp_path)), GRID)


@pytest.mark.parametrize("name", ["tokenizer.json", "processor_config.json", "model.safetensors"])
@pytest.mark.parametrize("content", ["", "[" * 5000])
def test_an_init_with_any_other_damaged_file_is_one_line(recipe: Recipe, tmp_path, name: str, content: str) -> None:
    folder = shutil.copytree(find_folder("phantom-tiny"), tmp_path / "model")
    (folder / name).write_text(content)
    with pytest.raises(InputError, match=name) as error:
        load_start(replace(recipe, init=str(folder)), GridSpec(num_slices=32, height=96, width=96))
    assert "\n" not in str(error.value)


def test_a_start_from_a_shipped_model_reads_scans_as_they_are_trained_on(recipe: Recipe, parts: Parts) -> None:
    grid = GridSpec(num_slices=32, height=96, width=96, window="lung", crop_foreground=False)
    model, processor = load_start(replace(recipe, init="phantom-tiny"), grid)
    shipped = Med2E3ForConditionalGeneration.from_pretrained(find_folder("phantom-tiny"), dtype=torch.float32)
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in shipped.state_dict().items())
    assert GridSpec.from_dict(processor.grid) == grid, "as prepared, not as phantom-tiny was trained"


def test_an_init_that_lacks_weights_of_its_own_is_refused_whatever_the_recipe_adds(recipe: Recipe, tmp_path) -> None:
    folder = shutil.copytree(find_folder("phantom-tiny"), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    gone = next(name for name in sorted(weights) if "mlp" in name)
    del weights[gone]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_checksums(folder)
    for added in ({}, {"planes": ["axial", "coronal", "sagittal"]}):
        with pytest.raises(InputError, match=f"the weights lack {gone!r} and 0 more"):
            load_start(replace(recipe, init=str(folder), model=added), GridSpec(num_slices=32, height=96, width=96))


def test_what_a_recipe_adds_to_its_init_and_what_it_leaves_is_named(recipe: Recipe, caplog) -> None:
    grid = GridSpec(num_slices=32, height=96, width=96)
    load_start(replace(recipe, init="phantom-tiny"), grid)
    assert caplog.messages == []
    load_start(replace(recipe, init="phantom-tiny", model={"planes": ["axial", "coronal", "sagittal"]}), grid)
    assert [
        line
        for line in caplog.messages
        if "no plane_embedding.plane, plane_embedding.position, which the recipe" in line
    ]
    caplog.clear()
    load_start(replace(recipe, init="phantom-tiny", model={"fusion": "3d"}), grid)
    assert [line for line in caplog.messages if "vision2d.encoder" in line and "is not used" in line]


def words_of_init(recipe: Recipe) -> Recipe:
    """The recipe with the words of the shipped recipe that makes its `init`, as its model folder will have them."""
    if recipe.init is None:
        return recipe
    init = f"runs/{recipe.init}/model" if recipe.init in shipped_models() else recipe.init
    (before,) = [found for found in map(read_recipe, RECIPES) if init.startswith(found.output_dir + "/")]
    before = words_of_init(before)
    return replace(recipe, init=None, model={**before.model, **recipe.model}, grid=recipe.grid or before.grid)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_builds_with_its_stages_on_meta(path: Path) -> None:
    recipe = words_of_init(read_recipe(path))
    model = build_on_meta(recipe)
    for stage in recipe.stages:
        set_trainable(model, stage.trainable, frozen_dtype=getattr(torch, recipe.frozen_dtype))
        adapters = add_adapters(model, stage.lora)
        learning = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
        wanted = {*stage.trainable, *(stage.lora.parts if stage.lora else ())}
        assert learning == {part for part in wanted if any(True for _ in model.parts[part].parameters())}
        assert len(adapters) == (len(stage.lora.parts) if stage.lora else 0)


def test_the_papers_stages_are_as_the_paper_has_them() -> None:
    first, second = (read_recipe(FOLDER / f"med2e3-stage{number}.yaml") for number in (1, 2))
    align, instruct = first.stages[0], second.stages[0]
    assert (align.learning_rate, align.epochs, align.volumes_per_step, align.tasks) == (1e-4, 3, 64, ("report",))
    assert (instruct.learning_rate, instruct.epochs, instruct.volumes_per_step * 11) == (5e-5, 4, 132)
    assert "vision3d" not in instruct.trainable
    for recipe, stage in ((first, align), (second, instruct)):
        assert (stage.warmup_share, stage.weight_decay, recipe.max_length, recipe.bf16) == (0.03, 0.0, 768, True)
    subset = read_recipe(FOLDER / "med2e3-ablation.yaml").stages[0].subset
    assert subset == {"report": 50_000, "open": 25_000, "closed": 25_000}
