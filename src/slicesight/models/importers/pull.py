"""How does a released model become a folder of this package by its name? Look up, say, fetch, check, convert, rename.

`prepare` asks the hub (or reads a downloaded folder) and writes nothing; `run` does the work. What is on its way lies
in one hidden folder beside the model's own, where an interrupted pull goes on; the model's folder is renamed into place
when it is whole, its card written last.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slicesight import __version__
from slicesight.errors import InputError, ModelError
from slicesight.files import only_run_in, plain_disk_errors, read_json_object, write_text
from slicesight.models.card import CARD_FILE
from slicesight.models.importers import hub
from slicesight.models.importers.downloaded import Downloaded
from slicesight.models.importers.layouts import VOCABULARY, Layout, find_layout
from slicesight.models.importers.m3d import convert_folder
from slicesight.models.known import KNOWN_MODELS, M3D_CLIP_HUB, KnownModel
from slicesight.models.shipped import folder_name, nearest_model, pulled_folder, shipped_models

GIB = 2**30
SPARE_BYTES = 64 * 2**20
STATE_FILE = "fetching.json"
ORIGINALS = "original"
NAME = re.compile(r"\w[\w.-]*(?:/\w[\w.-]*)?")
WORDS_FOLDER = "m3d_clip_tokenizer"
Source = hub.Repository | Downloaded


@dataclass(frozen=True, kw_only=True)
class Part:
    """Files of one source that go into one folder of the originals ("" is their root)."""

    source: Source
    paths: tuple[str, ...]
    into: str = ""

    def size_of(self, path: str) -> int:
        """In bytes."""
        return max(0, self.source.files[path].size)


@dataclass(frozen=True, kw_only=True)
class Pull:
    """What a pull will do, known before the first byte."""

    name: str
    target: Path
    layout: Layout
    parts: tuple[Part, ...]
    known: KnownModel | None = None

    @property
    def main(self) -> Source:
        """Where the model itself comes from."""
        return self.parts[0].source

    @property
    def staging(self) -> Path:
        """What is on its way."""
        return self.target.with_name(f".{self.target.name}.pull")

    @property
    def is_download(self) -> bool:
        """False: a folder that is here already is converted."""
        return isinstance(self.main, hub.Repository)

    @property
    def files(self) -> Iterator[tuple[Part, str, Path]]:
        """Every file: its part, its path there, its place among the originals."""
        for part in self.parts:
            for path in part.paths:
                yield part, path, Path(part.into, path)

    @property
    def total_bytes(self) -> int:
        """Of all files."""
        return sum(part.size_of(path) for part, path, _ in self.files)

    @property
    def weight_bytes(self) -> int:
        """Of the weights alone: what the converted model takes."""
        return sum(self.parts[0].size_of(path) for path in self.layout.weights)

    def bytes_here(self) -> int:
        """What an interrupted pull has brought already."""
        folder = self.staging / ORIGINALS
        here = 0
        for part, path, place in self.files:
            found = folder / place
            if found.is_file():
                here += found.stat().st_size
            elif isinstance(part.source, hub.Repository):
                half = hub.half_of(found, part.source.files[path])
                here += half.stat().st_size if half.is_file() else 0
        return min(here, self.total_bytes)

    def disk_bytes(self) -> int:
        """What must be free before anything is written."""
        fetched = self.total_bytes - self.bytes_here() if self.is_download else 0
        converted = self.weight_bytes if self.is_download and not self.layout.is_own else 0
        if not self.is_download:
            converted = self.total_bytes
        return fetched + converted + SPARE_BYTES

    def is_done(self) -> bool:
        """Whether the target holds this very model already."""
        facts = read_pulled(self.target)
        revision = self.main.revision
        return facts is not None and revision is not None and facts.get("revision") == revision


def prepare(
    name: str,
    *,
    to: Path | None = None,
    source: Path | None = None,
    revision: str | None = None,
    endpoint: str | None = None,
) -> Pull:
    """Everything about a pull that can be known before the first byte; nothing is written.

    Args:
        to: the folder to write; left out, the model's name among the pulled models.
        source: a folder downloaded by other means, instead of the hub.
        revision: branch, tag or commit; left out, the newest.

    Raises:
        InputError: an unknown name, no connection, no model there, or a target that holds something else.
    """
    known = KNOWN_MODELS.get(name) or next((k for k in KNOWN_MODELS.values() if k.hub == name), None)
    if name in shipped_models():
        raise InputError(f"{name} comes with the package, there is nothing to fetch; use it: --model {name}")
    if revision is not None and source is not None:
        raise InputError("--revision asks the hub and --from does not; leave one of them out")
    if not NAME.fullmatch(name) or (known is None and source is None and "/" not in name):
        raise InputError(f"{name!r} is no model that can be fetched by name; {nearest_model(name)} or owner/model")
    name = known.name if known is not None else name
    target = (to if to is not None else pulled_folder() / folder_name(name)).absolute()
    check_target(target)
    if source is not None:
        main: Source = Downloaded.of(source)
    else:
        main = hub.look_up(known.hub if known else name, revision=revision, endpoint=endpoint)
    layout = find_layout(main.hub, main.files, lambda path: _read(main, path))
    parts = [Part(source=main, paths=layout.files)]
    if layout.needs_vocabulary:
        vocabulary = (
            main.beside(M3D_CLIP_HUB) if isinstance(main, Downloaded) else hub.look_up(M3D_CLIP_HUB, endpoint=endpoint)
        )
        paths = tuple(path for path in VOCABULARY if path in vocabulary.files)
        if not {"vocab.txt", "tokenizer.json"} & set(paths):
            raise ModelError(f"{vocabulary.hub}: has no vocab.txt; expected the vocabulary of {M3D_CLIP_HUB} there")
        parts.append(Part(source=vocabulary, paths=paths, into=WORDS_FOLDER))
    return Pull(name=name, target=target, layout=layout, parts=tuple(parts), known=known)


def _read(source: Source, path: str) -> bytes:
    return source.read(path) if isinstance(source, Downloaded) else hub.read_small(source, path)


def read_pulled(folder: Path) -> dict[str, Any] | None:
    """What the card says about where a folder was pulled from; None where it was not."""
    path = folder / CARD_FILE
    if not path.is_file():
        return None
    found = read_json_object(path, error=ModelError).get("pulled")
    return found if isinstance(found, dict) else None


def check_target(target: Path) -> None:
    """Raises InputError where something stands in the target's place that no pull has written."""
    if target.is_dir() and (not any(target.iterdir()) or read_pulled(target) is not None):
        return
    if target.exists():
        what = "a folder with other files" if target.is_dir() else "a file"
        raise InputError(f"{target} is {what}; name a new folder with --to, or delete it")


def check_disk(pull: Pull) -> None:
    """Raises InputError where the disk is too small for the files and the converted model together."""
    place = next(folder for folder in pull.target.parents if folder.is_dir())
    free, needed = shutil.disk_usage(place).free, pull.disk_bytes()
    if free < needed:
        raise InputError(
            f"{place}: {needed / GIB:.2f} GiB are needed there for a while, {free / GIB:.2f} GiB are free; make room, "
            "or name a folder on another disk with --to"
        )


@dataclass(kw_only=True)
class Hooks:
    """What is told while a pull runs."""

    on_bytes: hub.OnBytes = lambda _: None
    on_file: Callable[[str], None] = lambda _: None
    on_part: Callable[[str], None] = lambda _: None
    note: hub.Note = lambda _: None


def run(pull: Pull, *, keep: bool = False, hooks: Hooks | None = None) -> Path:
    """Fetch, check, convert; the model's folder, which is there only when it is whole.

    Raises:
        InputError: the disk is too small, the connection is lost for good, a file is damaged, or cannot be converted.
    """
    hooks = hooks or Hooks()
    check_target(pull.target)
    check_disk(pull)
    with plain_disk_errors(pull.target), only_run_in(pull.staging, doing="fetching this model"):
        originals = pull.staging / ORIGINALS
        checksums = bring(pull, originals, hooks)
        made = pull.staging / "converted"
        shutil.rmtree(made, ignore_errors=True)
        report = None
        if not pull.layout.is_own:
            try:
                report = convert_folder(originals, made, on_progress=hooks.on_part)
            except ModelError as error:
                shutil.rmtree(made, ignore_errors=True)
                raise ModelError(
                    f"{error} (the files themselves are kept in {originals}; delete that to give up)"
                ) from error
            if keep and pull.is_download:
                originals.rename(made / ORIGINALS)
        elif pull.is_download:
            made = originals
        else:
            shutil.copytree(originals, made)  # links to the user's files become files
        facts = card_facts(pull, checksums, own=made / CARD_FILE)
        if report is not None:
            facts["pulled"]["left_over"] = len(report.left_over)
        write_text(made / CARD_FILE, text=json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
        put_into_place(made, pull.target)
        shutil.rmtree(pull.staging, ignore_errors=True)
    if pull.target.parent != pulled_folder():
        link_name(pull)
    return pull.target


def bring(pull: Pull, originals: Path, hooks: Hooks) -> dict[str, str | None]:
    """All files, checked, in `originals`; their checksums by place."""
    state_path = pull.staging / STATE_FILE
    before = read_json_object(state_path).get("files", {}) if state_path.is_file() else {}
    wanted = {
        str(place): part.source.files[path].checksum if isinstance(part.source, hub.Repository) else None
        for part, path, place in pull.files
    }
    if pull.is_download:
        for place, checksum in before.items():
            if wanted.get(place, "") != checksum:  # of another commit
                (originals / place).unlink(missing_ok=True)
        state = {"hub": pull.main.hub, "revision": pull.main.revision, "files": wanted}
        write_text(state_path, text=json.dumps(state, indent=1))
    else:
        shutil.rmtree(originals, ignore_errors=True)
    found: dict[str, str | None] = {}
    for part, path, place in pull.files:
        destination = originals / place
        hooks.on_file(str(place))
        if isinstance(part.source, Downloaded):
            found[str(place)] = part.source.bring(path, destination, on_bytes=hooks.on_bytes)
        elif destination.is_file() and destination.stat().st_size == part.source.files[path].size:
            found[str(place)] = part.source.files[path].checksum
        else:
            with hub.noting_retries(hooks.note):
                found[str(place)] = hub.fetch(part.source, path, destination, on_bytes=hooks.on_bytes).checksum
    return found


def card_facts(pull: Pull, checksums: dict[str, str | None], *, own: Path) -> dict[str, Any]:
    """The card: the author's own facts where there are some, then where the model comes from, at which commit."""
    facts: dict[str, Any] = read_json_object(own, error=ModelError) if own.is_file() else {}
    facts.setdefault("name", pull.name)
    if pull.known is not None:
        facts.setdefault("trained_on", pull.known.trained_on)
        facts.setdefault("summary", pull.known.summary)
        if pull.known.scores:
            facts.setdefault("published_scores", {**pull.known.scores, "source": pull.known.scores_from})
        if pull.known.caption_question:
            facts.setdefault("caption_question", pull.known.caption_question)
    main = pull.main
    if main.licence is not None:
        facts.setdefault("licence", main.licence)
    facts["pulled"] = {
        "hub": main.hub,
        "revision": main.revision,
        "endpoint": main.endpoint,
        "kind": pull.layout.kind,
        "slicesight_version": __version__,
        "also": {part.into: {"hub": part.source.hub, "revision": part.source.revision} for part in pull.parts[1:]},
        "checksums": checksums,
    }
    return facts


def put_into_place(made: Path, target: Path) -> None:
    """Rename the whole folder to its name; what a pull wrote there before goes only once the new one stands."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.is_symlink():
        target.unlink()
    elif target.is_dir():
        target.rename(old)
    try:
        made.rename(target)
    except OSError:
        if old.is_dir():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def link_name(pull: Pull) -> None:
    """Let the model's name lead to a folder elsewhere, where no other folder has it."""
    link = pulled_folder() / folder_name(pull.name)
    if link.exists() and not link.is_symlink():
        return
    with contextlib.suppress(OSError):  # then it is used by its folder
        link.parent.mkdir(parents=True, exist_ok=True)
        temporary = link.with_name(f".{link.name}.link")
        temporary.unlink(missing_ok=True)
        os.symlink(pull.target, temporary)
        temporary.replace(link)
