"""vLLM's answers are the package's own, whatever is asked beside them; a scan is encoded once (make test-vllm)."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from two_engines import CLOSE, assert_same

from slicesight.errors import InputError

pytestmark = pytest.mark.vllm
if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed here: make test-vllm makes an environment for it", allow_module_level=True)

QUESTIONS = ["Which phase is this?", "Is there a lesion in the liver?", "Where is the lesion?"]


@pytest.fixture(scope="module", params=["phantom-tiny", "tiny-phi3"])
def both(request, phi3_folder, in_both_engines) -> Iterator[SimpleNamespace]:
    with in_both_engines(request.param if request.param == "phantom-tiny" else phi3_folder) as found:
        yield found


@pytest.fixture
def tokens(both, monkeypatch) -> dict[str, dict[str, list[int]]]:
    """The ids of every whole answer, by engine and text: what each of them decoded."""
    seen: dict[str, dict[str, list[int]]] = {"own": {}, "vllm": {}}
    for engine, kept in seen.items():
        predictor = getattr(both, engine)
        decode = predictor.decode

        def note(ids: Any, decode: Any = decode, kept: Any = kept) -> str:
            text = decode(ids)
            kept[text] = list(ids)
            return text

        monkeypatch.setattr(predictor, "decode", note, raising=False)
    return seen


def ask(predictor, scan, questions, **settings):
    return predictor.ask(scan, questions, max_new_tokens=24, **settings)


def test_questions_together_are_answered_as_by_the_package_itself(both, phantom, tokens):
    assert_same(ask(both.vllm, phantom.volume, QUESTIONS), ask(both.own, phantom.volume, QUESTIONS))
    assert tokens["vllm"] == tokens["own"]


def test_the_order_of_two_questions_about_a_scan_changes_nothing(both, phantom):
    first, second = QUESTIONS[:2]
    wanted = {text: ask(both.own, phantom.volume, text) for text in (first, second)}
    for order in ((first, second), (second, first)):
        both.vllm.engine.reset_prefix_cache()
        for text in order:
            assert_same(ask(both.vllm, phantom.volume, text), wanted[text])


def test_two_questions_about_a_scan_have_slices_of_their_own(both, phantom):
    one, other = ask(both.vllm, phantom.volume, QUESTIONS[:2])
    assert not np.allclose(one.scores, other.scores, atol=1e-5)


def test_a_scan_is_encoded_once_however_often_it_is_asked(both, phantom):
    from slicesight.phantoms.rendering import make_phantom

    another = make_phantom(11, 3, pixel_mm=(3.5, 4.0))
    ask(both.vllm, phantom.volume, QUESTIONS)
    before = both.vllm.count_encoded()
    ask(both.vllm, phantom.volume, QUESTIONS)
    ask(both.vllm, phantom.volume, ["How large is the spleen?", "Is it a CT?"])
    assert both.vllm.count_encoded() == before
    ask(both.vllm, another.volume, QUESTIONS)
    assert both.vllm.count_encoded() == before + 1


def test_scans_asked_in_turns_keep_their_own_answers(both, phantom):
    from slicesight.phantoms.rendering import make_phantom

    jobs = [(phantom.volume, QUESTIONS[:2]), (make_phantom(11, 4, pixel_mm=(3.5, 4.0)).volume, QUESTIONS[:2])]
    found = list(both.vllm.ask_many(jobs, max_new_tokens=24))
    wanted = list(both.own.ask_many(jobs, max_new_tokens=24))
    for one, other in zip(found, wanted, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("reads_cache", [True, False])
def test_prefix_caching_changes_no_answer_and_shares_what_no_question_changes(both, phantom, reads_cache):
    from vllm import SamplingParams

    scan = both.vllm.maker.scan(phantom.volume)
    both.vllm.engine.reset_prefix_cache()
    found, cached = {}, {}
    for text in QUESTIONS[:2]:
        asked = both.vllm.maker.ask(text, [scan])
        sampling = SamplingParams(temperature=0, max_tokens=12, skip_reading_prefix_cache=not reads_cache)
        both.vllm.engine.add_request(text, asked.for_engine, sampling)
        while both.vllm.engine.has_unfinished_requests():
            for output in both.vllm.engine.step():
                if output.finished:
                    found[text], cached[text] = list(output.outputs[0].token_ids), output.num_cached_tokens
    for text in QUESTIONS[:2]:
        asked = both.own.processor([text], volumes=phantom.volume)
        wanted = both.own.model.generate(**asked, max_new_tokens=12)[0, asked["input_ids"].shape[1] :].tolist()
        assert found[text] == wanted
    assert cached[QUESTIONS[0]] == 0
    num_shared = both.vllm.maker.tokens.num_3d // 32 * 32  # head of the "short" template: no token before the scan
    assert cached[QUESTIONS[1]] == (num_shared if reads_cache else 0)
    assert num_shared == (32 if both.name == "tiny-phi3" else 0)


def test_a_conversation_goes_on(both, phantom):
    history = [(QUESTIONS[0], "portal venous phase")]
    assert_same(
        ask(both.vllm, phantom.volume, QUESTIONS[1], history=history),
        ask(both.own, phantom.volume, QUESTIONS[1], history=history),
    )


def test_two_scans_in_one_prompt_keep_their_order(both, phantom):
    from vllm import SamplingParams

    from slicesight.phantoms.rendering import make_phantom

    volumes = [phantom.volume, make_phantom(11, 5, pixel_mm=(3.5, 4.0)).volume]
    found = []
    for order in (volumes, volumes[::-1]):
        asked = both.vllm.maker.ask(QUESTIONS[0], order)
        both.vllm.engine.add_request("two", asked.for_engine, SamplingParams(temperature=0, max_tokens=12))
        while both.vllm.engine.has_unfinished_requests():
            found += [list(one.outputs[0].token_ids) for one in both.vllm.engine.step() if one.finished]
        inputs = both.own.processor([QUESTIONS[0]], volumes=order, volume_index=[[0, 1]])
        wanted = both.own.model.generate(**inputs, max_new_tokens=12)[0, inputs["input_ids"].shape[1] :].tolist()
        assert found[-1] == wanted
        scores = both.own.model.score_slices(both.own.model.encode_volumes(inputs["volumes"]), **inputs)[0].tolist()
        assert np.allclose(both.vllm.slice_scores(asked.slices), scores, atol=CLOSE, rtol=0)


def test_questions_without_a_scan_are_answered_too(both):
    assert_same(ask(both.vllm, None, QUESTIONS[:2]), ask(both.own, None, QUESTIONS[:2]))


def test_pieces_of_a_stream_make_the_whole_answer(both, phantom):
    (whole,) = ask(both.own, phantom.volume, "Describe the findings of this scan.")
    pieces = list(both.vllm.ask_stream(phantom.volume, "Describe the findings of this scan.", max_new_tokens=24))
    assert "".join(piece.text for piece in pieces) == whole.text
    assert len(pieces) > 1
    assert_same([pieces[-1].answer], [whole])


def test_scores_that_are_kept_no_longer_are_made_again(both, phantom):
    asked = both.vllm.maker.ask("Is the left kidney large?", [phantom.volume])
    (found,) = both.vllm.slice_scores(asked.slices)
    (wanted,) = ask(both.own, phantom.volume, "Is the left kidney large?")
    assert np.allclose(found, wanted.scores, atol=CLOSE, rtol=0)


def test_drawn_answers_follow_their_seed(both, phantom):
    drawn = {"do_sample": True, "temperature": 2.0, "seed": 5}
    one, again = (ask(both.vllm, phantom.volume, QUESTIONS[0], **drawn)[0].text for _ in range(2))
    assert one == again


@pytest.mark.parametrize("choices", ["only", "both"])
def test_questions_are_held_to_their_choices_as_by_the_package(both, phantom, choices):
    asked = [
        "Which phase is this? Choices: A. arterial phase B. portal venous phase C. no contrast",
        "Is there a lesion in the liver? Choices: A. yes B. no",
        "Where is the lesion?",
    ]
    found, wanted = (ask(one, phantom.volume, asked, choices=choices) for one in (both.vllm, both.own))
    assert_same(found, wanted)
    assert [one.choice for one in found] == [one.choice for one in wanted]
    assert found[0].choice is not None


def test_what_vllm_is_not_asked_here_is_refused_by_name(both, phantom):
    with pytest.raises(InputError, match="num_beams is no option"):
        ask(both.vllm, phantom.volume, "Which phase? Choices: A. arterial B. venous", num_beams=2)
    with pytest.raises(InputError, match="no vectors of a scan"):
        both.vllm.embed(phantom.volume)
    assert both.vllm.engine.get_num_unfinished_requests() == 0


def test_a_cancelled_question_leaves_the_engine(both, phantom):
    from slicesight.inference.batching import AskRequest

    requests = [
        AskRequest(
            scan=lambda: both.vllm.encode(phantom.volume), questions=[text], on_piece=got.append, on_error=got.append
        )
        for text in ("Describe the findings of this scan.", QUESTIONS[0])
        for got in [[]]
    ]
    kept: list[Any] = []
    requests[1].on_piece = kept.append
    waiting = iter(requests)
    batching = both.vllm.batching()
    for _ in batching.answer(lambda: next(waiting, None)):
        requests[0].is_cancelled = True
    assert kept[-1].answer is not None
    assert both.vllm.engine.get_num_unfinished_requests() == 0
    assert not batching.open


def test_the_server_answers_with_it_in_the_fields_of_its_own(both, phantom_file, tmp_path):
    from starlette.testclient import TestClient

    from slicesight.serving.app import create_app
    from slicesight.serving.options import ServeOptions

    answers = {}
    for engine in ("own", "vllm"):
        options = ServeOptions(model=both.name, folder=tmp_path / engine)
        with TestClient(create_app(getattr(both, engine), options), base_url="http://127.0.0.1:8000") as client:
            kept = client.post("/v1/volumes", files={"file": phantom_file.open("rb")}).raise_for_status().json()
            parts = [{"type": "text", "text": QUESTIONS[1]}, {"type": "file", "file": {"file_id": kept["id"]}}]
            body = {"model": both.name, "messages": [{"role": "user", "content": parts}], "max_tokens": 24}
            answers[engine] = client.post("/v1/chat/completions", json=body).raise_for_status().json()
            wrong = client.post("/v1/volumes", files={"file": b"no scan at all"})
            assert wrong.status_code == 422  # as of every server of the package
    own, vllm = (answers[engine]["choices"][0]["message"] for engine in ("own", "vllm"))
    assert set(own) == set(vllm)
    assert own["content"] == vllm["content"]
    assert np.allclose(own["scores"], vllm["scores"], atol=CLOSE, rtol=0)
    assert answers["own"]["usage"] == answers["vllm"]["usage"]
