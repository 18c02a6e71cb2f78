"""How does a scan in a message reach the server? A data: URL, or a link that vLLM's own rules let in.

vLLM decides which links are followed (--allowed-local-media-path, --allowed-media-domains); this reads what they give.
"""

from __future__ import annotations

import base64
import binascii
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm.multimodal.media.base import MediaIO

from slicesight.errors import InputError
from slicesight.io.loading import read_scan
from slicesight.volumes.volume import Volume

MAX_SCAN_BYTES = 2 * 10**9
SCAN_TYPES = ("volume", "volume_url", "image", "image_url", "file")


class ScanMediaIO(MediaIO[Volume]):
    """Reads a scan in any format of the package, which its first bytes tell."""

    def get_max_bytes(self) -> int | None:
        return MAX_SCAN_BYTES

    def load_bytes(self, data: bytes) -> Volume:
        """A whole file: NIfTI, NRRD, MetaImage, a zip of a DICOM series, ..."""
        if len(data) > MAX_SCAN_BYTES:
            raise InputError(f"the scan's file has {len(data)} bytes; at most {MAX_SCAN_BYTES} are read.")
        with tempfile.TemporaryDirectory(prefix="slicesight-") as folder:
            file = Path(folder) / "scan"
            file.write_bytes(data)
            return read_scan(file)

    def load_base64(self, media_type: str, data: str) -> Volume:
        try:
            return self.load_bytes(base64.b64decode(data, validate=True))
        except binascii.Error as error:
            raise InputError(f"the scan's data: URL is no base64 ({error}); encode the file's bytes.") from error

    def load_file(self, filepath: Path) -> Volume:
        return read_scan(filepath)


def list_parts(message: Mapping[str, Any]) -> list[Any]:
    """The parts of a message's content; none where it is plain text."""
    content = message.get("content")
    return [] if content is None or isinstance(content, str) else list(content)


def find_scan(part: Any) -> Any:
    """What a part names as its scan: a link, or an object in the caller's own process; None for another part.

    Raises:
        InputError: it is a scan's part without a scan, or names a file by an id, which this server keeps none of.
    """
    if not isinstance(part, Mapping) or part.get("type") not in SCAN_TYPES:
        return None
    given = part.get(part["type"])
    given = part.get("path", part.get("url")) if given is None else given
    if isinstance(given, Mapping):
        if given.get("file_id"):
            raise InputError(
                "a file part names a file_id, and this server keeps no files; give file_data as a data: URL, or a link "
                'as {"type": "image_url", "image_url": {"url": ...}} (slicesight serve --engine vllm keeps scans).'
            )
        given = given.get("url", given.get("file_data"))
    if given is None:
        raise InputError(f"a part of type {part['type']!r} names no scan; give its link.")
    if isinstance(given, str) and "://" not in given and not given.startswith("data:"):
        given = f"data:application/octet-stream;base64,{given}" if part["type"] == "file" else given
    return given
