"""By which factor do PET counts become standardised uptake values (SUV by body weight)?

QIBA's vendor-neutral rule: SUV = activity [Bq/ml] · weight [g] / (injected dose [Bq] · 2^(-(scan - injection) /
half-life)), for images corrected for attenuation and decay. The scan began at the series' time; where that lies after
an acquisition it tells when the series was made, and the start is taken from GE's own element, from an image's frame
reference time, or from the earliest acquisition. No decay is left to correct for DecayCorrection ADMIN.

Times are the clock's of the zone that (0008,0201) names; a date-time with an offset of its own (PS3.5 6.2, DT) is
brought to that zone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from pydicom.tag import BaseTag, Tag

from slicesight.io.dicom.values import first_item, number_of, shown, text_of, value_of
from slicesight.io.files import DAMAGED

_PHILIPS_SUV_FACTOR, _PHILIPS_ACTIVITY_FACTOR = Tag(0x7053, 0x1000), Tag(0x7053, 0x1009)
_NO_DATE = "19000102"
_CORRECTIONS = {"attenuation": ("ATTN",), "decay": ("DECY", "DECAY")}  # PS3.3 C.8.9.1 has DECY; DECAY is also met
_LONG_HALF_LIFE_S = 12 * 3600.0  # such tracers are scanned days after their injection
_OFFSET = re.compile(r"[+-]\d{4}$")
_MAX_HALF_LIVES = 10.0  # longer after the injection nothing is left to scan: one of the times is wrong


def suv_factor(headers: Sequence[Any]) -> tuple[float | None, str]:
    """The factor from a series' measured values to SUV, or None and the reason."""
    header = headers[0]
    units = text_of(header, "Units").upper()
    if units == "GML":
        by = text_of(header, "SUVType").upper() or "BW"  # PS3.3 C.8.9.1: body weight where it is absent
        return (1.0, "") if by == "BW" else (None, f"its uptake values are by {by}, expected BW (body weight)")
    to_activity = 1.0
    if units == "CNTS":
        if factor := _positive(header, _PHILIPS_SUV_FACTOR):
            return factor, ""
        if not (activity := _positive(header, _PHILIPS_ACTIVITY_FACTOR)):
            return None, "counts without a scale factor"
        to_activity = activity
    elif units != "BQML":
        return None, f"its units are {units or 'not stated'}, expected BQML"
    weight_kg = _positive(header, "PatientWeight")
    tracer = first_item(header, "RadiopharmaceuticalInformationSequence")
    if not weight_kg or tracer is None:
        return None, "the header has no patient weight" if not weight_kg else "the header has no radiopharmaceutical"
    dose, half_life_s = _positive(tracer, "RadionuclideTotalDose"), _positive(tracer, "RadionuclideHalfLife")
    if not dose or not half_life_s:
        return None, "the header has no injected dose or half-life"
    corrections = text_of(header, "CorrectedImage").upper()
    if lacking := [name for name, terms in _CORRECTIONS.items() if not any(term in corrections for term in terms)]:
        return None, f"CorrectedImage does not say that it is corrected for {' and '.join(lacking)}"
    correction = text_of(header, "DecayCorrection").upper()
    if correction not in ("START", "ADMIN"):
        return None, f"its decay correction is {correction or 'not stated'}, expected START or ADMIN"
    decay_s, reason = (0.0, "") if correction == "ADMIN" else _decay_s(headers, tracer, half_life_s)
    if decay_s is None:
        return None, reason
    if decay_s > _MAX_HALF_LIVES * half_life_s:
        return None, f"the scan began {decay_s / half_life_s:.0f} half-lives after the injection; a time is wrong"
    return to_activity * weight_kg * 1000 / (dose * 2.0 ** (-decay_s / half_life_s)), ""


def _decay_s(headers: Sequence[Any], tracer: Any, half_life_s: float) -> tuple[float | None, str]:
    """Seconds from the injection to the time the decay is corrected to, or None and the reason."""
    started = _scan_start(headers, half_life_s)
    if started is None:
        return None, "the header does not say when the scan began"
    stated, clock = (text_of(tracer, f"RadiopharmaceuticalStart{kind}") for kind in ("DateTime", "Time"))
    zone = _zone_s(headers[0])
    if zone is None and (offset := _OFFSET.search(stated)) and _seconds(stated[8 : offset.start()]) != _seconds(clock):
        return None, f"the injection's time is in the zone {offset[0]}, the header does not name the scan's"
    injected = _moment(stated, zone) if f"{started:%Y%m%d}" > _NO_DATE else None
    if injected is None:
        injected = _moment(f"{started:%Y%m%d}{stated[8:] or clock}", zone)
        if injected is None:
            return None, "the header has no injection time"
        if half_life_s > _LONG_HALF_LIFE_S:
            return None, "the header does not say on which day the long-lived tracer was injected"
        if injected > started:  # a scan after midnight
            injected -= timedelta(days=1)
    if injected > started:
        return None, "the tracer was injected after the scan began"
    return (started - injected).total_seconds(), ""


def _scan_start(headers: Sequence[Any], half_life_s: float) -> datetime | None:
    series = _when(headers[0], "Series")
    acquired = [(moment, header) for header in headers if (moment := _when(header, "Acquisition")) is not None]
    if not acquired:
        return series
    earliest, header = min(acquired, key=lambda pair: pair[0])
    if series is not None and series <= earliest:
        return series
    try:
        private = shown(header.private_block(0x0009, "GEMS_PETD_01")[0x0D].value)
        if (moment := _moment(private, _zone_s(header))) is not None:
            return moment
    except DAMAGED:
        pass
    reference_ms, duration_ms = _positive(header, "FrameReferenceTime"), _positive(header, "ActualFrameDuration")
    if not reference_ms or not duration_ms:
        return earliest
    decay_in_frame = math.log(2) / half_life_s * duration_ms / 1000
    mean_count_s = half_life_s / math.log(2) * math.log(decay_in_frame / -math.expm1(-decay_in_frame))
    return earliest - timedelta(seconds=reference_ms / 1000 - mean_count_s)


def _when(header: Any, of: str) -> datetime | None:
    """The date and time of the series or acquisition; where no date is left, times count from a day without one."""
    dates = [text_of(header, f"{name}Date") for name in (of, "Series", "Acquisition", "Study")]
    moment = _moment(next(filter(None, dates), _NO_DATE) + text_of(header, f"{of}Time"), None)
    stated = text_of(header, "AcquisitionDateTime") if of == "Acquisition" else ""
    return moment or _moment(stated, _zone_s(header))


def _zone_s(header: Any) -> int | None:
    """By how many seconds the header's times are ahead of UTC, None where it does not say."""
    for keyword in ("TimezoneOffsetFromUTC", "AcquisitionDateTime"):
        if found := _OFFSET.search(text_of(header, keyword)):
            return _offset_s(found[0])
    return None


def _offset_s(text: str) -> int:
    return (int(text[1:3]) * 3600 + int(text[3:]) * 60) * (-1 if text[0] == "-" else 1)


def _seconds(clock: str) -> float | None:
    """Of the day, from HHMM[SS[.F]]."""
    moment = _moment(_NO_DATE + clock, None)
    return None if moment is None else (moment - datetime.strptime(_NO_DATE, "%Y%m%d")).total_seconds()


def _moment(text: str, zone_s: int | None) -> datetime | None:
    """A DICOM date and time, YYYYMMDDHHMM[SS[.F]][+-HHMM], on the clock of the zone that is `zone_s` ahead of UTC."""
    found = re.fullmatch(r"(\d{12})(\d\d)?(\.\d{1,6})?([+-]\d{4})?", text.strip())
    if found is None:
        return None
    try:
        moment = datetime.strptime(found[1], "%Y%m%d%H%M")
    except ValueError:
        return None
    moment += timedelta(seconds=float((found[2] or "0") + (found[3] or "")))
    return moment if zone_s is None or not found[4] else moment + timedelta(seconds=zone_s - _offset_s(found[4]))


def _positive(dataset: Any, keyword: str | BaseTag) -> float | None:
    if isinstance(keyword, BaseTag):
        try:
            number = float(getattr(value_of(dataset, keyword), "value", 0.0))
        except (TypeError, ValueError):
            return None
        return number if number > 0 else None
    found = number_of(dataset, keyword, default=None)
    return found if found is not None and found > 0 else None
