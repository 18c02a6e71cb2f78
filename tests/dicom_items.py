"""How does a test write the item of a DICOM sequence in one line?"""

from __future__ import annotations

from pydicom.dataset import Dataset


def item(**values: object) -> Dataset:
    """A dataset with these elements."""
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset
