"""How does an upload reach the disk without passing through memory, and when is it cut short?

The client's file name is never used: of it only a known suffix is kept. Parts besides the file are short fields.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from slicesight.serving.refusals import Refusal

KNOWN_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".npy", ".zip", ".dcm")
_MAX_FIELD_BYTES = 1000
_MAX_PARTS = 20


@dataclass(frozen=True, kw_only=True)
class Upload:
    """What arrived: `file` lies in the folder, `fields` are the form's other parts."""

    file: str
    num_bytes: int
    fields: dict[str, str]


async def receive_upload(stream: AsyncIterator[bytes], *, content_type: str, folder: Path, max_bytes: int) -> Upload:
    """Write the part `file` of a form into the folder while it arrives.

    Args:
        max_bytes: of the file.

    Raises:
        Refusal: 400 no form or no file, 413 too large, 507 the disk is full.
    """
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise Refusal(400, "the form has no boundary; send multipart/form-data with the scan as part `file`.")
    parts = _Parts(folder=folder, max_bytes=max_bytes)
    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": parts.begin,
            "on_header_field": parts.header_name,
            "on_header_value": parts.header_value,
            "on_header_end": parts.header_end,
            "on_headers_finished": parts.headers_end,
            "on_part_data": parts.data,
            "on_part_end": parts.end,
        },
    )
    try:
        async for chunk in stream:
            parser.write(chunk)
        parser.finalize()
    except FormParserError:
        raise Refusal(400, "the form is damaged; send multipart/form-data with the scan as part `file`.") from None
    except OSError as error:
        raise Refusal(507, f"the scan cannot be kept ({error.strerror}); try again later.") from None
    finally:
        parts.close()
    if not parts.file_name or not parts.is_complete:
        raise Refusal(400, "the form has no whole part `file`; send the scan as multipart part `file`.", param="file")
    return Upload(file=parts.file_name, num_bytes=parts.num_bytes, fields=parts.fields)


def known_suffix(client_name: str) -> str:
    """The known suffix a client's file name ends with, or none."""
    return next((suffix for suffix in KNOWN_SUFFIXES if client_name.lower().endswith(suffix)), "")


@dataclass(kw_only=True)
class _Parts:
    """The parser's callbacks."""

    folder: Path
    max_bytes: int
    fields: dict[str, str] = field(default_factory=dict)
    file_name: str = ""
    num_bytes: int = 0
    is_complete: bool = False
    _num_parts: int = 0
    _header: tuple[bytes, bytes] = (b"", b"")
    _disposition: bytes = b""
    _name: str = ""
    _value: bytes = b""
    _sink: BinaryIO | None = None

    def begin(self) -> None:
        self._num_parts += 1
        if self._num_parts > _MAX_PARTS:
            raise Refusal(400, f"the form has more than {_MAX_PARTS} parts; send one scan and its options.")
        self._disposition, self._value, self._name = b"", b"", ""

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0] + data[start:end], self._header[1])

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0], self._header[1] + data[start:end])

    def header_end(self) -> None:
        if self._header[0].lower() == b"content-disposition":
            self._disposition = self._header[1]
        self._header = (b"", b"")

    def headers_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if self._name != "file":
            return
        if self.file_name:
            raise Refusal(400, "the form has two parts `file`; send one scan, a DICOM series as one zip.", param="file")
        self.file_name = "scan" + known_suffix(options.get(b"filename", b"").decode("utf-8", "replace"))
        self._sink = (self.folder / self.file_name).open("wb")

    def data(self, data: bytes, start: int, end: int) -> None:
        if self._sink is not None:
            self.num_bytes += end - start
            if self.num_bytes > self.max_bytes:
                raise Refusal(
                    413, f"the scan is larger than the {self.max_bytes} bytes this server takes.", param="file"
                )
            self._sink.write(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > _MAX_FIELD_BYTES:
            raise Refusal(400, f"a field is longer than {_MAX_FIELD_BYTES} bytes; send the scan as part `file`.")

    def end(self) -> None:
        if self._sink is not None:
            self.close()
            self.is_complete = True
        else:
            self.fields[self._name] = self._value.decode("utf-8", "replace")

    def close(self) -> None:
        if self._sink is not None:
            self._sink.close()
            self._sink = None
