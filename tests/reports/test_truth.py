"""What is known to be right: by letter, words or findings, on the slices that show it."""

from __future__ import annotations

import pytest

from slicesight.data.manifest import Conversation, write_manifest
from slicesight.errors import InputError
from slicesight.inference.answers import Answer
from slicesight.phantoms.folder import phantom_case
from slicesight.reports.truth import agrees, find_case, judge, shown_slices
from slicesight.volumes.grid import GridSpec, to_grid

CLOSED = Conversation(
    task="closed", topic="phase", question="Which?", choices=("early", "late"), answer="late", answer_choice="B"
)
OPEN = Conversation(task="open", topic="organ", question="Where?", answer="left kidney")
REPORT = Conversation(
    task="report",
    topic="report",
    question="Report.",
    answer="There is a large cyst in the upper pole of the left kidney.",
)
EMPTY = REPORT.model_copy(update={"answer": "Axial CT of the trunk, delayed phase. No abnormality is seen."})
FOREIGN = REPORT.model_copy(update={"answer": "Pleural thickening on both sides."})


@pytest.mark.parametrize(
    ("pair", "said", "is_right"),
    [
        (CLOSED, "B. late", True),
        (CLOSED, "B", True),
        (CLOSED, "A. late", False),
        (CLOSED, "B. early", False),
        (CLOSED, "Both are possible", False),
        (OPEN, "Left kidney.", True),
        (OPEN, "kidney", False),
        (REPORT, "The upper pole of the left kidney contains a small cyst.", True),
        (REPORT, "The lower pole of the left kidney contains a small cyst.", False),
        (REPORT, "No abnormality is seen.", False),
        (EMPTY, "There is no abnormality in the organs shown.", True),
        (EMPTY, "A large cyst is in the upper pole of the left kidney.", False),
        (EMPTY, "The weather is fine.", False),
        (FOREIGN, "Something else of which nothing is understood.", False),
        (FOREIGN, "pleural thickening on both sides", True),
    ],
)
def test_an_answer_is_right_by_its_letter_its_words_or_its_findings(pair, said, is_right):
    assert agrees(said, pair) is is_right


def test_truth_seen_in_every_slice_points_nowhere(phantom):
    grid = to_grid(phantom.volume, GridSpec(num_slices=8, height=16, width=16))
    everywhere = OPEN.model_copy(update={"source_slices": tuple(range(phantom.volume.num_source_slices))})
    somewhere = OPEN.model_copy(update={"source_slices": phantom.truth.findings[0].source_slices})
    assert shown_slices(everywhere, grid=grid) == ()
    assert 0 < len(shown_slices(somewhere, grid=grid)) < 8


def test_a_question_is_judged_with_or_without_its_choices_and_a_strange_one_not_at_all(phantom):
    grid = to_grid(phantom.volume, GridSpec(num_slices=8, height=16, width=16))
    case = phantom_case(phantom, seed=7, index=0, volume="v.nii.gz")
    pair = case.conversations[-1]
    asked = [Answer(question=text, text=pair.target, scores=(), slices=()) for text in (pair.prompt, "How are you?")]
    known, unknown = judge(asked, case, grid=grid)
    assert known is not None
    assert known.is_right
    assert known.grid_slices == grid.grid_slices_of(pair.source_slices)
    assert unknown is None


def test_the_manifests_line_is_found_by_the_scans_place(phantom, tmp_path):
    cases = [phantom_case(phantom, seed=7, index=index, volume=f"volumes/{index}.nii.gz") for index in range(2)]
    write_manifest(cases, tmp_path / "manifest.jsonl")
    scan = tmp_path / "volumes" / ".." / "volumes" / "1.nii.gz"
    assert find_case(tmp_path / "manifest.jsonl", scan=scan).id == cases[1].id != cases[0].id
    with pytest.raises(InputError, match="none of its 2 lines"):
        find_case(tmp_path / "manifest.jsonl", scan=tmp_path / "1.nii.gz")
