from __future__ import annotations

import numpy as np
import pytest

from slicesight import load
from slicesight.errors import InputError, ModelError
from slicesight.inference.answers import AnswerPiece
from slicesight.inference.requests import AskRequest
from tiny_guests import PRESET, on_grid, stub_server

CLOSED = "Which? Choices: A. a cyst B. nothing"


@pytest.fixture
def preset(tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(PRESET + 'thinking: ["<think>", "</think>"]\n')
    return file


def test_a_server_that_tells_log_probabilities_gives_evidence_where_they_fall(preset) -> None:
    with stub_server() as server:
        guest = load(f"openai:{server.url}#stub", preset=preset)
        (answer,) = guest.ask(on_grid(guest.grid_spec), "What is seen?")
    assert answer.text == "a cyst"
    assert answer.evidence == "occlusion"
    assert "as far as the server tells it" in answer.evidence_note
    assert answer.scores[1] + answer.scores[2] == pytest.approx(1.0), "the stub looks at its second and third picture"
    asked = server.requests[0]
    parts = asked["messages"][0]["content"]
    assert [part["type"] for part in parts].count("image_url") == 6
    assert parts[0]["text"] == "\nslice 1 of 6, z = -118 mm\n"
    assert parts[-1]["text"].endswith("What is seen?")
    assert asked["model"] == "stub"
    assert asked["temperature"] == 0
    assert len(server.requests) == 1 + int(answer.evidence_note.split("in ")[1].split(" passes")[0]) - 1


@pytest.mark.parametrize("tells", ["nothing", "refuses"])
def test_a_server_that_tells_none_is_measured_by_agreement_and_said_so(preset, tells) -> None:
    with stub_server(tells) as server:
        guest = load(f"openai:{server.url}#stub", preset=preset)
        (answer,) = guest.ask(on_grid(guest.grid_spec), "What is seen?")
    assert answer.evidence == "occlusion"
    assert "no longer said when slices are blanked" in answer.evidence_note
    assert answer.scores[1] == answer.scores[2] or answer.scores[1] + answer.scores[2] == pytest.approx(1.0)
    if tells == "refuses":
        assert [bool(asked.get("logprobs")) for asked in server.requests[:3]] == [True, False, False]


def test_evidence_that_is_turned_off_costs_one_request(preset) -> None:
    with stub_server() as server:
        guest = load(f"openai:{server.url}#stub", preset=preset, evidence_passes=0)
        (answer,) = guest.ask(on_grid(guest.grid_spec), "What is seen?")
        assert len(server.requests) == 1
    assert answer.evidence == "none"


def test_a_closed_question_is_held_to_its_choices_and_a_scan_is_not_needed(preset) -> None:
    with stub_server() as server:
        guest = load(f"openai:{server.url}#stub", preset=preset, evidence_passes=0)
        (answer,) = guest.ask(on_grid(guest.grid_spec), CLOSED, choices="both")
        assert answer.choice == "A. a cyst"
        assert "letter of one choice" in server.requests[-1]["messages"][-1]["content"][-1]["text"]
        (blind,) = guest.ask(None, "What?")
        assert server.requests[-1]["messages"] == [{"role": "user", "content": "What?"}]
        assert blind.evidence_note == "no evidence: no scan was shown"


def test_a_system_message_goes_to_the_server_first_and_a_begun_answer_is_refused_before_it_is_asked(preset) -> None:
    with stub_server() as server:
        guest = load(f"openai:{server.url}#stub", preset=preset, evidence_passes=0)
        (answer,) = guest.ask(None, "What?", system="Be brief.")
        first = {"role": "system", "content": "Be brief."}
        assert server.requests[-1]["messages"] == [first, {"role": "user", "content": "What?"}]
        assert answer.system == "Be brief."
        asked = len(server.requests)
        with pytest.raises(InputError, match="goes on with no begun answer; leave it out"):
            guest.ask(None, "What?", prefix="A cyst")
        assert len(server.requests) == asked


def test_a_busy_server_is_asked_again_and_the_key_goes_along(preset, monkeypatch) -> None:
    monkeypatch.setenv("SLICESIGHT_GUEST_KEY", "secret")
    with stub_server() as server:
        guest = load(f"openai:{server.url}#stub", preset=preset, evidence_passes=0)
        server.failures = [(429, "busy"), (503, "busy")]
        (answer,) = guest.ask(None, "What?")
        assert answer.text == "a cyst"
        assert len(server.requests) == 3
        assert server.headers[0]["Authorization"] == "Bearer secret"


def test_a_server_that_takes_no_pictures_is_one_line(preset) -> None:
    with stub_server() as server:
        guest = load(f"openai:{server.url}#stub", preset=preset)
        server.failures = [(400, "this model does not support image input")]
        with pytest.raises(InputError, match="does not support image input") as error:
            guest.ask(on_grid(guest.grid_spec), "What?")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [{"choices": []}, {"answer": "x"}, {"choices": [{"message": "x"}]}])
def test_another_shape_of_answer_is_one_line(preset, shape) -> None:
    with stub_server() as server:
        guest = load(f"openai:{server.url}#stub", preset=preset)
        server.answer = lambda asked: shape  # type: ignore[method-assign]
        with pytest.raises(InputError, match="no chat completion"):
            guest.ask(None, "What?")


def test_what_a_server_thinks_first_is_not_its_answer(preset) -> None:
    with stub_server() as server:
        guest = load(f"openai:{server.url}#stub", preset=preset)
        server.answer = lambda asked: {"choices": [{"message": {"content": "<think>hm</think>\nA cyst."}}]}  # type: ignore[method-assign]
        assert guest.ask(None, "What?")[0].text == "A cyst."


def test_the_one_model_of_a_server_need_not_be_named(preset) -> None:
    with stub_server() as server:
        assert load(f"openai:{server.url}", preset=preset).card.name == "stub"
        server.models = ["stub", "other"]
        with pytest.raises(ModelError, match="one of: stub, other"):
            load(f"openai:{server.url}", preset=preset)
        with pytest.raises(ModelError, match="has no model 'third'"):
            load(f"openai:{server.url}#third", preset=preset)
        server.models = None
        assert load(f"openai:{server.url}#third", preset=preset).card.name == "third", "a server need not list them"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("openai:", "is no address"),
        ("openai:ftp://host/v1#m", "is no address"),
        ("openai:http://u:p@127.0.0.1:1/v1#m", "address with a password"),
        ("openai:http://127.0.0.1:9/v1#m", "nobody answers there"),
    ],
)
def test_an_address_that_cannot_be_is_one_line(name, expected) -> None:
    with pytest.raises(ModelError, match=expected) as error:
        load(name)
    assert "\n" not in str(error.value)


def test_a_redirection_is_not_followed(preset) -> None:
    with stub_server() as server:
        guest = load(f"openai:{server.url}#stub", preset=preset)
        server.failures = [(307, "elsewhere")]
        with pytest.raises(InputError, match="307"):
            guest.ask(None, "What?")
        assert len(server.requests) == 1


def test_a_server_elsewhere_is_named_beside_every_answer(preset) -> None:
    from slicesight.inference.guests.loading import card_of_server
    from slicesight.inference.guests.server_guest import ServerGuest
    from slicesight.models.guests.preset import read_preset

    far = ServerGuest(url="https://models.example/v1", model="m", preset=read_preset(preset))
    assert "sent to models.example" in card_of_server(far).warnings[0]
    near = ServerGuest(url="http://127.0.0.1:8000/v1", model="m", preset=read_preset(preset))
    assert card_of_server(near).warnings == ()


def test_log_probabilities_are_compared_up_to_where_two_answers_part() -> None:
    from slicesight.inference.guests.server_guest import ServerSaid, log_probability

    said = ServerSaid(text="a b c", tokens=("a", "b", "c"), log_probs=(-0.1, -0.2, -0.3))
    masked = ServerSaid(
        text="a x y",
        tokens=("a", "x", "y"),
        log_probs=(-0.5, -0.4, -0.1),
        likeliest=({"a": -0.5}, {"x": -0.4, "b": -1.2, "z": -3.0}, {"y": -0.1}),
    )
    assert log_probability(said, masked) == pytest.approx(-0.5 - 1.2 - 0.3)
    unknown = ServerSaid(text="a x", tokens=("a", "x"), log_probs=(-0.1, -0.4), likeliest=({}, {"x": -0.4, "z": -3.0}))
    assert log_probability(said, unknown) == pytest.approx(-0.1 - 3.0 - 0.3)
    assert log_probability(said, said) == pytest.approx(sum(said.log_probs))


def test_agreement_is_one_for_the_same_words_and_nought_for_others() -> None:
    from slicesight.inference.guests.server_guest import agreement

    assert agreement("A cyst.", "a  cyst") == 1.0
    assert agreement("a cyst", "nothing") == 0.0
    assert agreement("a cyst", "a stone") == pytest.approx(0.5)
    assert np.isclose(agreement("", ""), 1.0)


def told(guest, system="Answer in one word."):
    """What a question with a system message brings, as the server asks it."""
    pieces: list[AnswerPiece] = []
    requests = [AskRequest(scan=None, questions=["What?"], system=system, on_piece=pieces.append, on_error=pytest.fail)]
    guest.tokenize(None, ["What?"], history=(), num_volumes=0, system=system)
    for _ in guest.batching().answer(lambda: requests.pop() if requests else None):
        pass
    return pieces[-1].answer.text


def test_a_system_message_goes_along_as_one(preset) -> None:
    with stub_server() as server:
        assert told(load(f"openai:{server.url}#stub", preset=preset, evidence_passes=0)) == "a cyst"
    system, asked = server.requests[0]["messages"]
    assert system == {"role": "system", "content": "Answer in one word."}
    assert asked == {"role": "user", "content": "What?"}


@pytest.mark.parametrize(
    "refusal", ["System role not supported", "Conversation roles must alternate user/assistant/user/assistant/..."]
)
def test_a_server_whose_model_knows_no_system_is_told_by_the_user(preset, refusal) -> None:
    with stub_server() as server:
        guest = load(f"openai:{server.url}#stub", preset=preset, evidence_passes=0)
        server.failures = [(400, refusal)]
        assert [told(guest), told(guest, "Briefly.")] == ["a cyst", "a cyst"]
    assert [asked["messages"][-1]["content"] for asked in server.requests[1:]] == [
        "Answer in one word.\n\nWhat?",
        "Briefly.\n\nWhat?",
    ], "asked again once, and remembered"
