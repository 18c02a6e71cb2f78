"""How do answers reach a hospital's archive? As a DICOM Structured Report beside the images that weigh most in them.

One document tells of one scan. It is a private one, of no template: a diagnostic report (TID 2000) would claim a
diagnosis, a measurement report (TID 1500) would file a model's weights among the patient's measurements.

    Answers of a research model
      observer: a device; algorithm: the model and its version
      notice, warnings, the scan, how it was read, what a slice score does not say
      Question and answer (one each)
        question, answer, that it was cut or is none of the choices, which slices weigh most, even share
        Slice score (all, heaviest first)
          has properties: number in the grid, place; inferred from: the images it was made of

A cut of a reformatted plane runs through every image, so it names its place alone.
"""

from slicesight.reports.dicom_sr.document import import_highdicom, write_report
from slicesight.reports.dicom_sr.reading import Report, ReportedAnswer, ReportedSlice, read_report

__all__ = ["Report", "ReportedAnswer", "ReportedSlice", "import_highdicom", "read_report", "write_report"]
