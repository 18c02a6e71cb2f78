"""Batches: every volume once, prompts cut and counted, a step the same however it is cut, frozen encoders cheap."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from slicesight.errors import InputError
from slicesight.models.med2e3.loss import IGNORED
from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration
from slicesight.models.med2e3.processing import Med2E3Processor
from slicesight.planning.accounting import AllocationCounter
from slicesight.training import feature_cache
from slicesight.training.augmentation import Augmentation
from slicesight.training.collate import Collator, PromptWriter, StepParts, measure_visits
from slicesight.training.distributed import SINGLE_PROCESS
from slicesight.training.feature_cache import open_caches
from slicesight.training.recipe import Recipe, Stage
from slicesight.training.run import set_trainable
from slicesight.training.schedule import Schedule
from slicesight.training.stage import train_stage

TRAINED = ("projector_2d", "projector_3d", "language_model")


@pytest.fixture
def tiny(tiny_model_folder):
    """Model and processor, fresh each time."""
    model = Med2E3ForConditionalGeneration.from_pretrained(tiny_model_folder, dtype=torch.float32)
    return SimpleNamespace(model=model, processor=Med2E3Processor.from_pretrained(tiny_model_folder))


def make_stage(**words) -> Stage:
    return Stage(**{"name": "s", "trainable": TRAINED, "learning_rate": 1e-2, "volumes_per_step": 3, **words})


def make_recipe(folder, stage: Stage, **words) -> Recipe:
    settings = {"name": "r", "output_dir": str(folder), "model": {}, "stages": (stage,), "save_every": None}
    data = {"data": SimpleNamespace(), "log_every": 1}
    return Recipe(**{**settings, **data, **words})


def train(tiny, data, stage: Stage, folder, **words) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """Train one stage without a run around it -> its log lines and the weights afterwards."""
    lines: list[dict] = []
    folder.mkdir(exist_ok=True)
    run = SimpleNamespace(folder=folder)
    checkpoints = SimpleNamespace(
        run=run, start=None, save_every=None, name="s", model=tiny.model, process_group=SINGLE_PROCESS
    )
    set_trainable(tiny.model, stage.trainable)
    train_stage(
        tiny.model,
        tiny.processor,
        data,
        stage,
        make_recipe(folder, stage, **words),
        log=lines.append,
        seed=0,
        checkpoints=checkpoints,
    )
    return lines, {name: weight.clone() for name, weight in tiny.model.state_dict().items()}


def first_items(tiny, data, **words):
    stage = make_stage(steps=1, **words)
    writer = PromptWriter(processor=tiny.processor)
    return StepParts(data, Schedule(data, stage, seed=0), writer, seed=0)[0], writer


def test_every_volume_of_a_batch_is_there_once_behind_all_its_prompts(tiny, memory_data) -> None:
    items, writer = first_items(tiny, memory_data(3))
    batch = Collator(writer)([items])
    assert batch["volumes"].shape == (3, 1, 8, 32, 32)
    assert batch["volume_index"].flatten().tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert batch["true_slices"].shape == (9, 8)
    placeholders = (batch["input_ids"] == tiny.processor.placeholder_token_id).sum(dim=-1)
    assert set(placeholders.tolist()) == {tiny.processor.num_visual_tokens}


def test_a_blind_batch_holds_no_volume_and_reads_none(tiny, memory_data) -> None:
    data = memory_data(3)
    stage = make_stage(steps=1)
    writer = PromptWriter(processor=tiny.processor, see_volume=False)
    items = StepParts(data, Schedule(data, stage, seed=0), writer, seed=0)[0]
    batch = Collator(writer)([items])
    assert not {"volumes", "volume_index", "true_slices"} & set(batch)
    assert not (batch["input_ids"] == tiny.processor.placeholder_token_id).any()
    assert data.num_read == 0
    batch.pop("num_cut")
    assert torch.isfinite(tiny.model(**batch).loss)


def test_a_long_prompt_loses_the_tail_of_its_answer_and_is_counted(tiny, memory_data) -> None:
    data = memory_data(3)
    report = data.asked[2][0]
    writer = PromptWriter(processor=tiny.processor)
    whole = writer.write(report)
    short = replace(writer, max_length=len(whole.input_ids) - 4)
    prompt, was_cut = short.cut(whole)
    assert was_cut
    assert prompt.input_ids == whole.input_ids[:-4]
    assert prompt.input_ids.count(tiny.processor.placeholder_token_id) == tiny.processor.num_visual_tokens
    assert prompt.labels[-1] != IGNORED
    assert writer.cut(whole) == (whole, False)
    assert short.measure([report]) == [len(whole.input_ids) - 4], "a token budget counts what is left"
    items = StepParts(data, Schedule(data, make_stage(steps=1), seed=0), short, seed=0)[0]
    batch = Collator(short)([items])
    assert batch["num_cut"] == 1
    assert batch["input_ids"].shape[1] == short.max_length


def test_texts_that_do_not_change_are_measured_once_for_all_passes(tiny, memory_data, monkeypatch) -> None:
    data, calls = memory_data(3), []
    writer = PromptWriter(processor=tiny.processor)
    monkeypatch.setattr(PromptWriter, "measure", lambda self, asked: calls.append(1) or [60] * len(asked))
    stage = make_stage(epochs=4, volumes_per_step=None, tokens_per_step=400)
    for asks_anew, expected in ((False, 3), (True, 12)):
        calls.clear()
        data.asks_anew = asks_anew
        assert len(Schedule(data, stage, seed=0, measure=measure_visits(data, writer))) == 6
        assert len(calls) == expected


def test_cut_prompts_are_in_the_log(tiny, memory_data, tmp_path) -> None:
    data, writer = memory_data(3), PromptWriter(processor=tiny.processor)
    length = len(writer.write(data.asked[2][0]).input_ids) - 1
    lines, _ = train(tiny, data, make_stage(steps=2), tmp_path, max_length=length)
    assert [line["prompts_cut"] for line in lines] == [1, 1]


def test_a_processor_that_refuses_long_prompts_does_not_stop_training(tiny, memory_data, tmp_path) -> None:
    length = len(PromptWriter(processor=tiny.processor).write(memory_data(3).asked[2][0]).input_ids) - 1
    tiny.processor.max_length = length
    lines, _ = train(tiny, memory_data(3), make_stage(steps=1), tmp_path)
    assert lines[0]["prompts_cut"] == 1
    assert tiny.processor.max_length == length


@pytest.mark.parametrize("weights", [{}, {"score_weight": 0.7}, {"entropy_weight": 0.7}], ids=str)
def test_accumulated_parts_train_as_one_big_batch(tiny, tiny_model_folder, memory_data, tmp_path, weights) -> None:
    """Parts hold different numbers of tokens, prompts and questions with known slices: each counts by what it holds."""
    once = train(tiny, memory_data(5), make_stage(steps=3, **weights), tmp_path / "once")
    tiny.model = Med2E3ForConditionalGeneration.from_pretrained(tiny_model_folder, dtype=torch.float32)
    stage = make_stage(steps=3, **weights, accumulation=3)
    parts = train(tiny, memory_data(5), stage, tmp_path / "parts")
    assert [line["loss"] for line in parts[0]] == pytest.approx([line["loss"] for line in once[0]], rel=1e-5)
    for name, weight in once[1].items():
        torch.testing.assert_close(parts[1][name], weight, rtol=2e-3, atol=2e-5)


def test_entropy_weight_adds_the_share_of_an_even_spread_to_the_loss(
    tiny, tiny_model_folder, memory_data, tmp_path
) -> None:
    losses = []
    for weight in (0.0, 0.5):
        tiny.model = Med2E3ForConditionalGeneration.from_pretrained(tiny_model_folder, dtype=torch.float32)
        tiny.model.config.score_scale = 0.0  # spreads the scores evenly: their entropy is log N
        lines, _ = train(tiny, memory_data(5), make_stage(steps=1, entropy_weight=weight), tmp_path / str(weight))
        losses.append(lines[0]["loss"])
    assert losses[1] - losses[0] == pytest.approx(0.5, abs=1e-5)


def test_more_parts_than_volumes_train_alike_too(tiny, tiny_model_folder, memory_data, tmp_path) -> None:
    once, _ = train(tiny, memory_data(5), make_stage(steps=2, volumes_per_step=1), tmp_path / "once")
    tiny.model = Med2E3ForConditionalGeneration.from_pretrained(tiny_model_folder, dtype=torch.float32)
    parts, _ = train(tiny, memory_data(5), make_stage(steps=2, volumes_per_step=1, accumulation=3), tmp_path / "parts")
    assert [line["loss"] for line in parts] == pytest.approx([line["loss"] for line in once], rel=1e-5)


def test_a_loader_in_a_process_of_its_own_gives_the_same_steps(tiny, tiny_model_folder, memory_data, tmp_path) -> None:
    stage = make_stage(steps=2, volumes_per_step=None, tokens_per_step=900, augment=Augmentation(noise=0.1))
    here, _ = train(tiny, memory_data(4), stage, tmp_path / "here")
    tiny.model = Med2E3ForConditionalGeneration.from_pretrained(tiny_model_folder, dtype=torch.float32)
    there, _ = train(tiny, memory_data(4), stage, tmp_path / "there", loader_workers=1)
    assert [line["loss"] for line in there] == [line["loss"] for line in here]


def test_a_loss_that_is_no_number_stops_the_run_in_one_line(tiny, memory_data, tmp_path) -> None:
    tiny.model.projector_2d[0].weight.data[:] = float("nan")
    with pytest.raises(InputError, match="the loss is nan at step 1; lower its learning_rate"):
        train(tiny, memory_data(3), make_stage(steps=2), tmp_path)


# --- frozen encoders --------------------------------------------------------------------------------------------------


def test_frozen_encoders_keep_no_graph_and_no_activations(tiny, memory_data) -> None:
    items, writer = first_items(tiny, memory_data(3))
    batch = Collator(writer)([items])
    volumes = batch["volumes"]

    def kept_bytes(trainable: tuple[str, ...]) -> int:
        set_trainable(tiny.model, trainable)
        tiny.model.train()
        made = []
        counter = AllocationCounter([*tiny.model.parameters(), *tiny.model.buffers(), volumes])
        found = counter.watch(
            "encode", lambda: made.extend([tiny.model.encode_2d(volumes), tiny.model.encode_3d(volumes)])
        )
        is_learning = "vision2d" in trainable
        assert all((features.grad_fn is not None) == is_learning for features in made)
        results = sum(features.untyped_storage().nbytes() for features in made)
        return found.kept_bytes - results

    assert kept_bytes(("projector_2d",)) == 0, "nothing but the features is left"
    assert kept_bytes(("vision2d", "vision3d")) > 0


def test_training_with_cached_features_gives_the_same_loss_and_encodes_each_volume_once(
    tiny, tiny_model_folder, memory_data, tmp_path, monkeypatch
) -> None:
    stage = make_stage(steps=4)
    plain, weights = train(tiny, memory_data(5), stage, tmp_path / "plain")
    tiny.model = Med2E3ForConditionalGeneration.from_pretrained(tiny_model_folder, dtype=torch.float32)
    data, calls = memory_data(5), []
    forward = type(tiny.model.vision2d).forward
    monkeypatch.setattr(type(tiny.model.vision2d), "forward", lambda self, x: calls.append(len(x)) or forward(self, x))
    cached, after = train(tiny, data, stage, tmp_path / "cached", feature_cache=str(tmp_path / "features"))
    assert cached[0] == {"stage": "s", "step": 0, "volumes_encoded": 5, "cached": ["vision3d", "vision2d"]}
    assert [line["loss"] for line in cached[1:]] == pytest.approx([line["loss"] for line in plain], rel=1e-6)
    for name, weight in weights.items():
        torch.testing.assert_close(after[name], weight, rtol=2e-3, atol=2e-5)
    assert calls == [8] * 5
    assert data.num_read == 5
    tiny.model = Med2E3ForConditionalGeneration.from_pretrained(tiny_model_folder, dtype=torch.float32)
    again, _ = train(tiny, memory_data(5), stage, tmp_path / "again", feature_cache=str(tmp_path / "features"))
    assert again[0]["volumes_encoded"] == 0
    assert [line["loss"] for line in again[1:]] == [line["loss"] for line in cached[1:]]


def test_an_encoder_that_learns_is_not_cached_while_the_other_one_is(tiny, memory_data, tmp_path) -> None:
    stage = make_stage(steps=2, trainable=("projector_2d", "vision2d"))
    lines, _ = train(tiny, memory_data(3), stage, tmp_path, feature_cache=str(tmp_path / "features"))
    assert lines[0]["cached"] == ["vision3d"]
    assert not (tmp_path / "features" / "vision2d").exists()


@pytest.mark.parametrize("changed", ["weights", "preparation", "bf16"])
def test_a_stale_cache_is_refused_in_one_line(tiny, memory_data, tmp_path, changed: str) -> None:
    data = memory_data(2)
    tiny.model.requires_grad_(False)
    open_caches(tmp_path, tiny.model, data, bf16=False)
    open_caches(tmp_path, tiny.model, data, bf16=False)
    if changed == "weights":
        next(tiny.model.vision2d.parameters()).data.view(-1)[0] += 1e-3
    if changed == "preparation":
        data.preparation = "another grid"
    with pytest.raises(InputError, match=f"made with other {changed} .*delete the folder, or name another") as error:
        open_caches(tmp_path, tiny.model, data, bf16=changed == "bf16")
    assert "\n" not in str(error.value)


def test_a_cut_feature_file_is_an_error_that_names_it(tiny, memory_data, tmp_path) -> None:
    data = memory_data(1)
    tiny.model.requires_grad_(False)
    caches = open_caches(tmp_path, tiny.model, data, bf16=False)
    feature_cache.fill_caches(caches, tiny.model, data, [0], device=torch.device("cpu"))
    path = caches[0].path(data, 0)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match=f"{path.name}: not a whole feature file"):
        caches[0].read(data, 0)


def test_bfloat16_training_keeps_learning_weights_in_float32_and_frozen_ones_in_bfloat16(
    tiny, memory_data, tmp_path
) -> None:
    stage = make_stage(steps=2, trainable=("projector_2d", "projector_3d"))
    set_trainable(tiny.model, stage.trainable, frozen_dtype=torch.bfloat16)
    dtypes = {name: next(part.parameters()).dtype for name, part in tiny.model.parts.items() if has_weights(part)}
    assert dtypes["projector_2d"] == dtypes["projector_3d"] == torch.float32
    assert {dtypes[name] for name in ("language_model", "vision2d", "vision3d")} == {torch.bfloat16}
    before = tiny.model.projector_2d[0].weight.clone()
    run = SimpleNamespace(folder=tmp_path)
    checkpoints = SimpleNamespace(
        run=run, start=None, save_every=None, name="s", model=tiny.model, process_group=SINGLE_PROCESS
    )
    lines: list[dict] = []
    recipe = make_recipe(tmp_path, stage, bf16=True, frozen_dtype="bfloat16")
    train_stage(
        tiny.model,
        tiny.processor,
        memory_data(3),
        stage,
        recipe,
        log=lines.append,
        seed=0,
        checkpoints=checkpoints,
    )
    assert all(0 < line["loss"] < 20 for line in lines)
    assert not torch.equal(tiny.model.projector_2d[0].weight, before)


def has_weights(part: nn.Module) -> bool:
    return any(True for _ in part.parameters())
