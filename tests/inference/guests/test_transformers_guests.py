from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from slicesight import load
from slicesight.errors import InputError, ModelError
from slicesight.inference.answers import Answer
from slicesight.inference.guests.guest import GuestQuestion, Said
from slicesight.inference.guests.transformers_guest import MaskedPrompts
from slicesight.inference.occlusion import default_passes
from slicesight.models.guests.pictures import show
from tiny_guests import FAMILIES, PRESET, SHEET, on_grid

CLOSED = "Which phase is this? Choices: A. arterial phase B. venous phase"
OPEN = "What is seen?"


@pytest.fixture(scope="module", params=FAMILIES)
def guest(request, tmp_path_factory):
    """A loaded guest of each family; its name as an attribute."""
    folder = tmp_path_factory.mktemp("guests") / request.param
    FAMILIES[request.param](folder)
    preset = folder.parent / "small.yaml"
    preset.write_text(PRESET)
    return load(f"hf:{folder}", preset=preset)


@pytest.fixture(scope="module")
def llava(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("guests") / "llava"
    FAMILIES["llava"](folder)
    (folder.parent / "small.yaml").write_text(PRESET)
    (folder.parent / "sheet.yaml").write_text(SHEET)
    return folder


def first_answers(guest) -> list[Answer]:
    return guest.ask(on_grid(guest.grid_spec), [OPEN, CLOSED], max_new_tokens=20, choices="both")


def test_every_family_answers_with_evidence_for_every_slice(guest) -> None:
    for answer in first_answers(guest):
        assert answer.text
        if answer.evidence == "occlusion":
            assert len(answer.scores) == 6
            assert sum(answer.scores) == pytest.approx(1.0)
            assert "measured by occlusion" in answer.evidence_note
            assert answer.slices[0].position_mm is not None
        else:
            assert answer.evidence_note == "no evidence: the guest said nothing"
    assert answer.choice in ("A. arterial phase", "B. venous phase")


def test_a_masked_prompt_is_what_the_processor_makes_of_those_pictures(guest) -> None:
    shown = show(on_grid(guest.grid_spec), guest.guest.preset)
    asked = GuestQuestion(question=OPEN, shown=shown)
    prompts = MaskedPrompts.prepare(guest.guest, asked)
    assert prompts.are_alike
    kept = np.array([[True, False, True, True, False, False], [True] * 6])
    batch = prompts.batch(kept)
    alone = [guest.guest.inputs(asked, shown.pictures(one)) for one in kept]
    for name in alone[0]:
        torch.testing.assert_close(batch[name], torch.cat([one[name] for one in alone]), msg=name)


def test_the_likelihood_in_a_batch_is_that_of_the_model_alone(guest) -> None:
    shown = show(on_grid(guest.grid_spec), guest.guest.preset)
    asked = GuestQuestion(question=OPEN, shown=shown)
    said = Said(text="cyst", token_ids=tuple(guest.guest.tokenizer("cyst", add_special_tokens=False).input_ids))
    likelihood, measure = guest.guest.likelihood(asked, said)
    assert measure == "log-likelihood"
    kept = np.array([[True] * 6, [False] * 6, [True, True, False, False, True, True]])
    found = likelihood(kept)
    assert len(np.unique(found.round(4))) == 3, "blanking changes nothing"
    for one, expected in zip(kept, found, strict=True):
        inputs = guest.guest.inputs(asked, shown.pictures(one))
        total = 0.0
        for token in said.token_ids:  # token by token, as the answer is said
            with torch.inference_mode():
                logits = guest.guest.model(**inputs).logits
            total += float(torch.log_softmax(logits[0, -1].float(), dim=-1)[token])
            for name, value in inputs.items():
                if value.shape == inputs["attention_mask"].shape and name not in ("attention_mask", "input_ids"):
                    inputs[name] = torch.cat([value, torch.zeros_like(value[:, :1])], dim=1)
            inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([[token]])], dim=1)
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        assert total == pytest.approx(float(expected), abs=2e-3)


def test_two_loads_of_one_folder_have_one_digest(guest) -> None:
    folder = Path(guest.card.facts["guest"].removeprefix("hf:"))
    assert load(f"hf:{folder}", preset=folder.parent / "small.yaml").digest() == guest.digest()


def test_a_picture_is_never_said(guest) -> None:
    asked = GuestQuestion(question=OPEN, shown=show(on_grid(guest.grid_spec), guest.guest.preset), max_new_tokens=60)
    ends, guest.guest.ends = guest.guest.ends, frozenset()
    said = guest.guest.answer(GuestQuestion(**{**vars(asked), "options": {"eos_token_id": 10**6}}))
    guest.guest.ends = ends
    assert len(said.token_ids) == 60
    assert guest.guest.placeholders
    assert guest.guest.placeholders.isdisjoint(said.token_ids)


def test_a_question_without_a_scan_is_answered_and_has_no_evidence(guest) -> None:
    (answer,) = guest.ask(None, OPEN, max_new_tokens=4)
    assert answer.evidence == "none"
    assert answer.scores == ()
    assert answer.evidence_note == "no evidence: no scan was shown"


def test_a_conversation_goes_on_and_a_drawn_answer_depends_on_its_seed_alone(llava) -> None:
    guest = load(f"hf:{llava}", preset=llava.parent / "small.yaml")
    scan = guest.as_control(on_grid(guest.grid_spec))
    history = [("What is seen?", "A cyst.")]
    first, other = (guest.ask(scan, "Where?", history=h, max_new_tokens=8)[0] for h in ((), history))
    assert first.evidence == other.evidence == "none"
    assert first.text != other.text
    drawn = [
        guest.ask(scan, OPEN, max_new_tokens=6, do_sample=True, temperature=3.0, seed=seed)[0].text
        for seed in (1, 1, 2, 3)
    ]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1


def test_a_system_message_and_a_begun_answer_stand_where_the_chat_template_has_them(llava, tmp_path) -> None:
    preset = tmp_path / "told.yaml"
    preset.write_text(PRESET + "system: You read scans.\n")
    guest = load(f"hf:{llava}", preset=preset, evidence_passes=4)
    scan = on_grid(guest.grid_spec)
    (plain,) = guest.ask(scan, OPEN, max_new_tokens=6)
    (told,) = guest.ask(scan, OPEN, max_new_tokens=6, system="Be brief.", prefix="A cy")
    assert plain.text != told.text.removeprefix("A cy")
    assert told.text.startswith("A cy")
    assert (told.system, told.prefix) == ("Be brief.", "A cy")
    shown = guest.encode(scan).shown
    made = guest.guest.inputs(
        GuestQuestion(question=OPEN, shown=shown, system="Be brief.", prefix="A cy"), shown.pictures()
    )
    prompt = guest.guest.tokenizer.decode(made["input_ids"][0])
    assert prompt.startswith("<s>system: You read scans.\n\nBe brief.user: ")
    assert prompt.endswith("assistant: A cy")
    pieces = list(guest.ask_stream(scan, OPEN, max_new_tokens=6, system="Be brief.", prefix="A cy"))
    assert "".join(piece.text for piece in pieces) == told.text
    assert told.evidence == "occlusion", "the likelihood is that of the words behind the begun ones"
    with pytest.raises(InputError, match="begun and held to choices"):
        guest.ask(scan, CLOSED, choices="only", prefix="The ")


def test_a_contact_sheet_is_masked_by_drawing_it_anew(llava) -> None:
    guest = load(f"hf:{llava}", preset=llava.parent / "sheet.yaml")
    scan = guest.encode(on_grid(guest.grid_spec))
    assert len(scan.shown.pictures()) == 1
    assert scan.shown.pictures()[0].size == (3 * 18, 2 * 18)
    (answer,) = guest.ask(scan, OPEN, max_new_tokens=4)
    assert answer.evidence == "occlusion"
    assert len(answer.scores) == 6


def test_evidence_can_be_turned_off_and_its_budget_named(llava) -> None:
    preset = llava.parent / "small.yaml"
    without = load(f"hf:{llava}", preset=preset, evidence_passes=0)
    (answer,) = without.ask(on_grid(without.grid_spec), OPEN, max_new_tokens=4)
    assert (answer.evidence, answer.evidence_note) == ("none", "no evidence: it was turned off")
    few = load(f"hf:{llava}", preset=preset, evidence_passes=5)
    (answer,) = few.ask(on_grid(few.grid_spec), OPEN, max_new_tokens=4)
    assert "in 5 passes" in answer.evidence_note
    assert default_passes(6) > 5
    assert few.digest() != without.digest()


def test_pieces_of_an_answer_come_while_it_is_made(llava) -> None:
    guest = load(f"hf:{llava}", preset=llava.parent / "small.yaml")
    scan = guest.encode(on_grid(guest.grid_spec))
    pieces = list(guest.ask_stream(scan, OPEN, max_new_tokens=6))
    assert "".join(piece.text for piece in pieces) == pieces[-1].answer.text
    assert pieces[-1].answer == guest.ask(scan, OPEN, max_new_tokens=6)[0], "the same question, another answer"
    assert len(pieces) > 1


def test_what_a_model_thinks_first_is_not_its_answer(llava, tmp_path) -> None:
    preset = tmp_path / "thinking.yaml"
    preset.write_text(PRESET + 'thinking: ["<t>", "</t>"]\n')
    guest = load(f"hf:{llava}", preset=preset).guest
    tokens = guest.tokenizer("<t>it is bright</t>A cyst.", add_special_tokens=False).input_ids
    assert guest.decode(tokens) == "A cyst."
    assert guest.decode(tokens[:8]) == ""
    assert guest.decode(tokens[-7:]) == "A cyst."


def test_a_prompt_longer_than_the_model_reads_is_one_line(llava) -> None:
    guest = load(f"hf:{llava}", preset=llava.parent / "small.yaml")
    guest.guest.model.config.text_config.max_position_embeddings = 64
    with pytest.raises(InputError, match="reads at most 64; take a --preset of fewer"):
        guest.ask(on_grid(guest.grid_spec), OPEN)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"quantize": "int8"}, "quantize is for this package's own models"),
        ({"cache_bytes": 10}, "cache is for this package's own models"),
        ({"preset": "qwen3-v"}, "did you mean qwen3-vl"),
        ({"preset": "missing.yaml"}, "missing.yaml: no such preset"),
        ({"evidence_passes": 2}, "at least 4"),
    ],
)
def test_a_setting_that_a_guest_does_not_have_is_one_line(llava, settings, expected) -> None:
    with pytest.raises(InputError, match=expected) as error:
        load(f"hf:{llava}", **settings)
    assert "\n" not in str(error.value)


def test_an_option_nobody_has_is_refused(llava) -> None:
    guest = load(f"hf:{llava}", preset=llava.parent / "small.yaml")
    with pytest.raises(InputError, match="temprature is no option"):
        guest.ask(None, OPEN, temprature=1)


def test_guests_settings_are_refused_for_the_packages_own_models() -> None:
    with pytest.raises(InputError, match="preset is for guests"):
        load("phantom-tiny", preset="gemma-3")


def test_a_text_only_model_is_refused_by_its_kind(tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": 32}')
    with pytest.raises(ModelError, match="a llama model reads text only; a guest must be a vision-language model"):
        load(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ('{"model_type": "vit"}', "answers no questions about pictures"),
        (
            '{"model_type": "hulumed_qwen3", "auto_map": {"AutoConfig": "x.Y"}}',
            "needs code of its own, which is never run",
        ),
        ('{"model_type": "unheard_of"}', "is unknown to transformers"),
        ('{"hidden_size": 3}', "names no model_type"),
        ('{"model_type": ', "config.json"),
        ('{"model_type": "med2e3"}', "is a model of this package"),
        ('{"model_type": "llava"}', "no file named model.safetensors"),
    ],
)
def test_a_folder_that_is_no_guest_is_one_line(tmp_path, config, expected) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelError, match=expected) as error:
        load(f"hf:{tmp_path}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["hf:", "hf:nobody/nothing", "hf:/no/such/folder"])
def test_a_name_behind_which_no_model_stands_is_one_line(name) -> None:
    with pytest.raises(ModelError) as error:
        load(name)
    assert name.removeprefix("hf:") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_without_config_or_chat_template_says_so(llava, tmp_path) -> None:
    import shutil

    with pytest.raises(ModelError, match=r"no config\.json there"):
        load(f"hf:{tmp_path}")
    folder = tmp_path / "silent"
    shutil.copytree(llava, folder)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="has no chat template"):
        load(f"hf:{folder}")
    (folder / "processor_config.json").unlink()
    with pytest.raises(ModelError, match="no processor for pictures and text"):
        load(f"hf:{folder}")


RAISES = "{{ raise_exception('System role not supported') }}"


@pytest.mark.parametrize("unknown", ["", RAISES])
def test_what_the_system_says_is_never_lost(llava, unknown) -> None:
    guest = load(f"hf:{llava}", preset=llava.parent / "small.yaml").guest
    asked = GuestQuestion(
        question="And now?", shown=None, history=(("What?", "A cyst."),), system="Answer in one word."
    )
    assert "system: Answer in one word.user: What?" in guest._prompt(asked)
    without = "{% for message in messages %}{% if message['role'] == 'system' %}" + unknown + "{% else %}"
    guest.processor.chat_template = (
        without + "{{ message['role'] }}: {% for part in message['content'] %}{{ part['text'] }}{% endfor %} "
        "{% endif %}{% endfor %}"
    )
    assert guest._prompt(asked) == "user: Answer in one word.\n\nWhat? assistant: A cyst. user: And now? "
    assert guest._prompt(replace(asked, system="")) == "user: What? assistant: A cyst. user: And now? "
