"""METEOR as nltk and the papers' scorer compute it, with the words' stems and synonyms looked up once.

Words are matched exactly, then by Porter stem, then by WordNet synonym, each time from the end of the output to the
last free word of the truth. F = P R / (0.9 P + 0.1 R), METEOR = F (1 - 0.5 (chunks / matches)^3).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import pairwise
from typing import Any

from .missing import MissingPartError

ALPHA, BETA, GAMMA = 0.9, 3.0, 0.5
HOW_TO_GET = (
    "METEOR needs nltk with its WordNet and punkt_tab data: pip install nltk, then "
    "python -m nltk.downloader wordnet punkt_tab, or set NLTK_DATA to a folder that holds corpora/wordnet and "
    "tokenizers/punkt_tab"
)
Indexed = list[tuple[int, str]]


class Meteor:
    """The metric with its caches; `load` checks that nltk's data is here."""

    def __init__(
        self,
        *,
        tokenize: Callable[[str], list[str]],
        stem: Callable[[str], str],
        synonyms: Callable[[str], frozenset[str]],
    ) -> None:
        self.stem = lru_cache(maxsize=2**16)(stem)
        self.synonyms = lru_cache(maxsize=2**16)(synonyms)
        self.words = lru_cache(maxsize=2**14)(lambda text: tuple(word.lower() for word in tokenize(text)))
        self.about: dict[str, Any] = {}

    @classmethod
    def load(cls) -> Meteor:
        """The metric on nltk's tokenizer, stemmer and WordNet, the same one every time.

        Raises:
            MissingPartError: nltk or its data is not installed.
        """
        return _load()

    def score(self, said: str, true: str) -> float:
        """METEOR of one pair in [0, 1]."""
        hypothesis, reference = self.words(said), self.words(true)
        matches = self._align(list(enumerate(hypothesis)), list(enumerate(reference)))
        if not matches:
            return 0.0
        precision, recall = len(matches) / len(hypothesis), len(matches) / len(reference)
        balanced = precision * recall / (ALPHA * precision + (1 - ALPHA) * recall)
        chunks = 1 + sum(later != (earlier[0] + 1, earlier[1] + 1) for earlier, later in pairwise(matches))
        return (1 - GAMMA * (chunks / len(matches)) ** BETA) * balanced

    def _align(self, said: Indexed, true: Indexed) -> list[tuple[int, int]]:
        """(place in said, place in true) of every matched pair of words, in order of the first."""
        matches, said, true = _match(said, true, _itself)
        if said and true:
            said = [(place, self.stem(word)) for place, word in said]
            true = [(place, self.stem(word)) for place, word in true]
            found, said, true = _match(said, true, _itself)
            matches += found
        if said and true:  # nltk looks the synonyms of stems up, not of words
            matches += _match(said, true, self.synonyms)[0]
        return sorted(matches)


def _match(
    said: Indexed, true: Indexed, same: Callable[[str], Iterable[str]]
) -> tuple[list[tuple[int, int]], Indexed, Indexed]:
    """Match each word, from the last to the first, with the last free one that is the same; then what is left."""
    free: dict[str, list[int]] = defaultdict(list)
    for index, (_, word) in enumerate(true):
        free[word].append(index)
    matches, used_said, used_true = [], set(), set()
    for index in range(len(said) - 1, -1, -1):
        best = max((free[word][-1] for word in same(said[index][1]) if free.get(word)), default=None)
        if best is not None:
            free[true[best][1]].pop()
            used_said.add(index)
            used_true.add(best)
            matches.append((said[index][0], true[best][0]))
    left_said = [pair for index, pair in enumerate(said) if index not in used_said]
    left_true = [pair for index, pair in enumerate(true) if index not in used_true]
    return matches, left_said, left_true


def _itself(word: str) -> tuple[str]:
    return (word,)


@lru_cache(maxsize=1)
def _load() -> Meteor:
    try:
        import nltk
        from nltk.corpus import wordnet
        from nltk.stem.porter import PorterStemmer
    except ImportError as error:
        raise MissingPartError(f"{error.name} is not installed. {HOW_TO_GET}") from error
    stemmer = PorterStemmer()

    def synonyms(word: str) -> frozenset[str]:
        names = (lemma.name() for synset in wordnet.synsets(word) for lemma in synset.lemmas())
        return frozenset({word, *(name for name in names if "_" not in name)})

    metric = Meteor(tokenize=nltk.word_tokenize, stem=stemmer.stem, synonyms=synonyms)
    try:
        nltk.word_tokenize("One word. Another.")
        synonyms("scan")
        version = wordnet.get_version()
    except (LookupError, OSError) as error:
        raise MissingPartError(f"nltk's data is not here. {HOW_TO_GET}") from error
    metric.about = {"nltk": nltk.__version__, "wordnet": version}
    return metric
