"""Which of its choices does a closed answer name? Letters where they mean a choice, words where they are one.

An answer is read in the end's favour: what it declares last ("the answer is B", "答案是B", "B is correct") wins over
every letter it mentions before. Without a declaration exactly one letter must stand as one, or the words of exactly one
choice. What is denied ("not A"), asked ("is it A?") or weighed ("whether A") is not said, a letter beside another
choice's words is two answers, and two answers are none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from slicesight.data.answer_text import final_text
from slicesight.data.choice_text import flexible, plain_text, tokens

OUTCOMES = ("letter", "text", "refusal", "ambiguous", "empty", "unparsed")
"""How a closed answer was read; only the first two can be right."""
WAYS = ("alone", "marked", "declared", "boxed", "json", "tag", "words", "none")
"""Where the choice was found: the answer is a letter and nothing else, a letter that stands as one, a sentence that
declares it, what the answer was wrapped in, its words; or nowhere."""

_REFUSAL = re.compile(
    r"\b(?:can(?:not|'t| not)|could ?n(?:o|')t|unable|not able|don'?t know|do not know|impossible|not possible|"
    r"insufficient|not enough information|no answer|sorry|as an ai|uncertain|unclear|undetermined|more information|"
    r"consult (?:a|your|with)|no (?:image|scan|images) (?:was|were|is|has)|ne peux pas|no puedo|nicht möglich)\b"
    r"|无法|不能确定|不知道|難以|难以|判断できません|알 수 없",
    re.IGNORECASE,
)
_DENIED_BEFORE = re.compile(
    r"(?:\b(?:no|not|non|without|never|neither|nor|than|excludes?|excluding|except|instead of|eliminates?|exclude|"
    r"rules? out|ruled out)|n't|不是|不选|不|非|除了)"
    r"(?:\s*\b(?:a|an|the|any|in|be|is|it|that|for|of|to|evidence|sign|lesions?|choose|pick|select|option|choice|"
    r"answer|likely|probably|either|see|seen|show|have))*[\s(\"']*$",
    re.IGNORECASE,
)
_DENIED_AFTER = re.compile(
    r"^[\s)\"'.:]*(?:is|was|are|were|can be|could be|would be|seems|looks|has been)?\s*"
    r"(?:(?:therefore|also|clearly|most|then)\s+)*"
    r"(?:not\b|n't|isn't|wrong|incorrect|false|unlikely|less likely|excluded|ruled out|eliminated|improbable|absent|"
    r"不|错|有误)",
    re.IGNORECASE,
)
_WEIGHED = re.compile(
    r"\b(?:if|whether|can(?:not|'t| not)|could ?n[o']t|unable|unsure|not sure|unclear|between|neither|nor|"
    r"look(?:ing)? at|consider(?:ing)?|compar\w+|maybe not)\b|是否|如果",
    re.IGNORECASE,
)
_CLAUSE_END = re.compile(r"[.!?\n;,]|\b(?:but|however|although|though|yet|still|because|therefore)\b", re.IGNORECASE)
_FILL = (
    r"(?:is|are|was|be|were|would|should|must|could|seems?|appears?|looks|to|the|that|this|question|here|most|likely|"
    r"either|both|probably|probable|clearly|definitely|correct|right|best|single|final|one|option|choice|letter|answer|therefore|"
    r"thus|it|it's|given|with|for|of|now|actually|es|est|ist|è|é|la|el|le|die|der|correcta|correcte|richtige|corretta|correta)"
)
_CUES = (
    r"\b(?:answers?|ans|selection|prediction|conclusion|(?:correct|right|best|likely|final)\s+(?:option|choice|one))\b",
    (
        r"\b(?:i|we)\b(?:'d|'ll|\s+would|\s+will|\s+therefore|\s+must)?\s+"
        r"(?:choose|pick|select|go with|opt for|say|chose)\b"
    ),
    r"\b(?:actually|correction|on second thought|scratch that|therefore|thus|hence|final)\b",
    r"\b(?:respuesta|réponse|reponse|antwort|risposta|resposta|cevap|antwoord|svar|odpowiedź|đáp án)\b",
    r"(?:ответ|الإجابة|إجابة|الجواب|उत्तर|答案|正解|答え|정답|답은|故选|应选|應選|选择|選擇|选|選(?!項|択)|正确选项|最佳选项)",
)
_GLUE = r"(?:\s*(?:是|为|為|应为|选项|選項|选|は|은|는|هي|है|является|-|=|:|\.(?=\s)|,(?=\s*it))\s*)?"
_CUE = re.compile(rf"(?:{'|'.join(_CUES)})((?:\s*{_GLUE}\s*\b{_FILL}\b)*\s*{_GLUE}[\s,:=\"'(>-]*)", re.IGNORECASE)
_WEAK_CUE = re.compile(
    r"\b(?:it's|it is|it must be|it would be|possibly|probably|perhaps|maybe|most likely|but)[\s:\"'(]*", re.IGNORECASE
)
"""Before a letter only: "but the liver" is a word of a sentence."""
_AFTER_LETTER = re.compile(
    r"(?=\s*(?:$|[.,:;)\]!\"'\n/&-])|\s*\(|\s+(?:because|since|as|due|for|given|and|or|so|based|but|is|which|rather|not)\b"
    r"|[^\x00-\x7f])"
)
_VERDICT = (
    r"[)\"']*\s+(?:is|seems|appears|would be|must be|looks|should be|fits)\s+(?:to be\s+)?"
    r"(?:the\s+|most\s+|clearly\s+|therefore\s+|my\s+|a\s+|also\s+)*"
    r"(?:correct|right|best|most likely|likely|answer|true|appropriate|accurate)\b"
)
_EXPLANATION = re.compile(
    r"\n\s*\W*(?:explanation|rationale|reasoning|justification|reason|because|解释|理由|解析)\b", re.IGNORECASE
)
_IDIOM = re.compile(r"\bno (?:doubt|longer|question|idea|change|matter|problem|less|more|other)\b", re.IGNORECASE)
_OPENS_WITH_NO = re.compile(r"^(?:there (?:is|are|was|were)|i see|we see)?\s*no\s+[^,;.]+[.!]?$", re.IGNORECASE)
_SHORT = 200
"""Letters: an answer that is a choice and nothing else is shorter."""
_NEAR = 300
"""Letters before and behind a choice in which it may be denied."""
_REPEATED = re.compile(r"([^\w\s])\1{3,}")
"""More of a mark than a sentence needs; runs of thousands would be slow to read."""
_CONDITION = re.compile(r"(?:^|(?<=[.!?\n]))\s*if\b(?! i (?:had|have|must|were))(?! forced)[^.!?\n]*", re.IGNORECASE)
_DIALOGUE = re.compile(r"^\s*Q(?:uestion)?\s*:.*\bA(?:nswer)?\s*:", re.DOTALL)
_NAMED_LETTER = re.compile(
    r"\b(?:hepatitis|vitamins?|type|stage|grade|group|class|category|level|phase|zone|segment|series|step|part|figure|"
    r"fig|panel|image|table|section|appendix|point|factor|protein|influenza)\s+\(?$",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class ChoiceReading:
    """What an answer was taken to say: outcome is one of OUTCOMES, letter the choice it names, way one of WAYS."""

    outcome: str
    letter: str | None = None
    way: str = "none"


@dataclass(frozen=True)
class _Said:
    """A choice that stands in the text, at [start, end)."""

    letter: str
    start: int
    end: int
    is_word: bool = False
    is_weak: bool = False


_AMBIGUOUS = ChoiceReading(outcome="ambiguous")


def read_choice_of(prediction: str, choices: Sequence[str], letters: str) -> ChoiceReading:
    """Read an answer as one of the choices, which are called by the letters, in order.

    A letter counts where it stands as one: alone, marked (`B.`, `(B)`, `B:`), or declared. "A cyst" is words. Words
    name a choice when exactly one choice occurs in them and is not denied.
    """
    said = final_text(prediction)
    if not said.text.strip():
        return ChoiceReading(outcome="empty")
    text = plain_text(said.text)
    if not text:
        return ChoiceReading(outcome="empty")
    text = _DIALOGUE.sub(" ", text)
    known = letters[: len(choices)] if choices else letters
    reading = _read(_REPEATED.sub(r"\1\1\1", text), tuple(choices), known)
    if said.wrapping and reading.letter:
        return ChoiceReading(outcome=reading.outcome, letter=reading.letter, way=said.wrapping)
    return reading


def _read(text: str, choices: tuple[str, ...], known: str) -> ChoiceReading:
    pattern = rf"\W*(?:(?:option|choice|letter)\s+)?\W*([{known}])\W*"
    alone = re.fullmatch(pattern, text, re.IGNORECASE) if len(text) < _SHORT else None
    if alone and not text.rstrip().endswith("?"):
        return ChoiceReading(outcome="letter", letter=alone.group(1).upper(), way="alone")
    if whole := _whole(text, choices, known):
        return whole
    if declared := _declared(text, choices, known):
        return declared
    if short := _first_or_last_line(text, choices, known):
        return short
    marked = {one.letter for one in _marked(text, choices, known)}
    named = _named(text, choices, known)
    if len(marked) > 1:
        return _AMBIGUOUS
    if marked:
        (letter,) = marked
        if named and letter not in named:
            return _AMBIGUOUS
        return ChoiceReading(outcome="letter", letter=letter, way="marked")
    if _REFUSAL.search(text):
        return ChoiceReading(outcome="refusal")
    if len(named) > 1:
        return _AMBIGUOUS
    return ChoiceReading(outcome="text", letter=named[0], way="words") if named else ChoiceReading(outcome="unparsed")


def _whole(text: str, choices: tuple[str, ...], known: str) -> ChoiceReading | None:
    """The text is one choice's words and nothing else, an article aside; or two letters and nothing else."""
    pattern = rf"\W*(?:both|either)?\W*[{known}]\W*(?:(?:\band\b|\bor\b|[,/&+])\W*[{known}]\W*)+"
    both = re.fullmatch(pattern, text[:_SHORT], re.IGNORECASE)
    if both and len(text) < _SHORT:
        return _AMBIGUOUS
    words = tokens(text).replace("-", " ")
    found = [
        letter for letter, choice in zip(known, choices, strict=False) if tokens(choice).replace("-", " ") == words
    ]
    if len(found) == 1:
        return ChoiceReading(outcome="text", letter=found[0], way="words")
    return _AMBIGUOUS if found else None


def _declared(text: str, choices: tuple[str, ...], known: str) -> ChoiceReading | None:
    """The last choice that the text declares to be the answer; None where it declares none."""
    found = sorted(_declarations(text, choices, known), key=lambda one: one.end)
    if not found:
        return None
    last = found[-1]
    if last.is_weak and any(one.letter != last.letter for one in found if one.is_weak):
        return _AMBIGUOUS
    if _has_second(text, last, choices, known) or _has_other_words(text, last, choices, known):
        return _AMBIGUOUS
    later = {one.letter for one in _marked(text[last.end :], choices, known, is_line_start_only=True)}
    if len(later) == 1 and later != {last.letter}:
        return _AMBIGUOUS
    return ChoiceReading(outcome="text" if last.is_word else "letter", letter=last.letter, way="declared")


def _declarations(text: str, choices: tuple[str, ...], known: str) -> Iterator[_Said]:
    for cue in _CUE.finditer(text):
        place = cue.end()
        one = _letter_at(text, place, known) or _words_at(text, place, choices, known)
        if one and not _is_denied(text, one, since=cue.start()):
            yield one
    for cue in _WEAK_CUE.finditer(text):
        one = _letter_at(text, cue.end(), known)
        if one and not _is_denied(text, one, since=cue.start()):
            yield replace(one, is_weak=True)
    own = "|".join(flexible(choice) for choice in choices if choice.strip()) or r"(?!)"
    pattern = rf"(?<![\w])([{known}])(?:[.):]*\s*\(?(?:{own})\)?)?{_VERDICT}"
    rather = rf"(?<![\w])([{known}])\s+(?:rather than|and not|not|instead of)\s+[{known}]{_VERDICT}"
    for each in (pattern, rather):
        for match in re.finditer(each, text):
            one = _Said(match.group(1), match.start(), match.end())
            if not _is_denied(text, _Said(one.letter, one.start, match.end(1)), since=match.start()):
                yield one


def _letter_at(text: str, place: int, known: str) -> _Said | None:
    match = re.compile(rf"([{known}{known.lower()}])").match(text, place)
    if not match or not _AFTER_LETTER.match(text, match.end()):
        return None
    if match.group() == "a" and not re.match(r"\s*(?:$|[.)\]\"'\n])", text[match.end() :]):
        return None
    return _Said(match.group().upper(), match.start(), match.end())


def _words_at(text: str, place: int, choices: tuple[str, ...], known: str) -> _Said | None:
    """The longest choice whose words begin here, an article aside."""
    best: _Said | None = None
    for letter, choice in zip(known, choices, strict=False):
        if not choice.strip():
            continue
        ends = r"(?=\s*(?:$|[,.;:!)\n]))" if choice.lower() in ("yes", "no") else r"(?!\w)"
        match = re.compile(rf"(?:(?:the|an?)\s+)?{flexible(choice)}{ends}", re.IGNORECASE).match(text, place)
        if match and (best is None or match.end() > best.end):
            best = _Said(letter, match.start(), match.end(), is_word=True)
    return best


def _has_second(text: str, one: _Said, choices: tuple[str, ...], known: str) -> bool:
    """Whether a second choice is offered right after it: "A or B", "A/B", "A. liver or B. spleen"."""
    rest = text[one.end :]
    own = _words_at(rest, len(rest) - len(rest.lstrip(" .):(")), choices, known)
    rest = rest[own.end :] if own else rest
    link = re.match(r"[\s.)\"']*(?:,?\s*\b(?:or|and)\b|[/&+,]|和|或|及)\s*\(?", rest)
    if not link:
        return False
    is_comma = link.group().strip(" .)(\"'") == ","
    second = _letter_at(rest, link.end(), known)
    if second is None and not is_comma:
        second = _words_at(rest, link.end(), choices, known)
    if second is None or second.letter == one.letter or _DENIED_AFTER.match(rest[second.end :]):
        return False
    return not is_comma or bool(re.match(r"[\s.)]*$", rest[second.end :]))


def _has_other_words(text: str, one: _Said, choices: tuple[str, ...], known: str) -> bool:
    """Whether the words right after a letter are another choice's."""
    if one.is_word:
        return False
    rest = text[one.end :]
    start = re.match(r"[\s.,:;)(\"'-]*", rest)
    words = _words_at(rest, start.end() if start else 0, choices, known)
    own = dict(zip(known, choices, strict=False)).get(one.letter, "")
    return (
        words is not None and words.letter != one.letter and tokens(choices[known.index(words.letter)]) != tokens(own)
    )


def _first_or_last_line(text: str, choices: tuple[str, ...], known: str) -> ChoiceReading | None:
    """A line that is a choice and nothing else: the first, before an explanation, or the last, after prose."""
    head = _EXPLANATION.split(text, maxsplit=1)[0]
    lines = [line for line in head.split("\n") if line.strip()]
    if not lines or len(lines[-1]) > _NEAR:
        return None
    if len(lines) == 1:
        letter = _line(lines[0], choices, known)
    else:
        letter = _line(lines[-1], choices, known)
        others = {one.letter for line in lines[:-1] for one in _marked(line, choices, known, is_line_start_only=True)}
        first = _line(" ".join(lines), choices, known) if len(lines) == 2 and len(head) < _NEAR else None
        letter = first or (letter if letter and not others - {letter} else None)
    return ChoiceReading(outcome="letter", letter=letter, way="marked") if letter else None


def _line(line: str, choices: tuple[str, ...], known: str) -> str | None:
    """The letter of a line that is "B", "B. spleen", "(B) spleen", "spleen (B)" or "B - spleen" and nothing else."""
    for letter, choice in zip(known, choices, strict=False):
        words = flexible(choice)
        forms = (
            rf"\W*{letter}\W*",
            rf"\W*(?:option |choice )?\W*{letter}\W*(?:(?:the|an?)\s+)?{words}\W*",
            rf"\W*{words}\W*(?:option |choice )?\W*{letter}\W*",
        )
        if any(re.fullmatch(form, line.strip(), re.IGNORECASE) for form in forms[: 3 if choice.strip() else 1]):
            is_article = letter == "A" and re.match(r"\s*a\s+\w", line)
            if not is_article and not line.rstrip().endswith("?"):
                return letter
    return None


def _marked(text: str, choices: tuple[str, ...], known: str, *, is_line_start_only: bool = False) -> Iterator[_Said]:
    """Letters that stand as one, and are not denied, asked or weighed."""
    both = known + known.lower()
    start = r"(?:^|(?<=[.!?:;,\n\"']))[\s\"'(]*"
    patterns = [rf"(?m:^)\s*\(?([{both}])\s?[.):]+(?=\s|$|\w\w)", rf"(?m:^)\s*([{known}])\s*$"]
    if not is_line_start_only:
        patterns += [
            rf"\(\s*([{both}])\s*\)",
            rf"{start}([{known}])\s?[.):]+(?=\s|$|[A-Z]\b|\w\w)",
            rf"(?i:\b(?:option|choice)\s+)\(?([{known}])\b",
            rf"(?:选项|選項|選択肢|вариант|विकल्प)\s*([{both}])(?![A-Za-z])",
            rf"^\W*([{known}])(?=\s*(?:,|-\s)|\s+(?:because|since|as|due)\b)",
        ]
        patterns += [rf"(?<=\w\s)([{letter}])[.):]+\s*(?={words})" for letter, words in _own(choices, known)]
        patterns += [rf"^\W*([B-Z])[\s(,:-]+(?={words}\W*$)" for _, words in _own(choices, known)]
        if not choices:
            patterns.append(rf"(?<=\w\s)([{known}])[.):]\s+(?=\w)")
    for pattern in patterns:
        for match in re.finditer(pattern, text):
            one = _Said(match.group(1).upper(), match.start(1), match.end(1))
            if one.letter in known and not _is_name(text, one) and not _is_denied(text, one, since=one.start):
                yield one


def _own(choices: tuple[str, ...], known: str) -> list[tuple[str, str]]:
    return [
        (letter, rf"(?i:{flexible(choice)})") for letter, choice in zip(known, choices, strict=False) if choice.strip()
    ]


def _is_name(text: str, one: _Said) -> bool:
    """Hepatitis B, type A, figure C: a letter that belongs to the word before it."""
    return bool(_NAMED_LETTER.search(text[max(0, one.start - 30) : one.start]))


def _is_denied(text: str, one: _Said, *, since: int) -> bool:
    """Whether it is denied ("not A", "A is wrong"), asked ("is it A?") or weighed ("whether A", "if it were A")."""
    first = max(0, one.start - _NEAR)
    before = _CLAUSE_END.split(text[first : one.start])[-1]
    after = text[one.end : one.end + _NEAR]
    if _DENIED_BEFORE.search(before) or _DENIED_AFTER.match(after):
        return True
    governed = _CLAUSE_END.split(text[min(first, since) : since])[-1] + text[since : one.start]
    if _WEIGHED.search(governed):
        return True
    return bool(re.match(r"[)\"']*[\w\s]{0,30}\?", after)) and not re.match(r"[)\"']*\s*[.\n]", after)


def _named(text: str, choices: tuple[str, ...], known: str) -> list[str]:
    """Letters of the choices whose words occur in the text, whole and not denied; the longest first."""
    left = f" {tokens(_CONDITION.sub(' ', text), keep_ends=True)} "
    pairs = list(zip(known, (tokens(choice) for choice in choices), strict=False))
    is_yes_no = {words for _, words in pairs} >= {"yes", "no"}
    found = []
    for letter, words in sorted(pairs, key=lambda pair: -len(pair[1])):
        if not words:
            continue
        whole = re.compile(rf"(?<![\w.<>+-]){re.escape(words)}(?![\w+-]|\.\d)")
        if is_yes_no and words in ("yes", "no"):
            if _says(words, text):
                found.append(letter)
        elif any(
            not _is_denied(left, _Said(letter, *match.span()), since=match.start()) for match in whole.finditer(left)
        ):
            found.append(letter)
        left = whole.sub("·", left)
    return sorted(found)


def _says(word: str, text: str) -> bool:
    """Yes or no as an answer: it opens the text, or ("no") the text is one clause that says that there is none."""
    if re.match(rf"\W*{word}\b\s*(?:[,.;:!)\n-]|$)", text, re.IGNORECASE):
        return True
    if re.match(r"\W*(?:yes|no)\s*(?:and|or|/)", text, re.IGNORECASE):
        return True
    return word == "no" and not _IDIOM.search(text) and bool(_OPENS_WITH_NO.match(text.strip()))
