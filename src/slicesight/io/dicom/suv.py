"""By which factor do PET counts become standardised uptake values (SUV by body weight)?

SUV = activity [Bq/ml] · weight [g] / (injected dose [Bq] · 2^(-(start - injection) / half-life)), the rule of
QIBA; the start is the series' time for DecayCorrection START, and no decay is left to correct for ADMIN.
"""

from __future__ import annotations

from typing import Any

from pydicom.tag import Tag

from slicesight.io.dicom.values import first_item, number_of, text_of, value_of

_DAY_S = 86_400.0
_PHILIPS_SUV_FACTOR = Tag(0x7053, 0x1000)


def suv_factor(header: Any) -> tuple[float | None, str]:
    """The factor from measured values to SUV, or None and the reason."""
    units = text_of(header, "Units").upper()
    if units == "GML":
        return 1.0, ""
    if units == "CNTS":
        factor = _float(getattr(value_of(header, _PHILIPS_SUV_FACTOR), "value", None))
        return (factor, "") if factor else (None, "counts without a scale factor")
    if units != "BQML":
        return None, f"its units are {units or 'not stated'}, expected BQML"
    weight_kg = number_of(header, "PatientWeight", default=None)
    tracer = first_item(header, "RadiopharmaceuticalInformationSequence")
    if not weight_kg or tracer is None:
        return None, "the header has no patient weight" if not weight_kg else "the header has no radiopharmaceutical"
    dose = number_of(tracer, "RadionuclideTotalDose", default=None)
    half_life_s = number_of(tracer, "RadionuclideHalfLife", default=None)
    if not dose or dose <= 0 or not half_life_s or half_life_s <= 0:
        return None, "the header has no injected dose or half-life"
    correction = text_of(header, "DecayCorrection").upper()
    if correction == "ADMIN":
        return weight_kg * 1000 / dose, ""
    if correction != "START":
        return None, f"its decay correction is {correction or 'not stated'}, expected START or ADMIN"
    injected_s = _seconds(text_of(tracer, "RadiopharmaceuticalStartTime"))
    started_s = _seconds(text_of(header, "SeriesTime") or text_of(header, "AcquisitionTime"))
    if value_of(tracer, "RadiopharmaceuticalStartDateTime") is not None:
        injected_s = _seconds(text_of(tracer, "RadiopharmaceuticalStartDateTime")[8:]) or injected_s
    if injected_s is None or started_s is None:
        return None, "the header has no injection or series time"
    elapsed_s = (started_s - injected_s) % _DAY_S  # a scan after midnight
    return weight_kg * 1000 / (dose * 2.0 ** (-elapsed_s / half_life_s)), ""


def _seconds(text: str) -> float | None:
    """Seconds since midnight of a DICOM time HHMMSS.FFFFFF."""
    digits = text.split(".")[0]
    if len(digits) < 4 or not digits[:6].isdigit():
        return None
    return int(digits[:2]) * 3600.0 + int(digits[2:4]) * 60.0 + (_float("0" + text[4:]) or 0.0)


def _float(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
