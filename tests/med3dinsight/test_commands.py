"""`slicesight insight triplets` and `pretrain` as a user meets them."""

import sys
from pathlib import Path

import pytest

from slicesight import cli
from slicesight.models.encoders3d.backbones import load_backbone
from slicesight.training.triplets.dataset import open_triplets

RECIPE = Path(__file__).parents[2] / "recipes" / "smoke-insight.yaml"
SMALL = ("size=[16,16,16]", "slices_per_plane=8", "picture_size=32")


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Run the command line in this process -> (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["slicesight", "insight", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return stopped.value.code or 0, captured.out, captured.err

    return call


def settings_of(*changes):
    return [part for change in changes for part in ("--set", change)]


def test_the_smoke_recipe_runs_on_a_list_of_scans_and_leaves_a_backbone(run, balls, tmp_path) -> None:
    quick = ("training.steps=2", "transport_iterations=20")
    code, out, err = run("pretrain", RECIPE, *settings_of(f"data={balls}", "output_dir=run", *quick))
    assert code == 0, err
    assert out == ""
    assert err.splitlines()[-1] == "wrote run; fine-tune it: slicesight insight segment RECIPE --set init=run"
    assert {"config.json", "model.safetensors", "SHA256SUMS", "recipe.json", "log.jsonl", "loss.png", "triplets"} == {
        path.name for path in (tmp_path / "run").iterdir()
    }
    assert load_backbone(tmp_path / "run").spec.image_size == (32, 32, 32)


def test_triplets_of_a_folder_say_what_to_do_next_and_where_the_texts_come_from(run, balls, tmp_path) -> None:
    code, _, err = run(
        "triplets", balls.parent / "scan0.nii.gz", "--out", "t", "--image-encoder", "pixels", *settings_of(*SMALL)
    )
    assert code == 0, err
    assert err.splitlines()[-1] == (
        "wrote 24 triplets of 1 scans to t; texts: none; pre-train on them: slicesight insight pretrain RECIPE "
        "--set data=t --set text_weight=0"
    )
    labels = (*SMALL, "text=labels", "text_encoder=words")
    code, _, err = run("triplets", balls, "--out", "labelled", "--image-encoder", "pixels", *settings_of(*labels))
    assert "texts: annotation-derived; pre-train" in err.splitlines()[-1]
    assert open_triplets(tmp_path / "labelled").sizes == {"image": 256, "text": 256}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("pretrain", RECIPE, "--set", "training.batch_size=4"), "few others give next to no signal"),
        (("pretrain", RECIPE, "--set", "data=nowhere.jsonl"), "nowhere.jsonl"),
        (("pretrain", RECIPE.with_name("smoke-segment.yaml")), "run it with: slicesight insight segment"),
        (("triplets", "nowhere", "--out", "out", "--image-encoder", "pixels"), "nowhere: no such file"),
        (("triplets", "nowhere", "--out", "out"), "image_encoder is missing"),
        (("triplets", RECIPE, "--out", "out", "--image-encoder", "no/such"), "model no/such: cannot be found"),
        (("triplets", RECIPE, "--out", "out", "--image-encoder", "pixels", "--set", "text=position"), "no text side"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(run, tmp_path, arguments, expected) -> None:
    code, out, err = run(*arguments)
    assert code == 2
    assert expected in err
    assert (out, err.strip().count("\n")) == ("", 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["triplets", "pretrain"])
def test_help_shows_an_example(run, verb) -> None:
    code, out, _ = run(verb, "--help")
    assert code == 0
    assert f"Example: slicesight insight {verb}" in out
