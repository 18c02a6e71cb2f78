"""In which words are questions from label maps asked of validation and test patients only? {0} and {1} are structures.

Never the same in both. They were written by someone who had not seen `mask_texts.TEXTS`, and none can be drawn from
those: they show what other people's wordings cost.
"""

from __future__ import annotations

HELD_BACK: dict[str, dict[str, tuple[str, ...]]] = {
    "val": {
        "presence": (
            "Can you see the {0} anywhere in this scan?",
            "Could you please tell me whether the {0} falls within the imaged volume?",
            "Is there the {0} on these images, yes or no?",
        ),
        "in view": (
            "Only one of these four structures was captured by the scan. Which one?",
            "Pick the structure that is inside the field of view:",
            "Three of these are outside the scan; which is the one inside?",
        ),
        "not in view": (
            "Which of the following is missing from this scan?",
            "Pick the one outside the field of view:",
            "Which one from below list can not be found in the images?",
        ),
        "third": (
            "Along the head-foot axis, does the {0} lie in the lower, middle or upper third of the scan?",
            "If you split the scan into three equal parts from bottom to top, which part holds the {0}?",
            "In what third of the scan the {0} is located, going from feet to head?",
        ),
        "slices": (
            "Please give me the first and last slice that contain the {0}.",
            "I need to crop the stack around the {0}. What slice range does it span?",
        ),
        "side": (
            "Which half of the patient was imaged, left or right?",
            "Please tell me which side of the patient this scan covers.",
            "Laterality of the imaged half?",
        ),
        "larger": (
            "{0} > {1} in volume? y/n",
            "Please check if the {0} takes up more space than the {1}.",
        ),
        "size": (
            "Would you class the {0} as small, medium or large?",
            "How big is the {0} here: small, medium or large?",
            "What size class has the {0} in this scan?",
        ),
        "most": (
            "On which single slice is the {0} largest in cross-section?",
            "Please point me to the one slice where the most of the {0} can be seen.",
            "In which slice the {0} has its maximum extent?",
        ),
        "count": (
            "Please count the slices in which the {0} is visible.",
            "In how much slices can the {0} be seen?",
        ),
        "near": (
            "Which of these two slice ranges contains the {0}?",
            "Please choose the range of slices in which I would find the {0}.",
            "In which from the two ranges is the {0} visible?",
        ),
        "higher": (
            "Which is higher up in the body, the {0} or the {1}?",
            "Please tell me which of the two lies closer to the head, the {0} or the {1}.",
            "Between the {0} and the {1}, what structure is situated more superior?",
        ),
        "modality": (
            "Is this a CT, an MR or a PET scan?",
            "What imaging modality was used to acquire this volume?",
            "With which kind of machine this scan was made - CT, MR, PET?",
        ),
        "region": (
            "Which part of the body was scanned?",
            "What anatomical region does this volume cover?",
            "This scan is from which region of body?",
        ),
        "plane": (
            "Are these slices axial, coronal or sagittal?",
            "In which anatomical plane was this stack of slices laid out?",
            "The slices are in what plane - axial, sagittal or coronal?",
        ),
        "report": (
            "Please write a short report of what this scan shows.",
            "Describe all the structures that are in the field of view.",
            "Make please a written report about what is visible on this scan.",
        ),
    },
    "test": {
        "presence": (
            "Do you see the {0} in these images?",
            "{0} included in FOV? y/n",
            "Did the acquisition cover the {0}, at least in part?",
            "I want to measure the {0} later on; before I start, does this volume contain it?",
        ),
        "in view": (
            "Which one of the following is visible?",
            "Which of the following is visible here?",
            "From the list, please name the one organ or structure this volume actually contains.",
            "Which one from below list can be found in the images?",
        ),
        "not in view": (
            "Which one of the following is not visible?",
            "Three of these four structures are covered by the volume. Name the one that is not.",
            "Could you tell me which structure on this list the scan does not include?",
            "Absent from FOV - which of these?",
        ),
        "third": (
            "Tell me the third of the volume with the {0}.",
            "{0}: lower, middle or upper third of the volume?",
            "Please say in which third of the craniocaudal range I should look for the {0}.",
            "Roughly how high up in this stack does the {0} sit - bottom third, middle third or top third?",
        ),
        "slices": (
            "Between which slices can I find the {0}?",
            "Give me the slices with the {0}.",
            "Slice range of {0}?",
            "From which slice until which slice one can see the {0}?",
            "Where does the {0} start and end, in slice numbers?",
        ),
        "side": (
            "Which side of the patient am I looking at?",
            "Left half or right half of the body?",
            "This volume only has one half of the patient in it. Is that the left or the right one?",
            "The scan is showing what half of patient, the left or the right?",
        ),
        "larger": (
            "Is there more of the {0} than of the {1}?",
            "Does the {0} have a greater volume than the {1} in this scan?",
            "Comparing the two by volume, would you say the {0} is the larger one and the {1} the smaller?",
            "The {0} is more big than the {1}, yes or no?",
        ),
        "size": (
            "Would you call the {0} small, medium or large?",
            "Size category of {0}?",
            "Please grade the size of the {0} (small / medium / large).",
            "I am sorting structures into small, medium and large ones. Where does the {0} belong?",
        ),
        "most": (
            "On which slice should I look to see most of the {0}?",
            "Best slice for {0} (max area)?",
            "I need one key image of the {0}. Which slice has its biggest area?",
            "What slice number contains more of the {0} than any other?",
        ),
        "count": (
            "Over how many slices does the {0} extend?",
            "Out of all the slices in this stack, how many contain some of the {0}?",
            "If I had to contour the {0} by hand, how many slices would I need to draw on?",
        ),
        "near": (
            "Point to the range with the {0}.",
            "{0} - first range or second range?",
            "I am looking for the {0}. Should I scroll to the one or the other of these slice ranges?",
            "Of the two blocks of slices given, which one shows the {0}?",
        ),
        "higher": (
            "Of the {0} and the {1}, which one is further up?",
            "More cranial: {0} or {1}?",
            "Going from the feet up, which one has the higher position in this scan, the {0} or the {1}?",
            "Name the more superior of these two: the {0}, the {1}.",
        ),
        "modality": (
            "How was this scan made?",
            "Could you please tell me if these images come from CT, MR or PET?",
            "The header is stripped, so I can't tell: which modality am I looking at?",
        ),
        "region": (
            "What part of the patient has been scanned?",
            "Could you please tell me what area of the body I am looking at?",
            "The study description is blank. What body region should I file this scan under?",
        ),
        "plane": (
            "How are these slices oriented?",
            "Slice orientation?",
            "Could you please tell me the plane of the slices?",
            "Scrolling through this stack, which plane am I viewing?",
        ),
        "report": (
            "Summarise what you can see.",
            "Can you draft me a report listing the anatomy covered by this volume?",
            "I need a summary for the chart: write up what is in view on these images.",
        ),
    },
}
"""Split -> topic -> wordings that no other split is asked."""
