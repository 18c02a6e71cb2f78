"""Which findings does a report claim, which does it deny, and which does it think possible? Rules for CT-RATE's 18.

Sentence by sentence: where a finding is named (`finding_words`), what is said of it is looked for in its clause, as
NegEx does (Chapman et al. 2001, doi:10.1006/jbin.2001.1029): a denial before it ("no", "without") reaches to the next
"but", to a comma behind a verb or to a comma behind which something new is described; a denial behind it ("was not
observed", "has resolved") reaches back over its list. "No change in" denies nothing. Possible, suspected, "cannot be
excluded" is uncertain. A finding of a report is there if one sentence says so, uncertain if none does and one thinks it
possible, else absent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from slicesight.data.sources.ct_rate import FINDINGS
from slicesight.evaluation.metrics.finding_words import (
    BOTH_SIDES,
    ONE_SIDE,
    PATTERNS,
    PLACES,
    REAL_WORDS,
    VOCABULARY,
)
from slicesight.evaluation.metrics.labels import Labels, Place, Uncertain

Status = Literal["present", "uncertain", "absent"]
_RANK = {"absent": 0, "uncertain": 1, "present": 2}

_SENTENCE = re.compile(r"(?<=[a-z0-9)])[.!](?=\s|$)|(?<=\?)\s|[;\n•]|^\s*-\s", re.MULTILINE)
_HARD_END = r"\b(?:but|however|although|though|whereas|while|except(?: for)?|apart from|other than|yet|only|besides)\b"
_VERB = r"\b(?:is|are|was|were|has|have|had|seen|noted|observed|present|persists?|shows?)\b"
_NEW = (
    r"(?:mild|minimal|small|moderate|severe|large|diffuse|extensive|multiple|several|few|new|increased|linear|focal|patchy|"
    r"an?|the|there|slight|subtle|both|bilateral|some|residual|definite|millimetric|\d+)\b"
)
_SCOPE_END = re.compile(rf"{_HARD_END}|\bthere (?:is|are|was|were)\b(?! no)|,\s*(?={_NEW})")
_NO_DENIAL = re.compile(
    r"\b(?:no|not|without|never)(?: (?:any|a|the|significant\w*|interval|appreciable|definite|obvious|marked|much|in))*"
    r" (?:change\w*|increase\w*|decrease\w*|difference|progression|regression|doubt|only|larger|smaller|resolved|"
    r"improv\w+|cleared|disappeared|regressed)\b|\bnot only\b|\bunresolved\b|\bhas(?: not|n't) resolved\b"
)
_BEFORE = re.compile(
    r"\b(?:no(?: definite| convincing)?(?: (?:sign|signs|evidence|finding|findings|trace)(?: of)?)?|without|absence of|"
    r"absent|free of|free from|clear of|negative for|neither|nor|never|denies|rather than|instead of|lack of|excluded?|"
    r"ruled out|resolved|resolution of|disappearance of|removal of|not)\b|n't\b"
)
_BEHIND = re.compile(
    r"(?:\b(?:not|no longer|never)\b|n't\b)(?: \w+ly)?(?: been)?(?: (?:be|any))?\s*"
    r"(?:seen|observed|detected|present|identified|noted|found|visible|visualized|demonstrated|evident|shown|appreciated|"
    r"followed|available|distinguished|selected|recognized|any)?\b|"
    r"\b(?:is|are|was|were) (?:absent|negative|excluded|ruled out|removed|resolved)\b|\babsent\b|"
    r"\b(?:has|have)(?: (?:completely|totally|fully|now|since|been|already))* "
    r"(?:resolved|disappeared|cleared|vanished|regressed completely|removed)\b|"
    r"\b(?:resolved|disappeared|cleared|gone)(?: completely)?$|\bfree of\b|\b(?:unlikely|less likely)\b|"
    r"\bneither$|[:-]\s*(?:no|none|negative|nil)$|^\s*\(\s*-\s*\)"
)
_PART = re.compile(
    r"\b(?:almost|nearly|partial\w*|partly|mostly|largely|incomplete\w*|resolving|decreas\w+|has not|have not|not yet|"
    r"unresolved)\b"
)
_MAY = r"\b(?:may|might|could)\b(?: also| well)? (?:be|represent|reflect|indicate|have|correspond|suggest|mean)\b"
_NOT_EXCLUDED = (
    r"\b(?:can|could)(?:not|n't| not) (?:be )?(?:completely )?(?:excluded?|ruled? out)\b|"
    r"\bnot (?:be )?(?:excluded|ruled out)\b"
)
_DOUBT_BEFORE = re.compile(
    rf"\b(?:possib\w+|probab\w+|suspicious(?: for)?|suspected|suspicion|suggest\w*|(?<!less )likely|questionable|"
    rf"versus|vs|doubtful|equivocal|differential|to be considered)\b|{_MAY}|{_NOT_EXCLUDED}"
)
_DOUBT_BEHIND = re.compile(
    rf"\b(?:is|are|was|were|be|remains?)\b[^,]*?\b(?:possible|probable|(?<!un)(?<!less )likely|suspected|questionable|"
    rf"considered|doubtful|equivocal)\b|\b(?:versus|vs)\b|{_NOT_EXCLUDED}|^[^,]*\?"
)
_EXCUSED = re.compile(_NOT_EXCLUDED + "|" + r"\b(?:can|could)(?:not|n't| not)$|\b(?:can|could)n't\b$")
_NO_DOUBT = re.compile(r"\b(?:no doubt|definite\w*|doubtless)\b")
_SUSPECT = re.compile(r"(?:micro)?nodul|lymph|node")
_PREDICATE = re.compile(r"\b(?:enlarged|increased|thickened|dilated)$")
_OUTSIDE = re.compile(
    r"^\s*(?:indication|clinical (?:information|history|data|question)|history|reason for (?:exam\w*|study)|request|"
    r"technique|question|comparison)\b\s*:|\b(?:history of|evaluate for|evaluation for|"
    r"to (?:exclude|rule out|look for)|rule out|if an?|in case of|risk of|r/o|advised if|recommended if)\b"
)
_CONTRAST = re.compile(_HARD_END)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a report says of one finding."""

    status: Status
    place: Place


def label_texts(volumes: Sequence[str], texts: Sequence[str], *, uncertain: Uncertain = "present") -> Labels:
    """The table of what reports say, one scan each; uncertain: what a finding that is only possible counts as."""
    read = [read_report(text) for text in texts]
    value = {"present": 1.0, "absent": 0.0, "uncertain": float(uncertain == "present")}
    present = [[value[found[name].status] if name in found else 0.0 for name in FINDINGS] for found in read]
    places = {
        (volume, name): finding.place
        for volume, found in zip(volumes, read, strict=True)
        for name, finding in found.items()
        if finding.status != "absent" and (finding.place.side or finding.place.location)
    }
    num_uncertain = sum(finding.status == "uncertain" for found in read for finding in found.values())
    return Labels(
        volumes=tuple(volumes),
        findings=FINDINGS,
        present=np.array(present, dtype=np.float64).reshape(len(read), len(FINDINGS)),
        places=places,
        about={"from": "rules", "num_uncertain": num_uncertain, "uncertain_counts_as": uncertain},
    )


def read_report(text: str) -> dict[str, Finding]:
    """What is said of each finding that a report names, denied ones too."""
    found: dict[str, Finding] = {}
    for sentence in sentences(text):
        for name, start, end in _mentions(sentence):
            status = _status(sentence, start, end)
            if status is None:
                continue
            place = _place(sentence, start, end) if status != "absent" else Place()
            found[name] = _stronger(found.get(name), Finding(status=status, place=place))
    return found


def sentences(text: str) -> Iterator[str]:
    """Lower-case sentences with single spaces, misspelled words of the vocabulary put right."""
    text = text.replace("’", "'").replace("–", "-").lower()
    for piece in _SENTENCE.split(text):
        words = " ".join(re.sub(r"[a-z]{5,}", lambda word: _spelled(word.group()), piece).split()).strip(" .!")
        if words:
            yield words


def _stronger(one: Finding | None, other: Finding) -> Finding:
    """Of two statements the stronger status, with all places that go with it."""
    if one is None or _RANK[other.status] > _RANK[one.status]:
        return other
    if other.status != one.status:
        return one
    sides, locations = (getattr(one.place, kind) | getattr(other.place, kind) for kind in ("side", "location"))
    return Finding(status=one.status, place=Place(side=sides, location=locations))


@lru_cache(maxsize=2**10)
def _mentions(sentence: str) -> tuple[tuple[str, int, int], ...]:
    found: list[tuple[str, int, int]] = []
    for name, patterns in PATTERNS.items():
        spans: list[tuple[int, int]] = []
        for pattern in patterns:
            for match in pattern.finditer(sentence):
                if not any(match.start() < end and start < match.end() for start, end in spans):
                    spans.append(match.span())
        found += [(name, start, end) for start, end in spans]
    return tuple(found)


def _status(sentence: str, start: int, end: int) -> Status | None:
    """What a sentence says of the finding named at [start, end); None where it is not about this scan."""
    if _OUTSIDE.search(sentence[:start]):
        return None
    before, named, after = _reach_before(sentence[:start]), sentence[start:end], _reach_behind(sentence[end:])
    if _PREDICATE.search(named):  # "heart size increased, effusion not seen": said already
        after = after.partition(",")[0]
    is_denied = _denies(before) or _denies_within(named) or _denied_behind(after)
    if is_denied and not _PART.search(f"{before[-40:]} {after}"):
        return "absent"
    first, last = _clause(sentence, start, end)
    told = sentence[first:start]
    if _SUSPECT.match(named):  # a suspicious nodule is one, of whatever kind
        told = told.removesuffix("suspicious ")
    is_doubted = _DOUBT_BEFORE.search(told) or _DOUBT_BEHIND.search(sentence[end:last])
    return "uncertain" if is_doubted and not _NO_DOUBT.search(sentence[first:last]) else "present"


def _denies(before: str) -> bool:
    """Whether a denial before the finding reaches it."""
    for cue in reversed(list(_BEFORE.finditer(before))):
        if _NO_DENIAL.match(before, cue.start()) or _EXCUSED.search(before[: cue.end()]):
            continue
        between = before[cue.end() :]
        if cue.group() in ("absent", "excluded", "ruled out", "not", "n't", "exclude") and between.count(" ") > 4:
            continue
        if cue.group() in ("not", "n't", "absent", "resolved") and re.search(r",|\band\b", between):
            continue
        if re.search(rf"{_VERB}[^,]*(?:,|\band\b)", between):
            continue
        return True
    return False


def _denies_within(named: str) -> bool:
    return bool(re.search(r"\b(?:not|no longer|without|no|free of)\b", named))


def _denied_behind(after: str) -> bool:
    cue = _BEHIND.search(after)
    if cue is None or not cue.group().strip() or _NO_DENIAL.search(after) or _EXCUSED.search(after):
        return False
    between = after[: cue.start()]
    return not re.search(rf"{_VERB}.*(?:,|\band\b)|\bwithout\b|\bno\b", between)


def _reach_before(text: str) -> str:
    """The part of a sentence before a finding from which a denial can reach it."""
    ends = list(_SCOPE_END.finditer(text))
    return text[ends[-1].end() :] if ends else text


def _reach_behind(text: str) -> str:
    end = re.search(rf"{_HARD_END}|,?\s*\bthere (?:is|are)\b|\bwith(?:out)?\b", text)
    return text[: end.start()] if end else text


def _clause(sentence: str, start: int, end: int) -> tuple[int, int]:
    """Where the part of the sentence between the commas and contrasts round a finding begins and ends."""
    borders = [match.span() for match in re.finditer(rf",|{_CONTRAST.pattern}", sentence)]
    first = max((stop for _, stop in borders if stop <= start), default=0)
    last = min((begin for begin, _ in borders if begin >= end), default=len(sentence))
    return first, last


def _place(sentence: str, start: int, end: int) -> Place:
    """Side and location: of the finding's own clause, else of the sentence where it names no other finding."""
    others = sorted((first, last) for _, first, last in _mentions(sentence) if last <= start or first >= end)
    first, last = 0, len(sentence)
    for begin, stop in others:
        if stop <= start:
            first = max(first, _cut(sentence, stop, start, is_before=True))
        elif begin >= end:
            last = min(last, _cut(sentence, end, begin, is_before=False))
    own = sentence[first:last]
    side = {name for name, pattern in ONE_SIDE.items() if pattern.search(own)}
    if BOTH_SIDES.search(own):
        side = {"left", "right"}
    location = frozenset(name for name, pattern in PLACES.items() if pattern.search(own))
    return Place(side=frozenset(side), location=location)


def _cut(sentence: str, low: int, high: int, *, is_before: bool) -> int:
    """Where between two findings the words change from one to the other: at the last comma or "and"."""
    marks = list(re.finditer(r",|;|\band\b|\bwith\b|\bno\b|\bbut\b", sentence[low:high]))
    if not marks:
        return low if is_before else high
    return low + (marks[-1].end() if is_before else marks[-1].start())


@lru_cache(maxsize=2**14)
def _spelled(word: str) -> str:
    """The word of the vocabulary that differs by one letter (left out, doubled, changed, swapped), else the word."""
    if word in _KNOWN or word in REAL_WORDS:
        return word
    near = [known for known in VOCABULARY if abs(len(known) - len(word)) < 2 and _is_one_off(word, known)]
    return near[0] if len(near) == 1 else word


def _is_one_off(word: str, known: str) -> bool:
    if word[:1] != known[:1] and word[1:] != known[1:]:
        return False
    start = next((place for place, (a, b) in enumerate(zip(word, known, strict=False)) if a != b), None)
    if start is None:
        return True
    rest, other = word[start:], known[start:]
    is_swapped = rest[:2] == other[:2][::-1] and rest[2:] == other[2:]
    return is_swapped or rest[1:] == other[1:] or rest[1:] == other or rest == other[1:]


_KNOWN = frozenset(VOCABULARY)
