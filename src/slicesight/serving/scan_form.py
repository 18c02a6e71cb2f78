"""What may a client say about a scan that it brings? The options of `slicesight ask`, as a form's fields or as JSON."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from slicesight.data.manifest import FillField
from slicesight.errors import InputError
from slicesight.io.assemble import ReadOptions, checked_unit
from slicesight.io.dicomweb.address import ArchiveAddress, read_address
from slicesight.serving.refusals import Refusal

Form = TypeVar("Form", bound="ScanForm")


def _sizes(value: Any) -> Any:
    """Of "5,1,1" as a form has it, of "[5, 1, 1]" or a list."""
    try:
        z, y, x = (float(size) for size in (value.strip("[]() ").split(",") if isinstance(value, str) else value))
    except (TypeError, ValueError):
        raise ValueError(f"is {str(value)[:50]!r}; expected three sizes in mm as Z,Y,X") from None
    return z, y, x


class ScanForm(BaseModel):
    """The fields that go with a file."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True, coerce_numbers_to_str=True)

    window: Annotated[str, Field(description="soft_tissue, lung, bone, ..., percentile, m3d or LO,HI")] | None = None
    plane: Annotated[str, Field(description="acquired, axial, coronal or sagittal")] | None = None
    series: Annotated[str, Field(description="UID, where a zip holds several series")] | None = None
    spacing_mm: Annotated[
        tuple[float, float, float] | None,
        BeforeValidator(_sizes, json_schema_input_type=str),
        Field(description="Z,Y,X where the header is wrong or has none", examples=["5,1,1"]),
    ] = None
    unit: Annotated[str, Field(description="HU or arbitrary")] | None = None
    time_point: Annotated[int, Field(ge=0, description="which volume of a 4D file, from 0")] | None = None
    fill: Annotated[FillField, Field(description="LOWEST or a number in place of NaN, which is refused otherwise")] = (
        None
    )

    def for_reading(self) -> dict[str, Any]:
        """The options of the process that reads the scan.

        Raises:
            InputError: an option that cannot be.
        """
        unit = checked_unit(self.unit)
        ReadOptions(spacing_mm=self.spacing_mm, time_point=self.time_point, unit=unit)
        return self.model_dump(include={"series", "spacing_mm", "time_point", "unit", "fill"})


class SourceForm(ScanForm):
    """A series in an archive the operator has named."""

    source: Annotated[str, Field(examples=["dicomweb+http://archive:8042/dicom-web/studies/1.2.3/series/1.2.3.4"])]


def read_form(kind: type[Form], fields: dict[str, Any] | bytes) -> Form:
    """The fields, or JSON of them; an empty field is one that was not filled in.

    Raises:
        RequestValidationError: a field is wrong, or there is no such field.
    """
    try:
        if isinstance(fields, bytes):
            return kind.model_validate_json(fields)
        return kind.model_validate({name: value for name, value in fields.items() if value.strip()})
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None


def read_source_form(body: bytes, *, archives: tuple[str, ...]) -> tuple[ScanForm, ArchiveAddress]:
    """What is said of a series, and where it lies.

    Raises:
        RequestValidationError: a field is wrong.
        InputError: the source is no address of a series.
        Refusal: 403 it lies beneath none of the archives.
    """
    form = read_form(SourceForm, body)
    address = read_address(form.source)
    if not archives:
        raise Refusal(403, "this server asks no archive; start it with --archive URL.", param="source")
    try:
        read_address(form.source, allowed=archives)
    except InputError as error:
        raise Refusal(403, str(error), param="source") from None
    return form, address


_FORM = ScanForm.model_json_schema()
_FORM["required"] = ["file"]
_FORM["properties"]["file"] = {
    "type": "string",
    "format": "binary",
    "description": "NIfTI, NRRD, MetaImage, .npy, DICOM, or a zip of a DICOM series",
}
UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": _FORM},
            "application/json": {"schema": SourceForm.model_json_schema()},
        },
    }
}
