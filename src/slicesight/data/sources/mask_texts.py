"""In which words are questions from label maps asked? {0} and {1} are structures.

A model answers best what it was asked in training, so there are many wordings: "[a|b]" stands for either, and a
lead-in or a careless spelling is drawn beside. `mask_texts_held_back` has those of the validation and test splits.
"""

# Templates are easier to compare on one line each.
# ruff: noqa: E501

from __future__ import annotations

import re

from numpy.random import Generator

_SEE = "[see|find|make out|recognise|spot]"
_HERE = "[in this scan|in the scan|here|in these slices|in these images|in the images|in this volume|in the volume|on this study]"
_SHOWN = "[visible|in view|shown|seen|present|there|visible|imaged|depicted]"
_SCAN = "[scan|volume|study|examination|series|image|stack]"
_SLICES = "[slices|slices|images|sections]"
_SHOW = "[show|contain|hold|include|depict|have]"
_SHOWS = "[shows|contains|holds|includes|depicts|has]"
_FOUR = "[these|these structures|the structures|the following|the four|the following structures|the options]"
_PART = "[the|any part of the|some of the]"

TEXTS: dict[str, tuple[str, ...]] = {
    "presence": (
        f"Is the {{0}} {_HERE}?",
        f"Is {_PART} {{0}} {_SHOWN}?",
        f"Is {_PART} {{0}} {_SHOWN} {_HERE}?",
        f"Does [this|the] {_SCAN} [show|contain|include|cover|have|reach] {_PART} {{0}}?",
        f"Do [these|the] {_SLICES} [show|contain|include|cover|have] {_PART} {{0}}?",
        f"Can [you|one|we|I] {_SEE} {_PART} {{0}}?",
        f"Can [you|one|we|I] {_SEE} {_PART} {{0}} {_HERE}?",
        f"Can the {{0}} be [seen|found|made out|recognised] {_HERE}?",
        f"Could you {_SEE} the {{0}}?",
        f"Do [I|we|you] [see|have|get] the {{0}} on this {_SCAN}?",
        f"Is there [a|any] {{0}} {_HERE}?",
        "Is there [a|any] {0} to be seen?",
        "Is the {0} [among what this scan covers|within the field of view|inside the field of view|in the field of view|covered]?",
        "{0}: [in view|visible|there|shown] or not?",
        "[The|] {0} [visible|in view|there|present|seen]?",
        f"[Tell me|Say|Check|Please tell me|Please check] [whether|if] the {{0}} is {_SHOWN}.",
        f"[Tell me|Say|Check] [whether|if] [this|the] {_SCAN} {_SHOWS} the {{0}}.",
        f"[I want|I would like|I need] to know [whether|if] the {{0}} is {_SHOWN}.",
        "Has the {0} been [scanned|imaged|covered|captured]?",
        f"Was the {{0}} [scanned|imaged|included|captured] {_HERE}?",
        "Any {0}[ here| at all| visible|]?",
        f"Am I right that the {{0}} is {_SHOWN}?",
        f"[Would|Should] [you|I] {_SEE} the {{0}} {_HERE}?",
    ),
    "in view": (
        f"Which of {_FOUR} is {_SHOWN}?",
        f"Which of {_FOUR} is {_HERE}?",
        f"Which of {_FOUR} does the {_SCAN} [show|cover|contain|include]?",
        f"Which of {_FOUR} can [be seen|be found|you see|I see|one see]?",
        f"[Which|What] [structure|organ|one] is {_SHOWN}[ here|]?",
        f"[What|Which organ] is {_SHOWN} {_HERE}?",
        "[Which|What] [structure|organ] [does the scan show|do the slices show|do you see|can be seen|is it]?",
        f"Only one of {_FOUR} is {_SHOWN}. [Which|Which one|Which is it]?",
        f"One of {_FOUR} is {_SHOWN}[, the others are not|]: which[ one|]?",
        f"[Pick|Choose|Name|Select] the [one|structure|organ] that is {_SHOWN}.",
        f"[Tell me|Say] which of {_FOUR} is {_SHOWN}.",
        f"There is one of {_FOUR} {_HERE}. Which?",
    ),
    "not in view": (
        f"Which of {_FOUR} is not {_SHOWN}?",
        f"Which of {_FOUR} is not {_HERE}?",
        f"Which of {_FOUR} is [missing|absent|missing from the scan|outside the scan|outside the field of view|out of view]?",
        f"Which of {_FOUR} [cannot be seen|can't be seen|can not be found|is left out|is not covered|isn't shown|is not included]?",
        f"Which of {_FOUR} does the {_SCAN} not [show|cover|contain|include]?",
        "[Which|What] [structure|organ|one] is [missing|absent|out of view|not shown|not visible|not in view|not there]?",
        f"[What|Which organ] do you not see {_HERE}?",
        f"All but one of {_FOUR} are {_SHOWN}. Which [is not|one is not|is missing]?",
        "[Pick|Choose|Name|Select] the [one|structure|organ] that is [not shown|missing|absent|not visible|not in view|not there].",
        f"[Tell me|Say] which of {_FOUR} is [not there|missing|absent|not visible].",
        f"Three of {_FOUR} are {_SHOWN}. Which [one is not|is the missing one]?",
    ),
    "third": (
        f"Which third of the {_SCAN} {_SHOWS} the {{0}}?",
        "In which third of the [slices|scan|volume|stack|study] [is the {0}|does the {0} lie|can the {0} be found|do I find the {0}|is the {0} located]?",
        "Where along the [scan|slices|stack|body axis|volume] [is|lies] the {0}?",
        "Is the {0} in the [lower, the middle or the upper|lower, middle or upper|upper, middle or lower|top, middle or bottom] third?",
        "[Lower, middle or upper third|Upper, middle or lower third|Which third]: the {0}?",
        "How [far up|high|high up] in the [scan|stack|volume] is the {0}?",
        "Where is the {0}[ located| found| placed|]?",
        "[Locate|Place|Find] the {0} along the [slices|scan|stack|volume].",
        "[Tell me|Say] [in which third the {0} is|in which third the {0} lies|where the {0} is|which third has the {0}].",
        "What is the [position|location|place|level] of the {0}[ in the scan| along the scan| in the volume|]?",
        "At [what|which] [level|height] [is|lies] the {0}?",
        "If the scan is [cut|split|divided] into thirds, [which one has|where is] the {0}?",
    ),
    "slices": (
        f"Which {_SLICES} {_SHOW} the {{0}}?",
        f"What {_SLICES} {_SHOW} the {{0}}?",
        f"[In|On] which {_SLICES} [is the {{0}} seen|do I see the {{0}}|can the {{0}} be seen|does the {{0}} appear|is the {{0}} visible|do you see the {{0}}]?",
        "From which slice to which [is the {0} in view|does the {0} reach|is the {0} seen|does the {0} run|can you see the {0}]?",
        "Where does the {0} [begin and end|start and end|start and stop]?",
        "What is the [slice range|range of slices|extent|first and last slice] of the {0}?",
        f"[Name|List|Tell me] the {_SLICES} [with the {{0}} in them|that show the {{0}}|that contain the {{0}}|where the {{0}} is seen|on which the {{0}} is visible].",
        "{0}: which slices[ please|]?",
        "[Slices|Slice numbers|Range] of the {0}[?|.|, please.]",
        "I [need|want|am looking for] the [slices|slice numbers|range] of the {0}.",
        "What are the [first and the last slice|slices|slice numbers] [of|with] the {0}?",
        "[At|On] which slice does the {0} [begin|start|appear], and [at|on] which does it [end|stop|disappear]?",
    ),
    "side": (
        "Which half of the [patient|body|head] [does this scan show|is shown|is this|is seen|do we see|is scanned]?",
        "Is this the left or the right half[ of the patient| of the body|]?",
        "Which side [is shown|is this|do I see|was scanned|is it|of the body is shown|of the body is this]?",
        "[Left or right|Right or left][ half| side|]?",
        "[Tell me|Say] which [half|side] [this is|is shown|is visible].",
        "Does this [scan|volume] show the [left or the right|right or the left] [half|side]?",
        "Do I see the [left or the right|right or the left] [half|side][ of the body| of the patient|]?",
        "What [side|half] [is shown|of the patient is shown|is in view]?",
    ),
    "larger": (
        "Is the {0} [larger|bigger|greater in volume] than the {1}?",
        "Does the {0} have [a larger|a greater|more] volume than the {1}?",
        "Is it the {0} that is [larger|bigger], not the {1}?",
        "Is the volume of the {0} [larger|greater] than that of the {1}?",
        "[Compared with|Compared to] the {1}, is the {0} [larger|bigger]?",
        "[Tell me whether|Tell me if|Say if] the {0} is [larger|bigger] than the {1}.",
        "Is the {1} smaller than the {0}?",
    ),
    "size": (
        "How [large|big] is the {0}?",
        "What is the size of the {0}?",
        "Is the {0} [small, medium or large|large, medium or small]?",
        "[Small, medium or large|What size]: the {0}?",
        "[Tell me|Say] how [large|big] the {0} is.",
        "What size [is|has] the {0}?",
    ),
    "most": (
        "Which [slice|image] [shows|has|contains] [most|the most|the largest part] of the {0}?",
        "[In|On] which [slice|image] is the {0} [largest|biggest|widest]?",
        "Where is the {0} seen best?",
        "What is the [fullest|best|largest] slice of the {0}?",
        "[Name|Tell me|Give me] the [slice|image] with the largest [cut|section] through the {0}.",
        "Which is the best [slice|image] [for|to see|to look at] the {0}?",
        "[In|On] which [slice|image] [do I see|can I see|is there] [most|the most] of the {0}?",
        "[Name|Tell me|Say] the [one slice|single slice|slice] that shows [most|the most] of the {0}.",
        "[The|] {0}: [best slice|largest slice|fullest slice]?",
        "What slice [shows|displays] the {0} [best|at its largest|at its widest]?",
    ),
    "count": (
        "[In|On] how many slices [is the {0} seen|is the {0} visible|do I see the {0}|does the {0} appear|is there some of the {0}]?",
        f"How many {_SLICES} {_SHOW} the {{0}}?",
        "What number of slices [holds|shows|contains] the {0}?",
        "How [long|tall] is the {0} in slices?",
        "[Count the|Tell me the number of|Give the number of] slices [with|that show|of] the {0}.",
        "What is the number of slices [with|of|that show] the {0}?",
        "[Number|Count] of slices with the {0}?",
        "How many [of the slices|slices] have the {0} in them?",
        "The {0} [is seen|appears|is visible] in how many slices?",
    ),
    "near": (
        "Which of [these|the two|the following|these two|the two ranges|these ranges] [shows|show|contains|holds] the {0}?",
        "[In|On] which of [these slices|these|the two ranges|the two|these ranges] [is the {0}|do I see the {0}|does the {0} lie|can the {0} be seen]?",
        "Which [range|range of slices|set of slices|block of slices] [holds|shows|contains|includes|has] the {0}?",
        "Where do I see the {0}[, here or there|]?",
        "[Pick|Choose|Name|Select] the [range|slices] [with|of] the {0}.",
        "One of [these ranges|these|the two] [shows|holds] the {0}. Which?",
        "[Tell me|Say] which [range|of the two ranges] [shows|has|holds] the {0}.",
    ),
    "higher": (
        "Which [lies higher|is higher|is higher up|is nearer to the head|lies further up], the {0} or the {1}?",
        "Which of the two is [nearer to the head|higher|higher up|more cranial], the {0} or the {1}?",
        "Is the {0} or the {1} [higher up|higher|nearer to the head|closer to the head]?",
        "Which is above the other, the {0} or the {1}?",
        "What [lies|is|sits] [higher|above]: the {0} or the {1}?",
        "[Tell me|Say] which [is|lies] higher, the {0} or the {1}.",
        "The {0} or the {1}: which [is|lies] higher?",
        "Between the {0} and the {1}, which is the upper one?",
    ),
    "modality": (
        "Which [kind|sort|type] of [scan|image|study] is this?",
        "What [kind|sort|type] of [scan|image|study|imaging] [is this|is it|am I looking at|do we have here]?",
        "What is the [modality|imaging modality|imaging method|technique][ of this scan| here|]?",
        "Is this [CT, MR or PET|MR, CT or PET|PET, CT or MR|CT or MR or PET|a CT, an MR or a PET]?",
        "[What|Which] modality [is it|is this|is used|is that|do I see]?",
        "Which [imaging method|technique|machine|scanner|modality] was used?",
        "[Modality|CT, MR or PET]?",
        "[Tell me|Name|Say] the modality.",
        "With [which|what] [modality|kind of scanner] was [this|it] [made|taken|acquired]?",
    ),
    "region": (
        "[Which|What] [part|region|area] of the body [is this|is shown|do we see|is it|is imaged|is in the scan]?",
        "[Which|What] body [region|part|area] [does the scan show|is shown|is this|was scanned|is imaged|do I see]?",
        "What [region|area] is [scanned|shown|covered|imaged]?",
        "Where in the body [was this taken|are we|is this|is it]?",
        "[Which|What] [anatomical region|anatomy|region] is [shown|covered|this]?",
        "[Region|Body region|Body part]?",
        "[Tell me|Name|Say] the [body region|region|part of the body].",
        "Of [which|what] [part|region] of the body is this [scan|image|study]?",
    ),
    "plane": (
        "In [which|what] plane are the [slices|images]?",
        "What is the plane of [this scan|the slices|these images]?",
        "Which plane [do the slices lie in|is this|is shown|was used]?",
        "Are the slices [axial, coronal or sagittal|sagittal, coronal or axial]?",
        "[Tell me|Name|Say] the plane of the slices.",
        "[Axial, coronal or sagittal|Which plane]?",
    ),
    "report": (
        "[Please |]write a [short |]report[ of this scan| about this scan| on this scan|].",
        "What does this [scan|volume|study|CT|image] show?",
        "[Please |]describe [what is in view|what you see|this scan|the scan|the findings|what is shown].",
        "Describe the findings of this [scan|study].",
        "What can [be seen|you see|we see] [here|in this scan|in these images]?",
        "What is [in this scan|shown|on this scan|in the volume|in view]?",
        "[Please |]list [what is in view|everything in view|the structures in view|what you see].",
        "[Give|Write] me [a|the] report[ please|].",
        "[Can|Could] you [write a report|describe the scan|report on this scan|tell me what is in view]?",
        "[Which|What] structures [are in view|are shown|do you see|can be seen]?",
        "Report[, please|].",
        "[Tell me|Say] what [this scan shows|is in view|you see][ and where|].",
    ),
}

LEAD_INS = (
    "Please tell me: ",
    "I have a question: ",
    "In this scan, ",
    "Can you help? ",
    "Hello, ",
    "Question: ",
    "Just to be sure: ",
    "A quick one: ",
)
_LEAD_SHARE, _CARELESS_SHARE = 0.12, 0.15


def draw(text: str, rng: Generator) -> str:
    """One wording of a template: "[a|b]" becomes a or b, with a lead-in or in small letters now and then."""
    while found := re.search(r"\[([^\[\]]*)\]", text):
        options = found.group(1).split("|")
        text = text[: found.start()] + options[rng.integers(len(options))] + text[found.end() :]
    text = re.sub(r"\s+", " ", text).strip()
    if rng.random() < _LEAD_SHARE:
        lead = LEAD_INS[rng.integers(len(LEAD_INS))]
        return lead + (text if text.startswith(("{", "I ", "CT", "MR", "PET")) else text[0].lower() + text[1:])
    if rng.random() < _CARELESS_SHARE:
        return (text if "{" in text else text.lower()).rstrip("?.") if rng.integers(2) else text[0].lower() + text[1:]
    return text[0].upper() + text[1:]
