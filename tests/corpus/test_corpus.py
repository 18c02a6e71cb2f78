"""Is every odd input read rightly or refused in one line, by every way in?"""

from __future__ import annotations

import numpy as np
import pytest
from corpus_cases import Read, Refused, disagreement
import corpus_nifti
import corpus_text_headers

from slicesight.errors import InputError
from slicesight.io.loading import read_volume

CASES = [*corpus_nifti.CASES, *corpus_text_headers.CASES]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_probe(case, tmp_path):
    path = case.build(tmp_path)
    try:
        volume = read_volume(path, **case.options)
    except InputError as error:
        assert isinstance(case.right, Refused), f"REFUSED: {error}"
        import re
        assert re.search(case.right.words, str(error)), f"WORDS: {error}"
        return
    assert isinstance(case.right, Read), f"READ: {volume.shape} {volume.warnings}"
    wrong = disagreement(volume, case.right)
    assert not wrong, f"WRONG: {wrong}; {volume.warnings}"
