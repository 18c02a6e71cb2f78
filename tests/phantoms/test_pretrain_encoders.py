"""Words: the language model's tokens that name what a cell shows."""

import torch

from slicesight.phantoms.pretrain_encoders import CELL_LABELS, WHOLE_LABELS, LabelWords, WordMatch
from slicesight.training.start import train_tokenizer

TEXTS = [f"There is a {name} here. {name} Answer: {name}" for name in (*CELL_LABELS, *WHOLE_LABELS)] * 5


def words() -> LabelWords:
    return LabelWords(train_tokenizer(TEXTS, vocab_size=500))


def test_any_text_survives_the_tokenizer() -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=500)
    odd = "Gibt es eine Läsion? 12 mm — [?]"
    assert tokenizer.decode(tokenizer.encode(odd)).strip() == odd


def test_a_cell_shows_the_words_of_its_labels_and_of_the_whole_scan() -> None:
    found = words()
    cells = torch.zeros(1, 2, len(CELL_LABELS))
    cells[0, 0, CELL_LABELS.index("cyst")] = 1
    shown = found.shown(cells, torch.tensor([1]), torch.tensor([0]))
    whole = set(found.of_label["coronal"]) | set(found.of_label["non-contrast"])
    assert set(shown[0, 1].nonzero().flatten().tolist()) == whole
    assert set(shown[0, 0].nonzero().flatten().tolist()) == whole | set(found.of_label["cyst"])


def test_the_match_is_better_the_nearer_a_token_points_to_its_words() -> None:
    found = words()
    embeddings = torch.randn(500, 32, generator=torch.Generator().manual_seed(0))
    match = WordMatch(found, embeddings)
    shown = torch.zeros(1, 1, len(found))
    shown[0, 0, found.of_label["cyst"]] = 1
    towards = embeddings[found.ids][found.of_label["cyst"]].sum(dim=0)[None, None]
    assert match(towards, shown) < match(torch.randn(1, 1, 32), shown) < match(-towards, shown)
    assert torch.isclose(match(towards, shown), match(7 * towards, shown)), "only the direction counts"
