"""How does a manifest that exists already, its scans anywhere, become the cases of a preparation?

SOURCE is a manifest.jsonl or its folder, here or in an object store; its lines are those of `data.manifest.Case`, their
`volume` a path from the manifest, an absolute one, or an address such as s3://bucket/scan.nii.gz.
"""

from __future__ import annotations

from pathlib import Path

from slicesight.data.manifest import Case, iter_manifest
from slicesight.data.sources.intake import Intake, SourceLocation, SourceRequest
from slicesight.io.object_store import is_remote, joined, remote_url

MANIFEST = "manifest.jsonl"


def read_manifest_lines(request: SourceRequest, intake: Intake) -> list[Case]:
    """Every line as it is, its paths made absolute; a scan that is not there is refused."""
    source: str | Path = remote_url(request.source) if is_remote(request.source) else request.source
    if not str(source).endswith(".jsonl"):
        source = joined(source, MANIFEST)
    base = source.parent if isinstance(source, Path) else source.rpartition("/")[0]
    cases = []
    for number, case in enumerate(iter_manifest(source), start=1):
        if not request.wants(case.split):
            continue
        volume = joined(base, case.volume)
        if isinstance(volume, Path) and not volume.exists():
            where = SourceLocation(Path(source).name, number)
            intake.refuse("missing volume", f"{volume}: not found; mend the manifest", where, case_id=case.id)
            continue
        labels = None if case.labels is None else str(joined(base, case.labels))
        cases.append(case.model_copy(update={"volume": str(volume), "labels": labels}))
    return cases
