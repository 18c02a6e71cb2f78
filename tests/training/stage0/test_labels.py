"""Words: the language model's tokens that name what a cell shows; what nobody knows gives no loss."""

import pytest
import torch

from slicesight.training.stage0.encoders import probe_loss
from slicesight.training.stage0.labels import (
    UNKNOWN,
    EncoderBatch,
    LabelScheme,
    LabelWords,
    Probe,
    WordMatch,
    mean_where_known,
)
from slicesight.training.start import train_tokenizer

SCHEME = LabelScheme(
    cells={"kind": ("cyst", "stone"), "gland": ("left parotid gland", "right parotid gland")},
    wholes={"plane": ("axial", "coronal"), "phase": ("non-contrast", "arterial phase")},
    emphasised="kind",
)
NAMES = (*SCHEME.cell_labels, *SCHEME.whole_labels)
TEXTS = [f"There is a {name} here. {name} Answer: {name}" for name in NAMES] * 5
PLAIN = {"plane": torch.tensor([1]), "phase": torch.tensor([0])}


@pytest.fixture(scope="module")
def words() -> LabelWords:
    return LabelWords(train_tokenizer(TEXTS, vocab_size=500), SCHEME)


def test_any_text_survives_the_tokenizer() -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=500)
    odd = "Gibt es eine Läsion? 12 mm — [?]"
    assert tokenizer.decode(tokenizer.encode(odd)).strip() == odd


def test_a_cell_shows_the_words_of_its_labels_and_of_the_whole_scan(words) -> None:
    cells = torch.zeros(1, 2, len(SCHEME.cell_labels))
    cells[0, 0, SCHEME.cell_labels.index("cyst")] = 1
    shown = words.shown(cells, PLAIN)
    whole = set(words.of_label["coronal"]) | set(words.of_label["non-contrast"])
    assert set(shown[0, 1].nonzero().flatten().tolist()) == whole
    assert set(shown[0, 0].nonzero().flatten().tolist()) == whole | set(words.of_label["cyst"])


def test_the_match_is_better_the_nearer_a_token_points_to_its_words(words) -> None:
    embeddings = torch.randn(500, 32, generator=torch.Generator().manual_seed(0))
    match = WordMatch(words, embeddings)
    shown = torch.zeros(1, 1, len(words))
    shown[0, 0, words.of_label["cyst"]] = 1
    towards = embeddings[words.ids][words.of_label["cyst"]].sum(dim=0)[None, None]
    assert match(towards, shown) < match(torch.randn(1, 1, 32), shown) < match(-towards, shown)
    assert torch.isclose(match(towards, shown), match(7 * towards, shown)), "only the direction counts"


def test_the_words_of_the_emphasised_group_weigh_more(words) -> None:
    weight = WordMatch(words, torch.randn(500, 8)).weight_W
    heavy = set(words.of_label["cyst"]) | set(words.of_label["stone"])
    assert {position for position in range(len(words)) if weight[position] == 4} == heavy
    assert weight.min() == 1


def test_a_word_is_unknown_where_only_a_label_nobody_knows_would_say_it(words) -> None:
    left, right = (SCHEME.cell_labels.index(f"{side} parotid gland") for side in ("left", "right"))
    cells = torch.zeros(1, 1, len(SCHEME.cell_labels))
    cells[0, 0, left] = 1
    known = torch.ones_like(cells)
    known[0, 0, right] = 0
    shown = words.shown(cells, PLAIN)
    found = words.known(shown, known, PLAIN)
    unknown = {position for position in range(len(words)) if not found[0, 0, position]}
    assert unknown == set(words.of_label["right parotid gland"]) - set(words.of_label["left parotid gland"])
    assert unknown, "the side alone says which of the two it is"


def test_a_fact_that_is_not_stated_shows_no_word_and_is_unknown(words) -> None:
    wholes = {**PLAIN, "plane": torch.tensor([UNKNOWN])}
    shown = words.shown(torch.zeros(1, 1, len(SCHEME.cell_labels)), wholes)
    found = words.known(shown, None, wholes)
    for name in ("axial", "coronal"):
        assert not shown[0, 0, words.of_label[name]].any()
        assert not found[0, 0, words.of_label[name]].any()
    assert found[0, 0, words.of_label["cyst"]].all()
    assert words.known(shown, None, PLAIN) is None, "all is known"


def batch_of(*, known: torch.Tensor | None = None, cells: torch.Tensor | None = None, **wholes: int) -> EncoderBatch:
    cells = torch.zeros(2, 3, len(SCHEME.cell_labels)) if cells is None else cells
    given = {name: torch.tensor([number, number]) for name, number in ({"plane": 1, "phase": 0} | wholes).items()}
    return EncoderBatch(pixels=torch.zeros(2, 1, 4, 4), cells=cells, coarse=cells, wholes=given, known=known)


def test_what_is_not_known_gives_the_probe_no_loss_and_no_gradient() -> None:
    torch.manual_seed(0)
    probe, tokens = Probe(8, SCHEME), torch.randn(2, 3, 8)
    known = torch.ones(2, 3, len(SCHEME.cell_labels))
    known[:, :, 3] = 0
    cells = torch.zeros_like(known)
    cells[:, :, 3] = 1
    loss, facts = probe_loss(probe, tokens, batch_of(known=known, cells=torch.zeros_like(known)))
    other, _ = probe_loss(probe, tokens, batch_of(known=known, cells=cells))
    assert torch.equal(loss, other), "what the unknown label says does not matter"
    loss.backward()
    assert not probe.cells.weight.grad[3].any()
    assert probe.cells.weight.grad[2].any()
    assert facts["plane"] in (0.0, 0.5, 1.0)


def test_knowing_all_is_the_same_loss_as_no_mask() -> None:
    torch.manual_seed(0)
    probe, tokens = Probe(8, SCHEME), torch.randn(2, 3, 8)
    cells = (torch.rand(2, 3, len(SCHEME.cell_labels)) < 0.4).float()
    plain, _ = probe_loss(probe, tokens, batch_of(cells=cells))
    masked, _ = probe_loss(probe, tokens, batch_of(cells=cells, known=torch.ones_like(cells)))
    assert torch.allclose(plain, masked)


def test_a_fact_that_no_scan_states_gives_no_loss_and_is_not_reported() -> None:
    torch.manual_seed(0)
    probe, tokens = Probe(8, SCHEME), torch.randn(2, 3, 8)
    loss, facts = probe_loss(probe, tokens, batch_of(plane=UNKNOWN))
    assert torch.isfinite(loss)
    assert "plane" not in facts
    loss.backward()
    assert not probe.whole.weight.grad[:2].any()
    assert probe.whole.weight.grad[2:].any()


def test_a_label_known_nowhere_counts_nothing() -> None:
    loss = torch.ones(1, 2, 2)
    known = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    assert mean_where_known(loss, known).tolist() == [1.0, 0.0]
