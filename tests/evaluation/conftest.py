"""A WordNet of a few words, a BERT of a few weights and everybody's result files: all written by code."""

from __future__ import annotations

import csv
import json
import random
from collections import defaultdict
from pathlib import Path

import pytest

SYNONYMS = {
    "noun": (("tumor", "tumour", "neoplasm"), ("cyst", "vesicle"), ("picture", "image", "scan"), ("stone", "calculus")),
    "adj": (("large", "big"), ("small", "little", "minor")),
    "verb": (("show", "demonstrate", "display"), ("see", "view")),
    "adv": (("nearby", "close_by"),),
}
LETTERS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
TEXT = """
the a liver livers spleen's large big small little cyst cysts vesicle tumor tumour seen see is are shows show display
3.5 mm, 12. 12 cm (left) lung; nodule nodules enlarge enlarged été Größe — 2-3 <b> &amp; & kidney picture image
No. not; Dr. 5,000 1.2.3 肝臓 naïve U.S. end.
"""
WORDS = TEXT.split()


NUM_WORDS = 6


@pytest.fixture(scope="session", autouse=True)
def few_words():
    """A random model never ends its answer: six tokens are enough to tell two apart."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("controls", "predict", "faithfulness"):
            patch.setattr(f"slicesight.evaluation.{module}.MAX_NEW_TOKENS", NUM_WORDS)
        yield


@pytest.fixture(scope="session")
def nltk_folder(tmp_path_factory) -> Path:
    """WordNet and punkt_tab in nltk's own file formats, with a handful of entries."""
    folder = tmp_path_factory.mktemp("nltk_data")
    wordnet, punkt = folder / "corpora" / "wordnet", folder / "tokenizers" / "punkt_tab" / "english"
    wordnet.mkdir(parents=True)
    punkt.mkdir(parents=True)
    for number, (pos, synsets) in enumerate(SYNONYMS.items()):
        header = "  1 This is a stand-in for tests. WordNet 3.0 Copyright of nobody.  \n"
        data, places = header, defaultdict(list)
        for words in synsets:
            offset = len(data)
            listed = " ".join(f"{word} 0" for word in words)
            frames = " 00" if pos == "verb" else ""
            data += f"{offset:08d} 0{number} {LETTERS[pos]} {len(words):02x} {listed} 000{frames} | a gloss  \n"
            for word in words:
                places[word].append(offset)
        lines = [f"{word} {LETTERS[pos]} 1 0 1 0 {offsets[0]:08d}  \n" for word, offsets in sorted(places.items())]
        (wordnet / f"data.{pos}").write_text(data)
        (wordnet / f"index.{pos}").write_text(header + "".join(lines))
        (wordnet / f"{pos}.exc").write_text("")
    (wordnet / "lexnames").write_text("".join(f"{n:02d}\tfile{n}\t1\n" for n in range(5)))
    for name in ("index.sense", "cntlist.rev"):
        (wordnet / name).write_text("")
    for name, text in (("abbrev_types.txt", "dr\nno"), ("collocations.tab", "##number##\tcm"),
                       ("sent_starters.txt", "the"), ("ortho_context.tab", "liver\t36")):  # fmt: skip
        (punkt / name).write_text(text + "\n")
    return folder


@pytest.fixture
def nltk_data(nltk_folder, monkeypatch):
    """The tiny data where nltk looks first."""
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(nltk_folder)])
    return nltk_folder


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory) -> Path:
    """A BERT of two random layers with a WordPiece vocabulary of single letters and a few words."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "bert"
    folder.mkdir()
    letters = [chr(code) for code in range(33, 127)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    vocabulary += ["the", "liver", "cyst", "large", "lung"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, initializer_range=0.5,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text_pairs() -> list[tuple[str, str]]:
    return make_text_pairs()


def make_text_pairs() -> list[tuple[str, str]]:
    """240 pairs of texts: equal, alike, unlike, empty, one letter, numbers, other scripts."""
    rng = random.Random(3)
    odd = [("", ""), ("", "the liver"), ("the liver", ""), ("  ", "x"), ("A", "a"), ("liver.", "Liver"), ("12.", "12")]
    pairs = [*odd, ("a\nb", "a b"), ("\u2028", "liver"), ("...", "..."), ("3.5 mm", "3.5mm"), ("No.", "no")]
    while len(pairs) < 240:
        said = " ".join(rng.choices(WORDS, k=rng.randint(1, 25)))
        true = " ".join(rng.choices(WORDS, k=rng.randint(1, 25)))
        if len(pairs) % 3 == 0:
            true = said.replace("large", "big").replace("shows", "display") + " " + rng.choice(WORDS)
        if len(pairs) % 7 == 0:
            true = said
        pairs.append((said, true))
    return pairs


@pytest.fixture
def peers(tmp_path) -> Path:
    """The three result csv's of M3D, and outputs and answers of the official Med-2E3."""
    folder = tmp_path / "peers"
    folder.mkdir()
    write_csv(
        folder / "eval_caption.csv",
        ["Question", "Ground Truth", "pred", "bleu", "rouge1", "meteor", "bert_f1"],
        [
            ["Describe.", "The liver is large.", "The liver is large.", 1, 1, 1, 1],
            ["Describe.", "A cyst.", "", 0, 0, 0, 0],
        ],
    )
    closed = "Which organ? Choices: A. liver B. spleen C. left lung D. NA"
    write_csv(
        folder / "eval_close_vqa.csv",
        ["Question Type", "Question", "Answer", "Answer Choice", "Pred", "Correct"],
        [
            [3, closed, "spleen", "B", "B. spleen", 1],
            [3, closed, "spleen", "B", "spleen", 0],
            [5, closed, "liver", "A", "", 0],
        ],
    )
    write_csv(
        folder / "eval_open_vqa.csv",
        ["Question Type", "Question", "Answer", "Pred", "bleu", "rouge1", "meteor", "bert_f1"],
        [[1, "Which plane?", "axial", "axial", 1, 1, 1, 1], [2, "Which phase?", "arterial", "venous", 0, 0, 0, 0]],
    )
    (folder / "close.json").write_text(json.dumps([{"idx": 0, "outputs": " B. spleen"}, {"idx": 1, "outputs": "C"}]))
    (folder / "close_answers.json").write_text(
        json.dumps(
            [
                {"id": "7", "answer": "spleen", "answer_choice": "B", "question_type": "3"},
                {"id": "8", "answer": "liver", "answer_choice": "A", "question_type": "5"},
            ]
        )
    )
    return folder


def write_csv(path: Path, header: list[str], rows: list[list[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def prediction_line(**fields: object) -> str:
    usual = {"id": "0", "task": "open", "topic": "organ", "question": "Which organ?", "prediction": "spleen",
             "answer": "spleen", "answer_choice": None}  # fmt: skip
    return json.dumps({**usual, **fields}) + "\n"


@pytest.fixture
def predictions_file(tmp_path):
    """A function that writes predictions of a system that is right about `share` of the questions."""

    def write(name: str, share: float, *, volumes: int = 20, seed: int = 0) -> Path:
        rng = random.Random(seed)
        path = tmp_path / name
        lines = []
        for volume in range(volumes):
            for number, topic in enumerate(("plane", "phase", "organ", "organ")):
                right = rng.random() < share
                task = "closed" if number == 3 else "open"
                said = ("B. spleen" if task == "closed" else "spleen") if right else ""
                lines.append(
                    prediction_line(
                        id=f"{volume}/{number}", task=task, topic=topic, prediction=said, volume=f"v{volume}",
                        answer_choice="B" if task == "closed" else None, choices=["liver", "spleen"],
                    )
                )  # fmt: skip
        path.write_text("".join(lines))
        return path

    return write


@pytest.fixture(scope="session")
def scans(tmp_path_factory) -> Path:
    """A manifest of three coarse phantoms as NIfTI, each with three of its questions."""
    from slicesight.data.manifest import write_manifest
    from slicesight.io.writers import write_nifti
    from slicesight.phantoms.folder import phantom_case
    from slicesight.phantoms.rendering import make_phantom

    folder = tmp_path_factory.mktemp("scans")
    cases = []
    for index in range(3):
        phantom = make_phantom(7, index, pixel_mm=(4.0, 5.0))
        write_nifti(phantom.volume, folder / f"{index}.nii.gz")
        case = phantom_case(phantom, seed=7, index=index, volume=f"{index}.nii.gz")
        asked = (case.conversations[3], case.conversations[4], case.conversations[8])
        cases.append(case.model_copy(update={"conversations": asked}))
    write_manifest(cases, folder / "manifest.jsonl")
    return folder


@pytest.fixture
def sure_file(tmp_path):
    """A function that writes predictions with confidences and slices: right with probability `confidence ** power`."""

    def write(name: str = "sure.jsonl", *, power: float = 1.5, volumes: int = 40, patients: int | None = None) -> Path:
        import numpy as np

        rng, lines = np.random.default_rng(5), []
        for volume in range(volumes):
            for number, task in enumerate(("open", "closed", "closed", "closed")):
                confidence = float(rng.beta(3, 1.5))
                right = bool(rng.random() < confidence**power)
                said = ("B. spleen" if right else "A. liver") if task == "closed" else ("spleen" if right else "liver")
                lines.append(
                    prediction_line(
                        id=f"{volume}/{number}", task=task, prediction=said, volume=f"v{volume}",
                        answer_choice="B" if task == "closed" else None, choices=["liver", "spleen"],
                        confidence=confidence, scores=rng.dirichlet(np.ones(8)).tolist(), true_slices=[2, 3],
                        slice_places_mm=[5.0 * place for place in range(8)],
                        **({"patient": f"p{volume % patients}"} if patients else {}),
                    )
                )  # fmt: skip
        path = tmp_path / name
        path.write_text("".join(lines))
        return path

    return write
