"""What can be said and asked about a phantom: a report in varied English and M3D's eleven question-answer pairs.

Every text follows from `PhantomTruth`; `read_findings` reads (organ, abnormality, part) triples back out of a report,
ours or a model's, so that reports can be scored by what they claim and not by how they sound.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.random import Generator

from slicesight.data.choices import same_text
from slicesight.data.manifest import LETTERS, Conversation
from slicesight.data.sources.intake import REPORT_QUESTIONS
from slicesight.phantoms.anatomy import ABNORMALITIES, HOSTS, ORGANS_BY_NAME, PHASES, Finding, PhantomTruth
from slicesight.volumes.volume import PLANES

TOPICS = ("plane", "phase", "organ", "abnormality", "location")
NO_ORGAN, NO_ABNORMALITY, NO_LOCATION = "none of the organs", "no abnormality", "nowhere in this scan"
KINDS = tuple(kind.name for kind in ABNORMALITIES)
Triple = tuple[str, str, str]


def location_phrase(organ: str, part: str) -> str:
    """("right kidney", "upper pole") -> "upper pole of the right kidney"."""
    return f"{part} of the {organ}"


LOCATIONS: dict[str, tuple[str, str]] = {
    location_phrase(host, part): (host, part) for host in HOSTS for part in (ORGANS_BY_NAME[host].parts or ())
}


def phantom_conversations(truth: PhantomTruth, rng: Generator, *, num_slices: int) -> tuple[Conversation, ...]:
    """The eleven pairs of one phantom: 1 report, 5 open, 5 closed, in random wording.

    Args:
        num_slices: source slices of the scan, all of which show its plane.
    """
    writer = _Writer(truth, rng, num_slices)
    report, facts = writer.report(), [writer.fact(topic) for topic in TOPICS]
    opened = [writer.open(*fact) for fact in facts]
    return (report, *opened, *(writer.closed(*fact) for fact in facts))


def read_findings(report: str) -> set[Triple]:
    """(organ, abnormality, part) triples that a report claims; a sentence must name both kind and place."""
    triples: set[Triple] = set()
    for sentence in re.split(r"[.;]", report.lower()):
        kinds = [kind for kind in KINDS if kind in sentence]
        places = [place for place in LOCATIONS if place in sentence]
        if len(kinds) == 1 and len(places) == 1:
            organ, part = LOCATIONS[places[0]]
            triples.add((organ, kinds[0], part))
    return triples


def same_findings(said: str, true: str) -> bool:
    """Whether two reports claim the same findings.

    Where neither names one that can be read, they are the same only if both say that there is no abnormality, or word
    for word: two reports of which nothing was understood do not agree.
    """
    if read_findings(said) or read_findings(true):
        return read_findings(said) == read_findings(true)
    return same_text(said, true) or all("no abnormality" in report.lower() for report in (said, true))


_QUESTIONS = {
    "plane": (
        "In which plane was this scan acquired?",
        "Which plane do the slices show?",
        "What is the imaging plane?",
    ),
    "phase": (
        "Which contrast phase is this?",
        "What is the contrast phase of this CT?",
        "Which phase does the scan show?",
    ),
    "organ": ("Which organ contains the {}?", "In which organ is the {}?", "Which organ shows the {}?"),
    "abnormality": (
        "Which abnormality is in the {}?",
        "What is seen in the {}?",
        "What kind of lesion does the {} contain?",
    ),
    "location": ("Where is the {}?", "Where is the {} located?", "What is the location of the {}?"),
}
_Fact = tuple[str, str, str, tuple[int, ...]]  # topic, subject of the question, answer, slices that show it


class _Writer:
    def __init__(self, truth: PhantomTruth, rng: Generator, num_slices: int) -> None:
        self.truth, self.rng = truth, rng
        self.all_slices = tuple(range(num_slices))

    def pick(self, *options: str) -> str:
        return options[self.rng.integers(len(options))]

    def report(self) -> Conversation:
        truth, pick = self.truth, self.pick
        opening = pick(
            f"{truth.plane.capitalize()} CT of the trunk, {truth.phase}.",
            f"CT of the trunk in the {truth.plane} plane, {truth.phase}.",
        )
        order = self.rng.permutation(len(truth.findings))
        sentences = [opening, *(self._finding_sentence(truth.findings[i]) for i in order)]
        if not truth.findings:
            sentences.append(pick("No abnormality is seen.", "There is no abnormality in the organs shown."))
        healthy = [host for host in HOSTS if host not in {finding.organ for finding in truth.findings}]
        named = ", the ".join(healthy[:-1]) + " and the " + healthy[-1]
        sentences.append(pick(f"The {named} are normal.", f"The {named} are unremarkable."))
        question = pick(*REPORT_QUESTIONS)
        shown = sorted({i for finding in truth.findings for i in finding.source_slices}) or self.all_slices
        return Conversation(
            task="report", topic="report", question=question, answer=" ".join(sentences), source_slices=tuple(shown)
        )

    def _finding_sentence(self, finding: Finding) -> str:
        place = location_phrase(finding.organ, finding.part)
        size = "small" if finding.diameter_mm < 22 else "medium-sized" if finding.diameter_mm < 34 else "large"
        thing = f"a {size} {finding.abnormality}"
        return self.pick(
            f"There is {thing} in the {place}.",
            f"{thing.capitalize()} is seen in the {place}.",
            f"The {place} contains {thing}.",
            f"The {place} shows {thing}.",
        )

    def fact(self, topic: str) -> _Fact:
        """What a question of this topic is about and its answer; open and closed form share it."""
        truth, rng = self.truth, self.rng
        if topic == "plane":
            return topic, "", truth.plane, self.all_slices
        if topic == "phase":
            return topic, "", truth.phase, truth.organ_slices["aorta"] or self.all_slices
        if not truth.findings or rng.random() < (0.08 if topic == "abnormality" else 0.04):
            return self._absent_fact(topic)
        finding = truth.findings[rng.integers(len(truth.findings))]
        if topic == "abnormality":
            return topic, finding.organ, finding.abnormality, finding.source_slices
        answer = finding.organ if topic == "organ" else location_phrase(finding.organ, finding.part)
        return topic, finding.abnormality, answer, finding.source_slices

    def _absent_fact(self, topic: str) -> _Fact:
        """About an organ without a finding, or a kind of finding that is not there."""
        held = {name for finding in self.truth.findings for name in (finding.organ, finding.abnormality)}
        absent = [name for name in (HOSTS if topic == "abnormality" else KINDS) if name not in held]
        subject = absent[self.rng.integers(len(absent))]
        if topic == "abnormality":
            return topic, subject, NO_ABNORMALITY, self.truth.organ_slices[subject] or self.all_slices
        return topic, subject, NO_ORGAN if topic == "organ" else NO_LOCATION, self.all_slices

    def open(self, topic: str, subject: str, answer: str, slices: tuple[int, ...]) -> Conversation:
        question = self._wording(topic, subject)
        if topic == "abnormality" and self.rng.random() < 0.3:
            question = self.pick(f"Is there an abnormality in the {subject}?", f"Is there a lesion in the {subject}?")
            answer = "no" if answer == NO_ABNORMALITY else f"yes, {_with_article(answer)}"
        return Conversation(task="open", topic=topic, question=question, answer=answer, source_slices=slices)

    def closed(self, topic: str, subject: str, answer: str, slices: tuple[int, ...]) -> Conversation:
        listed = [answer, *self._distractors(topic, subject, answer)]
        choices = [listed[i] for i in self.rng.permutation(len(listed))]
        return Conversation(
            task="closed",
            topic=topic,
            question=self._wording(topic, subject),
            choices=tuple(choices),
            answer=answer,
            answer_choice=LETTERS[choices.index(answer)],
            source_slices=slices,
        )

    def _wording(self, topic: str, subject: str) -> str:
        return self.pick(*_QUESTIONS[topic]).format(subject)

    def _distractors(self, topic: str, subject: str, answer: str) -> list[str]:
        rng = self.rng
        if topic == "plane":
            return [plane for plane in (*PLANES, "oblique") if plane != answer]
        if topic == "phase":
            return [phase for phase in PHASES if phase != answer]
        if topic == "abnormality":
            pool = [kind for kind in KINDS if kind != answer]
            return self._with_none(NO_ABNORMALITY, answer, pool, probability=0.4)
        hosts = next(kind.hosts for kind in ABNORMALITIES if kind.name == subject)
        if topic == "organ":
            return self._with_none(NO_ORGAN, answer, [host for host in hosts if host != answer], probability=0.35)
        pool = [place for place, (organ, _) in LOCATIONS.items() if place != answer and organ in hosts]
        wrong = self._with_none(NO_LOCATION, answer, pool, probability=0.35)
        if answer in LOCATIONS and rng.random() < 0.6:  # the other part of the same organ is the hardest distractor
            organ = LOCATIONS[answer][0]
            other = next(place for place in pool if LOCATIONS[place][0] == organ)
            if other not in wrong:
                wrong[int(rng.integers(1, 3))] = other
        return wrong

    def _with_none(self, none: str, answer: str, pool: list[str], *, probability: float) -> list[str]:
        """Three distractors; "none of them" among them often enough that its presence says nothing."""
        wrong = [pool[i] for i in self.rng.permutation(len(pool))[:3]]
        if answer != none and self.rng.random() < probability:
            wrong[0] = none
        return wrong


def _with_article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def conversation_rng(seed: int, index: int, epoch: int = 0) -> Generator:
    """The stream that words the texts of phantom `index`; another epoch asks other questions about the same scan."""
    return np.random.default_rng(np.random.SeedSequence([seed, index, 1 + epoch]))
