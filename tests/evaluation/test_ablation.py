"""Every cell is the recipe with its words; tables say what is sure and what is not."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

import slicesight
from slicesight.cli.measure import run_ablate
from slicesight.cli.scoring import AblateOptions
from slicesight.errors import InputError
from slicesight.evaluation.ablation import CELLS, plan_cell
from slicesight.evaluation.ablation_tables import METRICS, TABLES, make_table, orderings
from slicesight.evaluation.predictions import TASKS, Prediction, PredictionFile
from slicesight.evaluation.sheet import Scored, metrics_of
from slicesight.reports.ablation_tables import results_page, to_csv, to_latex, to_markdown
from slicesight.training.recipe import read_recipe

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPE = REPOSITORY / "recipes" / "phantom-ablation.yaml"


def test_cells_are_the_rows_of_the_papers_tables_and_end_with_the_full_model():
    for number, cells in CELLS.items():
        assert [cell.row for cell in cells] == list(TABLES[number])
        assert cells[-1].name == "full"
        assert all(len(row) == len(METRICS) for row in TABLES[number].values())


def test_cells_of_one_name_have_the_same_words():
    by_name: dict[str, dict] = {}
    for cells in CELLS.values():
        for cell in cells:
            assert by_name.setdefault(cell.name, cell.options) == cell.options
    assert len(by_name) == 11
    assert len({json.dumps(words, sort_keys=True) for words in by_name.values()}) == 11


@pytest.mark.parametrize("cell", [cell for cells in CELLS.values() for cell in cells], ids=lambda cell: cell.name)
def test_every_cell_trains_parts_that_its_model_has_and_keeps_the_encoders_frozen(cell, tmp_path):
    import torch

    from slicesight.models.med2e3.configuration import Med2E3Config
    from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration

    stage0 = read_recipe(REPOSITORY / "recipes" / "phantom-tiny-stage0.yaml")
    planned = plan_cell(read_recipe(RECIPE), cell, seed=2, folder=tmp_path)
    words = {**stage0.model, **planned.model}
    words["text_config"] = {**words["text_config"], "vocab_size": 300}
    with torch.device("meta"):
        model = Med2E3ForConditionalGeneration(Med2E3Config(image_size=[32, 96, 96], **words))
    for stage in planned.stages:
        assert set(stage.trainable) <= set(model.parts)
        assert not {"vision2d", "vision3d"} & set(stage.trainable)
    assert planned.seed == read_recipe(RECIPE).seed + 2
    for word, value in cell.options.items():
        found = getattr(model.config, word)
        assert (list(found) if isinstance(value, list) else found) == value


def scored(level: float, *, seed: int, volumes: int = 30) -> Scored:
    """A run whose metrics lie around `level`."""
    rng = np.random.default_rng(seed)
    rows = tuple(
        Prediction(
            id=f"{volume}{task}", task=task, topic="organ", question="?", prediction="x", answer="x",
            answer_choice="A" if task == "closed" else None, volume=str(volume),
        )
        for volume in range(volumes) for task in ("report", "open", "closed")
    )  # fmt: skip
    values = {}
    for name in {metric for task in TASKS for metric in metrics_of(task)}:
        drawn = np.clip(rng.normal(level, 0.1, size=len(rows)), 0, 1)
        values[name] = np.array(
            [v if name in metrics_of(row.task) else np.nan for v, row in zip(drawn, rows, strict=True)]
        )
    missing = {"bertscore_f1": "no model named"}
    return Scored(file=PredictionFile(rows=rows, format="jsonl"), values=values, missing=missing, about={})


@pytest.fixture(scope="module")
def table():
    levels = {"random": 0.3, "max": 0.4, "mean": 0.4, "TG-IS": 0.6}
    return make_table(4, [(row, [scored(level, seed=s * 10 + i) for s in range(3)])
                          for i, (row, level) in enumerate(levels.items())])  # fmt: skip


def test_columns_that_nobody_could_fill_are_left_out(table):
    assert [metric for _, metric, _ in table.columns] == [
        "bleu1", "rouge1", "meteor", "bleu1", "rouge1", "meteor", "accuracy",
    ]  # fmt: skip


def test_values_have_intervals_over_scans_and_seeds_and_p_against_the_full_model(table):
    value = table.values["random", "open", "bleu1"]
    assert value.low < 0.3 < value.high
    assert value.p_holm < 0.05
    assert value.seed_sd < 0.05
    assert table.values["TG-IS", "open", "bleu1"].p_holm is None


def test_a_spread_of_seeds_widens_the_interval():
    alike = make_table(4, [(row, [scored(0.5, seed=s) for s in range(3)]) for row in TABLES[4]])
    apart = make_table(4, [(row, [scored(0.3 + 0.2 * s, seed=s) for s in range(3)]) for row in TABLES[4]])

    def width(table):
        value = table.values["mean", "open", "bleu1"]
        return value.high - value.low

    assert width(apart) > 3 * width(alike)


def test_orderings_hold_are_reversed_or_cannot_be_told(table):
    found = {
        (e["first"], e["second"]): e["verdict"]
        for e in orderings(table)
        if (e["task"], e["metric"]) == ("report", "bleu1")
    }
    assert found["random", "TG-IS"] == "holds"
    assert found["mean", "TG-IS"] == "holds"
    assert found["random", "max"] == "reversed", "the paper has random above max in reports"
    assert found["max", "mean"] == "not sure"


def test_tables_come_as_markdown_csv_and_latex(table):
    markdown = to_markdown(table, beside_paper=True)
    assert "[47.24]" in markdown
    assert "†" in markdown
    assert len(markdown.splitlines()) == 6
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert float(rows[0]["open.bleu1"]) == table.values["random", "open", "bleu1"].value
    assert to_latex(table).count(r"\textbf") == len(table.columns)
    page = results_page([table], num_volumes=30, num_seeds=3)
    assert "TG-IS > mean > random > max" in page, "the printed order of reports"
    assert "TG-IS > max > mean > random" in page, "the printed order of closed accuracy"


def test_a_table_the_paper_does_not_have_is_refused(tmp_path):
    with pytest.raises(InputError, match="--table 6"):
        run_ablate(AblateOptions(recipe=RECIPE, table=[6], out=tmp_path, data="phantoms:1:1"))


def test_a_recipe_without_init_is_refused(tmp_path):
    recipe = REPOSITORY / "recipes" / "phantom-tiny-stage0.yaml"
    with pytest.raises(InputError, match="init is missing"):
        run_ablate(AblateOptions(recipe=recipe, table=[4], out=tmp_path, data="phantoms:1:1"), load=slicesight.load)


TINY = """
name: tiny-cells
output_dir: {folder}/unused
init: {init}
feature_cache: {folder}/features
save_every: null
data: {{folder: {folder}/phantoms, seed: 5, count: 3, workers: 1}}
grid: {{num_slices: 8, height: 32, width: 32}}
model: {{}}
stages:
  - {{name: align, trainable: [projector_2d, projector_3d, scorer], steps: 2,
     learning_rate: 1.0e-3, volumes_per_step: 2}}
  - {{name: instruct, trainable: [projector_2d, projector_3d, scorer, language_model], steps: 2,
     learning_rate: 1.0e-3, volumes_per_step: 2}}
"""


@pytest.mark.slow
def test_ablations_run_go_on_after_a_kill_and_refuse_another_recipe(tmp_path, tiny_model_folder, scans, monkeypatch):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(TINY.format(folder=tmp_path, init=tiny_model_folder))
    request = AblateOptions(recipe=recipe, table=[3, 4], out=tmp_path / "out", data=str(scans), seeds=2)
    from slicesight.training import run as stages

    trained = []
    run_recipe = stages.run_recipe

    def counting(planned, **options):
        if len(trained) == 3:
            trained.append(None)
            Path(planned.output_dir).mkdir()
            (Path(planned.output_dir) / "log.jsonl").write_text("killed before its first checkpoint\n")
            raise KeyboardInterrupt
        trained.append(planned.name)
        return run_recipe(planned, **options)

    monkeypatch.setattr(stages, "run_recipe", counting)
    with pytest.raises(KeyboardInterrupt):
        run_ablate(request, load=slicesight.load)
    run_ablate(request, load=slicesight.load)
    names = [name for name in trained if name]
    assert len(names) == len(set(names)) == 12, "six cells, two seeds, each trained once"
    document = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert [table["table"] for table in document["tables"]] == [3, 4]
    for number in (3, 4):
        for suffix in ("md", "csv", "tex", "png"):
            assert (tmp_path / "out" / "tables" / f"table{number}.{suffix}").stat().st_size > 100
    recipe.write_text(recipe.read_text().replace("1.0e-3", "2.0e-3"))
    with pytest.raises(InputError, match="trained by another recipe"):
        run_ablate(request, load=slicesight.load)
