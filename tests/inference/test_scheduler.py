"""The scheduler against the plain path: the same tokens and logits, whatever shares batch, block or memory."""

from __future__ import annotations

import pytest
import torch

from slicesight.errors import InputError
from slicesight.inference.scheduler import Scheduler, longest_prompt
from slicesight.models.med2e3.configuration import AGGREGATIONS

QUESTIONS = [
    "Which phase is this?",
    "Is there a lesion in the liver, and if so, where does it lie?",
    "Where?",
    "Describe the findings of this scan, every organ in turn.",
    "Which organ is shown? Choices: A. liver B. spleen C. kidney D. lung",
    "How large is it, and what does it look like on the slices below the diaphragm?",
]
LLAMA = {
    "model_type": "llama",
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
    "tie_word_embeddings": False,
}
ROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 400}
SHARING = {
    "llama": {},
    "phi3": {"model_type": "phi3", "num_key_value_heads": 4},
    "phi3 with LongRoPE": {
        "model_type": "phi3",
        "original_max_position_embeddings": 400,
        "rope_parameters": {**ROPE, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
    },
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 8},
    "mistral": {"model_type": "mistral", "sliding_window": 500},
    "gpt_neox": {"model_type": "gpt_neox"},
    "gemma3": {"model_type": "gemma3_text", "head_dim": 8, "sliding_window": 300},
}
NOT_SHARING = {
    "attention with soft caps": {"model_type": "gemma2", "head_dim": 8, "attn_logit_softcapping": 20.0},
    "a narrow sliding window": {"model_type": "mistral", "sliding_window": 16},
}


@pytest.fixture(scope="module")
def shared(request):
    return {}


@pytest.fixture
def predictor(make_predictor, shared):
    return shared.setdefault("predictor", make_predictor())


@pytest.fixture
def encoded(predictor, make_grid, shared):
    if "scan" not in shared:
        shared["scan"] = predictor.encode(make_grid(predictor))
    return shared["scan"]


@pytest.mark.parametrize("name", SHARING)
def test_tokens_and_logits_equal_the_plain_path_for_every_family(
    name, make_predictor, make_grid, answer_together, generate_alone, logits_alone
):
    predictor = make_predictor(text_config={**LLAMA, **SHARING[name]})
    encoded = predictor.encode(make_grid(predictor))
    assert longest_prompt(predictor.model) in (None, 300, 400, 500)
    ids, logits = answer_together(predictor, [(encoded, QUESTIONS)])
    for question, own_ids, own_logits in zip(QUESTIONS, ids, logits, strict=True):
        assert own_ids == generate_alone(predictor, encoded, question)
        expected = logits_alone(predictor, encoded, question, own_ids)
        torch.testing.assert_close(own_logits, expected, atol=1e-4, rtol=0)
    assert len({tuple(one) for one in ids}) > 2, "different questions must get different answers for this to mean much"


@pytest.mark.parametrize("name", NOT_SHARING)
def test_a_language_model_the_scheduler_cannot_run_is_answered_by_generate(
    name, make_predictor, make_grid, generate_alone
):
    predictor = make_predictor(text_config={**LLAMA, **NOT_SHARING[name]})
    encoded = predictor.encode(make_grid(predictor))
    assert longest_prompt(predictor.model) in (0, 16)
    answers = predictor.ask(encoded, QUESTIONS[:3], max_new_tokens=6, batch_size=1)
    for question, answer in zip(QUESTIONS, answers, strict=False):
        ids = generate_alone(predictor, encoded, question, max_new_tokens=6)
        assert answer.text == spoken(predictor, ids)


@pytest.mark.parametrize(
    "changes",
    [
        {"fusion": "2d"},
        {"fusion": "3d"},
        {"aggregation": "mean"},
        {"aggregation": "max"},
        {"aggregation": "random"},
        {"scoring_inputs": ["3d", "2d"]},
    ],
    ids=lambda changes: " ".join(map(str, changes.values())),
)
def test_every_fusion_and_aggregation_equals_the_plain_path(
    changes, make_predictor, make_grid, answer_together, generate_alone
):
    predictor = make_predictor(**changes)
    encoded = predictor.encode(make_grid(predictor))
    ids, _ = answer_together(predictor, [(encoded, QUESTIONS)])
    assert ids == [generate_alone(predictor, encoded, question) for question in QUESTIONS]


@pytest.mark.parametrize("block_tokens", [2, 7, 4096])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_neither_block_nor_batch_changes_an_answer(
    block_tokens, batch_size, predictor, encoded, answer_together, shared, make_predictor
):
    expected = shared.setdefault("alone", [answer_together(predictor, [(encoded, [one])])[0][0] for one in QUESTIONS])
    predictor._scheduler = Scheduler(predictor.model, block_tokens=block_tokens)
    encoded.prefix_cache.prefix = None
    ids, _ = answer_together(predictor, [(encoded, QUESTIONS)], batch_size=batch_size)
    assert ids == expected


def test_questions_of_several_scans_share_the_batch_without_touching_each_other(
    predictor, make_grid, answer_together, generate_alone
):
    scans = [predictor.encode(make_grid(predictor, seed)) for seed in range(3)]
    jobs = [(scans[0], QUESTIONS[:2]), (scans[1], QUESTIONS[2:]), (scans[2], QUESTIONS[:3])]
    ids, logits = answer_together(predictor, jobs, batch_size=4)
    asked = [(scan, question) for scan, questions in jobs for question in questions]
    assert ids == [generate_alone(predictor, scan, question) for scan, question in asked]
    assert max(map(len, ids)) > min(map(len, ids)) or len(ids[0]) == 12
    assert len(logits) == len(asked)


def test_a_finished_row_leaves_its_place_and_the_others_go_on(predictor, encoded, answer_together, monkeypatch):
    """Ends are forced at different lengths: row by row the batch shrinks and new questions take the places."""
    free, _ = answer_together(predictor, [(encoded, QUESTIONS)], max_new_tokens=10)
    ends = {free[0][2], free[3][5]}
    expected = [ids[: next((i for i, token in enumerate(ids) if token in ends), 9) + 1] for ids in free]
    assert len(set(map(len, expected))) > 1
    sizes = []
    pass_token = Scheduler._pass_token
    monkeypatch.setattr(
        Scheduler, "_pass_token", lambda self, store, rows: sizes.append(len(rows)) or pass_token(self, store, rows)
    )
    monkeypatch.setattr(predictor.model.generation_config, "eos_token_id", sorted(ends))
    ids, _ = answer_together(predictor, [(encoded, QUESTIONS)], max_new_tokens=10, batch_size=3)
    assert ids == expected
    assert sum(sizes) == sum(len(one) - 1 for one in expected), "no row is passed after its end"


def test_the_prefix_passes_the_language_model_once_per_scan(predictor, make_grid, monkeypatch):
    encoded = predictor.encode(make_grid(predictor, 4))
    made = []
    make_prefix = Scheduler.make_prefix
    monkeypatch.setattr(
        Scheduler, "make_prefix", lambda self, embeds: made.append(len(embeds)) or make_prefix(self, embeds)
    )
    predictor.ask(encoded, QUESTIONS, max_new_tokens=2, batch_size=2)
    predictor.ask(encoded, QUESTIONS[0], max_new_tokens=2, history=[("Which phase?", "Arterial.")])
    assert len(made) == 1
    depth, rows, columns = predictor.model.config.vision3d_config.pooled_grid
    assert made[0] == depth * rows * columns, "all of z_3D, nothing of z_2D (this template has no head)"


def test_a_prefix_is_made_again_when_weights_change(predictor, make_predictor, make_grid, generate_alone):
    predictor = make_predictor(seed=3)
    encoded = predictor.encode(make_grid(predictor))
    before = predictor.ask(encoded, QUESTIONS[0], max_new_tokens=8)[0].text
    with torch.no_grad():
        for parameter in predictor.model.language_model.parameters():
            parameter.mul_(-1.3)
    after = predictor.ask(encoded, QUESTIONS[0], max_new_tokens=8)[0].text
    assert after != before
    assert after == spoken(predictor, generate_alone(predictor, encoded, QUESTIONS[0], max_new_tokens=8))


def test_a_conversation_weighs_slices_for_its_latest_question(predictor, encoded, generate_alone):
    history = [("Which phase is this?", "Venous."), ("Is there a lesion?", "Yes, in the liver.")]
    answer, other = (
        predictor.ask(encoded, question, history=history)[0] for question in ("Where is it?", "How large?")
    )
    assert answer.scores != other.scores
    ids = generate_alone(predictor, encoded, "Where is it?", history=history, max_new_tokens=160)
    assert answer.text == spoken(predictor, ids)
    assert answer.scores == pytest.approx(predictor.ask(encoded, "Where is it?", max_new_tokens=1)[0].scores, abs=1e-6)


def test_a_head_that_holds_the_question_is_not_shared(predictor, encoded, generate_alone):
    questions = ["See <image3d> and say: which phase?", "Here it is: <image3d> How large is the lesion?"]
    answers = predictor.ask(encoded, questions, max_new_tokens=8)
    for question, answer in zip(questions, answers, strict=True):
        assert answer.text == spoken(predictor, generate_alone(predictor, encoded, question, max_new_tokens=8))


def test_batches_split_so_that_memory_is_never_passed(predictor, encoded, answer_together, monkeypatch):
    expected, _ = answer_together(predictor, [(encoded, QUESTIONS * 4)], batch_size=32)
    sizes, held = [], []
    pass_token = Scheduler._pass_token

    def watch(self, store, rows):
        sizes.append(len(rows))
        held.append(store.num_bytes)
        return pass_token(self, store, rows)

    monkeypatch.setattr(Scheduler, "_pass_token", watch)
    free = 2**20
    predictor._scheduler = Scheduler(predictor.model, block_tokens=64, free_bytes=lambda: free)
    ids, _ = answer_together(predictor, [(encoded, QUESTIONS * 4)], batch_size=32)
    assert ids == expected
    assert max(held) < free
    assert 1 < max(sizes) < 24


def test_a_question_that_does_not_fit_is_one_plain_line(predictor, encoded):
    predictor._scheduler = Scheduler(predictor.model, block_tokens=64, free_bytes=lambda: 20_000)
    with pytest.raises(InputError, match=r"question 1 with \d+ tokens .* GiB may be used; shorten it") as caught:
        predictor.ask(encoded, QUESTIONS[0])
    assert "\n" not in str(caught.value)
    predictor._scheduler = Scheduler(predictor.model)


def test_a_prompt_longer_than_the_model_reads_is_refused(predictor, encoded):
    with pytest.raises(InputError, match=r"question 2 makes a prompt of \d+ tokens, .* fewer than 512; shorten it"):
        predictor.ask(encoded, ["Which phase?", "very " * 200 + "long?"])


def test_an_answer_stops_where_the_model_can_read_no_further(predictor, encoded, answer_together):
    question = "x" * 440
    (ids,), _ = answer_together(predictor, [(encoded, [question])], max_new_tokens=100)
    prompt = len(predictor.processor.encode_prompt(question).input_ids)
    assert prompt < 512
    assert len(ids) <= 512 - prompt


def test_what_cannot_be_shared_also_splits_by_memory(make_predictor, make_grid, monkeypatch):
    predictor = make_predictor(
        text_config={**LLAMA, "model_type": "gemma2", "head_dim": 8, "attn_logit_softcapping": 20.0}
    )
    encoded = predictor.encode(make_grid(predictor))
    together = [answer.text for answer in predictor.ask(encoded, QUESTIONS, max_new_tokens=4)]
    sizes = []
    generate = type(predictor.model).generate
    monkeypatch.setattr(
        type(predictor.model),
        "generate",
        lambda self, **inputs: sizes.append(len(inputs["input_ids"])) or generate(self, **inputs),
    )
    predictor._scheduler = Scheduler(predictor.model, free_bytes=lambda: 3 * 2**20)
    assert [answer.text for answer in predictor.ask(encoded, QUESTIONS, max_new_tokens=4)] == together
    assert sum(sizes) == len(QUESTIONS)
    assert len(sizes) > 1
    predictor._scheduler = Scheduler(predictor.model, free_bytes=lambda: 1000)
    with pytest.raises(InputError, match="question 1"):
        predictor.ask(encoded, QUESTIONS, max_new_tokens=4)


def test_a_recurrent_language_model_is_not_shared(make_predictor):
    assert longest_prompt(make_predictor(text_config={**LLAMA, "model_type": "mamba", "state_size": 4}).model) == 0


def test_the_language_models_own_attention_is_back_after_asking(predictor, encoded):
    before = predictor.model.language_model.config._attn_implementation
    predictor.ask(encoded, QUESTIONS[0], max_new_tokens=2)
    assert predictor.model.language_model.config._attn_implementation == before


def spoken(predictor, ids):
    text = predictor.processor.tokenizer.decode(ids, skip_special_tokens=True)
    text = "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text).strip()
    return text or "(the model gave no words)"


def slice_of_question(scorer, features, volume_index, question):
    """An aggregation as another package may have it: the slice follows from the question's tokens."""
    num_slices = features.tokens_2d_VNLD.shape[1]
    asked_B = (question.input_ids * question.mask).sum(dim=-1) % num_slices
    scores_BN = torch.nn.functional.one_hot(asked_B, num_slices).float()
    return scores_BN[:, None] * (volume_index >= 0).unsqueeze(-1), None


def test_an_aggregation_of_another_package_may_read_the_question_and_shares_no_slices_then(
    make_predictor, make_grid, answer_together, generate_alone, monkeypatch
):
    monkeypatch.setitem(AGGREGATIONS, "asked", f"{__name__}:slice_of_question")
    predictor = make_predictor(aggregation="asked")
    encoded = predictor.encode(make_grid(predictor))
    chosen = {answer.scores.index(1.0) for answer in predictor.ask(encoded, QUESTIONS, max_new_tokens=1)}
    assert len(chosen) > 2, "the questions must weigh different slices for this to mean much"
    ids, _ = answer_together(predictor, [(encoded, QUESTIONS)])
    assert ids == [generate_alone(predictor, encoded, question) for question in QUESTIONS]
