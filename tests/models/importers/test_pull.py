"""From a name to a model that answers: the hub on loopback holds the official folders, the way is the user's."""

import json
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor

import slicesight
from official_layout import write_lamed, write_m3d_clip
from slicesight.errors import InputError, ModelError
from slicesight.files import only_run_in
from slicesight.models.importers.m3d import M3DClip, M3DClipConfig
from slicesight.models.importers.pull import Hooks, check_disk, prepare, read_pulled, run
from slicesight.models.shipped import find_folder, pulled_folder, pulled_models
from slicesight.planning.plan import read_config

HUB_NAME = "shiym2000/Med-2E3-M3D"


@pytest.fixture
def pull(hub):
    """Pull by name -> the model's folder."""

    def call(name="med-2e3", *, keep=False, hooks=None, **settings):
        return run(prepare(name, endpoint=hub.url, **settings), keep=keep, hooks=hooks)

    return call


def logits_of(model, processor, volumes):
    with torch.no_grad():
        return model.eval()(**processor(["What is shown?"], volumes=volumes[:1])).logits


def everything_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_before_the_pull_the_name_says_the_one_command(hub):
    with pytest.raises(ModelError, match=r"med-2e3 is not on this machine; fetch it once .*: slicesight pull med-2e3$"):
        slicesight.load("med-2e3")
    with pytest.raises(ModelError, match="slicesight pull med-2e3"):
        read_config("med-2e3")
    with pytest.raises(ModelError, match="no such model; did you mean 'med-2e3'"):
        slicesight.load("med2e3")


def test_after_the_pull_the_name_loads_and_the_logits_are_the_originals(pull, released, volumes, hub):
    folder = pull()
    assert folder == pulled_folder() / "med-2e3"
    assert pulled_models() == ["med-2e3"]
    assert find_folder("med-2e3") == folder
    assert not [path for path in everything_in(folder.parent) if path.startswith(".")]
    processor = AutoProcessor.from_pretrained(folder)
    found = AutoModelForImageTextToText.from_pretrained(folder)
    assert torch.equal(logits_of(found, processor, volumes), logits_of(released, processor, volumes))
    predictor = slicesight.load("med-2e3", device="cpu")
    assert predictor.card.name == "med-2e3"
    assert "M3D-Cap" in predictor.card.trained_on
    assert read_config("med-2e3").question_source == "text_encoder"


def test_the_card_says_which_commit_with_which_files_under_which_licence(pull, hub):
    card = json.loads((pull() / "card.json").read_text())
    assert card["licence"] == "apache-2.0"
    assert card["published_scores"]["closed accuracy"] == 82.42
    came = card["pulled"]
    assert (came["hub"], came["revision"], came["kind"]) == (HUB_NAME, hub.repos[HUB_NAME].commit, "med2e3")
    assert came["also"]["m3d_clip_tokenizer"]["revision"] == hub.repos["GoodBaiBai88/M3D-CLIP"].commit
    assert len(came["checksums"]["llm/pytorch_model.bin"]) == 64
    assert "hf_" not in json.dumps(card)


def test_only_what_makes_the_model_is_fetched_and_each_file_once(pull, hub):
    pull()
    assert not hub.fetched("optimizer.pt")
    assert not hub.fetched("README.md")
    for path in hub.repos[HUB_NAME].files:
        if path.endswith(".bin"):
            assert len(hub.fetched(path)) == 1, path


@pytest.mark.shared_data
def test_after_the_pull_the_golden_logits_are_met(official_golden, tmp_path, hub):
    """official-A from the hub by its name, held against what the official code computed."""
    import numpy as np

    sys.path.insert(0, str(Path(__file__).parents[2] / "parity"))
    from official import Comparison, compare_sample, load_formula

    folder = tmp_path / "Med-2E3-M3D"
    command = [sys.executable, "-B", str(official_golden / "rebuild.py"), str(official_golden), str(folder)]
    subprocess.run(command, check=True)
    hub.add(HUB_NAME, folder)
    hub.add("GoodBaiBai88/M3D-CLIP", official_golden / "m3d_clip_tokenizer")
    run(prepare("med-2e3", endpoint=hub.url))
    predictor = slicesight.load("med-2e3", device="cpu")
    meta = json.loads((official_golden / "meta.json").read_text())
    comparison = Comparison()
    with np.load(official_golden / "golden.npz") as golden:
        volume = torch.from_numpy(load_formula(official_golden).volume(meta["seed"], 0))
        compare_sample(
            "s0",
            golden,
            predictor.model,
            predictor.processor,
            meta["questions"][0],
            meta["answers"][0],
            volume,
            comparison,
        )
    assert comparison.compared > 10
    assert comparison.failures == 0
    assert comparison.absolute["s0.last_logits"] < 1e-4


def test_an_interrupted_conversion_leaves_nothing_half_and_is_taken_up_without_fetching(pull, hub):
    def stop(part):
        if part == "vision2d_connector":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(hooks=Hooks(on_part=stop))
    assert pulled_models() == []
    assert not (pulled_folder() / "med-2e3").exists()
    with pytest.raises(ModelError, match="slicesight pull med-2e3"):
        slicesight.load("med-2e3")
    hub.requests.clear()
    slicesight.load(pull(), device="cpu")
    assert not [request for request in hub.requests if request.is_storage]
    assert everything_in(pulled_folder())[0] == "med-2e3"


def test_a_folder_that_cannot_be_converted_says_so_and_keeps_what_was_fetched(pull, hub):
    files = hub.repos[HUB_NAME].files
    files["llm/pytorch_model.bin"] = files["vision2d_connector/pytorch_model.bin"]
    with pytest.raises(
        ModelError, match=r"nowhere in the folder.*the files themselves are kept in .*med-2e3.pull/original"
    ):
        pull()
    assert pulled_models() == []
    assert everything_in(pulled_folder() / ".med-2e3.pull")[:2] == [".lock", "fetching.json"]


def test_an_interrupted_fetch_goes_on_with_what_is_missing(pull, hub):
    hub.faults["vision3d_model/pytorch_model.bin"] = [("cut", 20_000), ("cut for good", 0)]
    with pytest.raises(InputError, match="goes on where it stopped"):
        pull()
    again = prepare("med-2e3", endpoint=hub.url)
    assert 0 < again.bytes_here() < again.total_bytes
    hub.faults.clear()
    hub.requests.clear()
    counted = []
    missing = again.total_bytes - again.bytes_here()
    run(again, hooks=Hooks(on_bytes=counted.append))
    assert sum(counted) == missing
    assert not hub.fetched("llm/pytorch_model.bin")
    assert hub.fetched("vision3d_model/pytorch_model.bin")[0].range.startswith("bytes=")


def test_the_same_commit_again_is_nothing_to_do_and_a_newer_one_replaces_it(pull, hub):
    first = pull()
    assert prepare("med-2e3", endpoint=hub.url).is_done()
    old = hub.repos[HUB_NAME].commit
    hub.repos[HUB_NAME].files["LICENSE"] = b"other terms"
    newer = prepare("med-2e3", endpoint=hub.url)
    assert not newer.is_done()
    assert prepare("med-2e3", endpoint=hub.url, revision=hub.repos[HUB_NAME].commit).main.revision != old
    run(newer)
    assert read_pulled(first)["revision"] == hub.repos[HUB_NAME].commit
    assert everything_in(pulled_folder())[0] == "med-2e3"


def test_what_an_older_commit_left_half_way_is_kept_only_where_it_is_the_same(pull, hub):
    hub.faults["vision3d_model/pytorch_model.bin"] = [("cut", 20_000), ("cut for good", 0)]
    with pytest.raises(InputError):
        pull()
    hub.faults.clear()
    settings = json.loads(hub.repos[HUB_NAME].files["args/config.json"])
    settings["llm_max_length"] = 512
    hub.repos[HUB_NAME].files["args/config.json"] = json.dumps(settings).encode()
    hub.requests.clear()
    folder = pull()
    assert AutoProcessor.from_pretrained(folder).max_length == 512
    assert not hub.fetched("llm/pytorch_model.bin")


def test_a_disk_that_is_too_small_is_refused_before_the_first_byte_of_a_weight(hub, monkeypatch):
    usage = namedtuple("usage", "total used free")
    planned = prepare("med-2e3", endpoint=hub.url)
    needed = planned.total_bytes + planned.weight_bytes
    assert planned.disk_bytes() > needed
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10 * needed, 0, needed))
    with pytest.raises(InputError, match=r"GiB are needed there for a while.* on another disk with --to"):
        run(planned)
    assert not pulled_folder().exists()
    assert not [request for request in hub.requests if request.is_storage]
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10 * needed, 0, planned.disk_bytes()))
    check_disk(planned)


def test_the_originals_go_unless_they_are_kept(pull):
    assert not (pull() / "original").exists()
    shutil.rmtree(pulled_folder())
    kept = pull(keep=True)
    assert (kept / "original" / "llm" / "pytorch_model.bin").is_file()
    assert (kept / "original" / "m3d_clip_tokenizer" / "vocab.txt").is_file()
    slicesight.load("med-2e3", device="cpu")


def test_a_folder_elsewhere_is_found_by_the_name_too(pull, hub, tmp_path):
    folder = pull(to=tmp_path / "big disk" / "mine")
    assert (folder / "model.safetensors").is_file()
    assert everything_in(tmp_path / "big disk") == ["mine", *(f"mine/{path}" for path in everything_in(folder))]
    assert find_folder("med-2e3").resolve() == folder
    assert prepare("med-2e3", endpoint=hub.url).is_done()
    shutil.rmtree(folder)
    assert pulled_models() == []


def test_a_place_with_other_files_is_refused_and_left_as_it_is(hub, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="is a folder with other files; name a new folder with --to"):
        prepare("med-2e3", endpoint=hub.url, to=tmp_path / "mine")
    with pytest.raises(InputError, match="is a file; name a new folder"):
        prepare("med-2e3", endpoint=hub.url, to=tmp_path / "mine" / "thesis.txt")
    assert everything_in(tmp_path / "mine") == ["thesis.txt"]


def test_two_pulls_of_one_model_do_not_mix(hub):
    planned = prepare("med-2e3", endpoint=hub.url)
    with only_run_in(planned.staging), pytest.raises(InputError, match="another run is fetching this model here"):
        run(planned)


def test_a_model_in_this_packages_own_layout_comes_by_its_hub_name(pull, hub, tiny_model_folder):
    repo = hub.add("someone/tiny", tiny_model_folder, licence=None)
    folder = pull("someone/tiny")
    assert pulled_models() == ["someone/tiny"]
    assert slicesight.load("someone/tiny", device="cpu").card.is_synthetic
    card = json.loads((folder / "card.json").read_text())
    assert (card["name"], card["pulled"]["revision"]) == ("tiny-random", repo.commit)
    assert "licence" not in card
    assert (folder / "model.safetensors").read_bytes() == (tiny_model_folder / "model.safetensors").read_bytes()


def test_an_official_folder_under_another_name_is_converted_and_borrows_the_vocabulary(pull, hub, official_folders):
    hub.add("someone/finetuned", official_folders[0])
    card = json.loads((pull("someone/finetuned") / "card.json").read_text())
    assert "trained_on" not in card  # what the authors of Med-2E3 said holds for theirs only
    assert slicesight.load("someone/finetuned", device="cpu").card.trained_on == "unknown"


def test_the_hub_name_of_a_known_model_is_that_model(hub):
    assert prepare(HUB_NAME, endpoint=hub.url).name == "med-2e3"


def test_m3d_lamed_and_m3d_clip_come_by_their_names(pull, hub, make_model, tokenizer, tmp_path, volumes):
    vit = {"model_type": "m3d_vit", "patch_size": [2, 8, 8], "final_norm": True, "hidden_size": 64}
    vit |= {"intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 1}
    lamed = make_model(fusion="3d", vision3d_config=vit, placeholder_token_id=310)
    hub.add("GoodBaiBai88/M3D-LaMed-Phi-3-4B", write_lamed(tmp_path / "lamed", lamed, tokenizer))
    pull("m3d-lamed")
    assert slicesight.load("m3d-lamed", device="cpu").model.config.fusion == "3d"
    bert = {"model_type": "bert", "vocab_size": 40, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    clip = M3DClip(
        M3DClipConfig(vision3d_config={**vit, "image_size": [8, 32, 32]}, text_encoder_config=bert),
    ).eval()
    hub.add("GoodBaiBai88/M3D-CLIP", write_m3d_clip(tmp_path / "clip", clip))
    again = AutoModel.from_pretrained(pull("m3d-clip")).eval()
    assert torch.equal(again.encode_volumes(volumes), clip.encode_volumes(volumes))
    with pytest.raises(ModelError, match="m3d-clip: holds M3D-CLIP, which gives vectors and answers no questions"):
        slicesight.load("m3d-clip", device="cpu")


def test_names_that_cannot_be_fetched_are_refused_with_the_nearest(hub, tmp_path):
    with pytest.raises(InputError, match=r"'med-2e' is no model .*; did you mean 'med-2e3'"):
        prepare("med-2e")
    with pytest.raises(InputError, match="names known here: anatomy-small, phantom-tiny, med-2e3"):
        prepare("zzz")
    with pytest.raises(InputError, match="phantom-tiny comes with the package"):
        prepare("phantom-tiny")
    for odd in ("..", "a/b/c", "/etc/x", ".hidden", "hf:owner/model"):
        with pytest.raises(InputError, match="is no model that can be fetched by name"):
            prepare(odd, source=tmp_path)
    with pytest.raises(InputError, match="--revision asks the hub and --from does not"):
        prepare("med-2e3", source=tmp_path, revision="main")
    hub.add("someone/notes", Path(__file__).parent)
    with pytest.raises(ModelError, match=r"someone/notes: holds no config.json, so it is not a model"):
        prepare("someone/notes", endpoint=hub.url)


# --- from a folder ----------------------------------------------------------------------------------------------------


@pytest.fixture
def downloaded(official_folders, tmp_path):
    """Both repositories as somebody else downloaded them."""
    shutil.copytree(official_folders[0], tmp_path / "stick" / "Med-2E3-M3D")
    shutil.copytree(official_folders[1], tmp_path / "stick" / "M3D-CLIP")
    return tmp_path / "stick" / "Med-2E3-M3D"


def test_a_downloaded_folder_becomes_the_model_without_a_connection_and_stays_as_it_was(
    downloaded, released, volumes, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    before = everything_in(downloaded)
    folder = run(prepare("med-2e3", source=downloaded))
    assert everything_in(downloaded) == before
    processor = AutoProcessor.from_pretrained(folder)
    found = AutoModelForImageTextToText.from_pretrained(folder)
    assert torch.equal(logits_of(found, processor, volumes), logits_of(released, processor, volumes))
    came = read_pulled(folder)
    assert came["revision"] is None
    assert len(came["checksums"]["llm/pytorch_model.bin"]) == 64
    assert everything_in(folder.parent)[0] == "med-2e3"


def test_a_downloads_own_record_gives_the_commit_and_betrays_damage(downloaded, hub):
    record = downloaded / ".cache" / "huggingface" / "download" / "llm" / "pytorch_model.bin.metadata"
    record.parent.mkdir(parents=True)
    commit = hub.repos[HUB_NAME].commit
    checksum = prepare("med-2e3", endpoint=hub.url).main.files["llm/pytorch_model.bin"].sha256
    record.write_text(f"{commit}\n{checksum}\n1700000000.0\n")
    assert read_pulled(run(prepare("med-2e3", source=downloaded)))["revision"] == commit
    shutil.rmtree(pulled_folder())
    weights = downloaded / "llm" / "pytorch_model.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(ModelError, match="damaged since it was downloaded"):
        run(prepare("med-2e3", source=downloaded))
    assert pulled_models() == []


def test_a_download_without_the_vocabulary_says_where_it_is_looked_for(downloaded):
    shutil.rmtree(downloaded.parent / "M3D-CLIP")
    with pytest.raises(
        ModelError, match=r"vocab.txt of GoodBaiBai88/M3D-CLIP\) is neither in .*; download it there too"
    ):
        prepare("med-2e3", source=downloaded)
    with pytest.raises(InputError, match="no such folder; --from expects"):
        prepare("med-2e3", source=downloaded / "nothing")


def test_a_downloaded_folder_of_this_package_is_copied(tiny_model_folder):
    folder = run(prepare("mine", source=tiny_model_folder))
    assert not (folder / "model.safetensors").is_symlink()
    assert slicesight.load("mine", device="cpu").card.is_synthetic
