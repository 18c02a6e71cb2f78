"""METEOR as nltk and the papers' scorer compute it, with the words' stems and synonyms looked up once.

Words are matched exactly, then by Porter stem, then by WordNet synonym, each time from the end of the output to the
last free word of the truth. F = P R / (0.9 P + 0.1 R), METEOR = F (1 - 0.5 (chunks / matches)^3). nltk's tokenizer
costs ten times the rest, so words of plain sentences are split once each.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

from slicesight.evaluation.metrics import MetricOptions, MissingPartError, TextMetric, per_pair

ALPHA, BETA, GAMMA = 0.9, 3.0, 0.5
DEFINITION = "METEOR, alpha 0.9, beta 3, gamma 0.5, exact, then stem, then WordNet synonyms (nltk)"
HOW_TO_GET = (
    "METEOR needs nltk with its WordNet and punkt_tab data: pip install nltk, then "
    "python -m nltk.downloader wordnet punkt_tab, or set NLTK_DATA to a folder that holds corpora/wordnet and "
    "tokenizers/punkt_tab"
)
Indexed = list[tuple[int, str]]
_WORD = r"[(]?[A-Za-z0-9]+(?:[-/.][A-Za-z0-9]+)*[)]?[.,;:]?"
_PLAIN = re.compile(rf"{_WORD}(?: {_WORD})*")


def load_meteor(options: MetricOptions) -> TextMetric:
    """METEOR, where nltk's data is here."""
    return per_pair(Meteor.load().score, definition=DEFINITION, **Meteor.load().about)


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

    @staticmethod
    @lru_cache(maxsize=1)
    def load() -> Meteor:
        """The metric on nltk's tokenizer, stemmer and WordNet, the same one every time.

        Raises:
            MissingPartError: nltk or its data is not installed.
        """
        try:
            import nltk
            from nltk.corpus import wordnet
            from nltk.stem.porter import PorterStemmer
        except ImportError as error:
            raise MissingPartError(f"{error.name} is not installed. {HOW_TO_GET}") from error

        def synonyms(word: str) -> frozenset[str]:
            names = (lemma.name() for synset in wordnet.synsets(word) for lemma in synset.lemmas())
            return frozenset({word, *(name for name in names if "_" not in name)})

        split = WordSplitter(sentences=nltk.sent_tokenize, words=partial(nltk.word_tokenize, preserve_line=True))
        metric = Meteor(tokenize=split, stem=PorterStemmer().stem, synonyms=synonyms)
        try:
            nltk.word_tokenize("One word. Another.")
            synonyms("scan")
            metric.about = {"nltk": nltk.__version__, "wordnet": wordnet.get_version()}
        except (LookupError, OSError) as error:
            raise MissingPartError(f"nltk's data is not here. {HOW_TO_GET}") from error
        return metric

    def score(self, said: str, true: str) -> float:
        """METEOR of one pair in [0, 1]."""
        hypothesis, reference = self.words(said), self.words(true)
        matches = self._align(list(enumerate(hypothesis)), list(enumerate(reference)))
        if not matches:
            return 0.0
        precision, recall = len(matches) / len(hypothesis), len(matches) / len(reference)
        balanced = precision * recall / (ALPHA * precision + (1 - ALPHA) * recall)
        chunks = 1 + sum(later != (earlier[0] + 1, earlier[1] + 1) for earlier, later in pairwise(matches))
        return float((1 - GAMMA * (chunks / len(matches)) ** BETA) * balanced)

    def _align(self, said: Indexed, true: Indexed) -> list[tuple[int, int]]:
        """(place in said, place in true) of every matched pair of words, in order of the first."""
        matches, said, true = _match(said, true)
        if said and true:
            said = [(place, self.stem(word)) for place, word in said]
            true = [(place, self.stem(word)) for place, word in true]
            found, said, true = _match(said, true)
            matches += found
        if said and true:  # nltk looks the synonyms of stems up, not of words
            matches += _match(said, true, self.synonyms)[0]
        return sorted(matches)


class WordSplitter:
    """nltk's word_tokenize, with sentences and plain words that were split before looked up.

    sentences: text -> sentences; words: sentence -> tokens. In a plain sentence each word between spaces is split by
    itself; only the last one ends a sentence, so every word is split with a neighbour on the right side.
    """

    def __init__(self, *, sentences: Callable[[str], list[str]], words: Callable[[str], list[str]]) -> None:
        self.sentences, self.words = sentences, words
        self.of_sentence = lru_cache(maxsize=2**14)(self._split)
        self.of_inner = lru_cache(maxsize=2**16)(lambda word: tuple(words(f"{word} x")[:-1]))
        self.of_last = lru_cache(maxsize=2**16)(lambda word: tuple(words(f"x {word}")[1:]))

    def __call__(self, text: str) -> list[str]:
        return [token for sentence in self.sentences(text) for token in self.of_sentence(sentence)]

    def _split(self, sentence: str) -> tuple[str, ...]:
        if not _PLAIN.fullmatch(sentence):
            return tuple(self.words(sentence))
        *inner, last = sentence.split()
        return (*(token for word in inner for token in self.of_inner(word)), *self.of_last(last))


def _match(
    said: Indexed, true: Indexed, synonyms: Callable[[str], Iterable[str]] | None = None
) -> tuple[list[tuple[int, int]], Indexed, Indexed]:
    """Match each word, from the last to the first, with the last free one that is the same; then what is left."""
    free: dict[str, list[int]] = defaultdict(list)
    for index, (_, word) in enumerate(true):
        free[word].append(index)
    matches, used_said, used_true = [], set(), set()
    for index in range(len(said) - 1, -1, -1):
        word = said[index][1]
        if synonyms is not None:
            best = max((free[other][-1] for other in synonyms(word) if free.get(other)), default=None)
        else:
            best = free[word][-1] if free.get(word) else None
        if best is not None:
            free[true[best][1]].pop()
            used_said.add(index)
            used_true.add(best)
            matches.append((said[index][0], true[best][0]))
    left_said = [pair for index, pair in enumerate(said) if index not in used_said]
    left_true = [pair for index, pair in enumerate(true) if index not in used_true]
    return matches, left_said, left_true
