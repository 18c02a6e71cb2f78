"""How do `slicesight embed` and `nearest` go from scans to a table of vectors, and from a scan to its neighbours?"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console

from slicesight.cli.options import say, stderr
from slicesight.cli.scans import STDOUT
from slicesight.cli.vectors import EmbedOptions, NearestOptions
from slicesight.data.dataset import MANIFEST, PREPARED_INDEX, Dataset, ManifestDataset, open_dataset
from slicesight.data.fingerprints import stat_fingerprint
from slicesight.data.manifest import Case
from slicesight.errors import InputError, check_installed
from slicesight.files import write_text
from slicesight.inference.embedding import Embedder, Embedding, Vectors, load_embedder
from slicesight.inference.embedding_table import PARTIAL, EmbeddingTable, ScanName, TableFacts, TableWriter, read_table
from slicesight.inference.encoded_scan import Scan
from slicesight.inference.retrieval import Neighbour, nearest_scans, nearest_slices
from slicesight.io.loading import read_volume
from slicesight.io.mirror import file_for
from slicesight.io.object_store import has_file, is_remote, joined, remote_url
from slicesight.models.card import RESEARCH_NOTICE
from slicesight.reports.score_tables import headed_table
from slicesight.reports.terminal import progress_bar

Load = Callable[[str], Embedder]


@dataclass(frozen=True, kw_only=True)
class ScanToEmbed:
    """A row to come: its name, and how the scan is had for a model."""

    name: ScanName
    open: Callable[[Embedder], Scan]


def run_embed(options: EmbedOptions, *, load: Load = load_embedder) -> None:
    """Embed what is not embedded yet; the table appears when it is whole."""
    shown = remote_url(options.out) if is_remote(options.out) else options.out
    with file_for(options.out, beside=[PARTIAL]) as place:
        report = _embed(replace(options, out=place), load)
    say(f"wrote {shown}: {report}; it shows what the scans show. Look for neighbours: slicesight nearest {shown} SCAN")


def _embed(options: EmbedOptions, load: Load) -> str:
    scans = list(_scans_of(options))
    _check_names(scans)
    with stderr().status(f"loading {options.model}"):
        embedder = load_quietly(options.model, load)
        digest = embedder.digest()
    facts = TableFacts(
        model=embedder.name,
        source=options.model,
        digest=digest,
        space=options.space,
        has_depth_bins=options.depth_bins,
    )
    writer, skipped, warnings = TableWriter(options.out, facts), dict[str, str](), dict[str, None]()
    with progress_bar(stderr(), "embedding") as progress:
        for done, one in enumerate(scans):
            progress(done, len(scans))
            if writer.has(one.name):
                writer.keep(one.name)
                continue
            try:
                found = embedder.embed(one.open(embedder), space=options.space)
            except InputError as error:
                if not options.skip_bad_cases:
                    raise InputError(f"{one.name.scan}: {error}") from error
                skipped[one.name.scan] = " ".join(str(error).split())
                continue
            writer.add(one.name, found)
            warnings.update(dict.fromkeys(found.warnings))
    if len(skipped) == len(scans):
        writer.abandon()
        raise InputError(f"none of the {len(scans)} scans could be read; the first: {next(iter(skipped.values()))}")
    num_kept = writer.num_kept
    num_bytes = writer.finish()
    if num_kept:
        say(f"{num_kept} of {len(scans)} scans are kept from an earlier run")
    for name, why in skipped.items():
        say(f"skipped {name}: {why}")
    for what, why in writer.missing.items():
        say(f"no {what.replace('_', ' ')}: {why}")
    for warning in warnings:
        stderr().print(warning, style="yellow", highlight=False, soft_wrap=True)
    return f"{len(scans) - len(skipped)} scans, {num_bytes / 2**20:.1f} MiB, by {embedder.name}"


def run_nearest(options: NearestOptions, *, load: Load = load_embedder) -> None:
    """Print the neighbours, or write them as JSON."""
    table = read_table(options.table)
    if options.query in table.scans:
        place = table.scans.index(options.query)
        patient, without = table.patients[place], [options.query]
        vector = (
            table.volumes[place] if options.slice is None else _slice(table.slices(place), options.slice, options.query)
        )
    else:
        found = _embed_query(table, options, load)
        patient, without = None, []
        if options.other_patients:
            raise InputError(
                f"--other-patients needs to know whose scan {options.query} is; it is no scan of {options.table}, "
                "leave the option out"
            )
        vector = found.volume if options.slice is None else _slice(found.slices, options.slice, options.query)
    if options.other_patients and patient is None:
        raise InputError(f"{options.table}: does not say whose scan {options.query} is; leave --other-patients out")
    look = nearest_scans if options.slice is None else nearest_slices
    neighbours = look(
        table, vector, count=options.top, without=without, other_than=patient if options.other_patients else None
    )
    _show(neighbours, table, options)


def load_quietly(model: str, load: Load) -> Embedder:
    """Without the libraries' bars and advice."""
    check_installed("transformers")

    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return load(model)


def _scans_of(options: EmbedOptions) -> Iterator[ScanToEmbed]:
    """Every scan that the arguments name, in their order."""
    for argument in options.scans:
        if _is_data(argument):
            yield from _cases_of(argument, options)
            continue
        path = remote_url(argument) if is_remote(argument) else Path(argument)
        if isinstance(path, Path) and not path.exists():
            raise InputError(
                f"{argument}: no such file or folder; expected a scan, manifest.jsonl or phantoms:SEED:COUNT"
            )
        if options.split is not None or options.count is not None:
            raise InputError(f"{argument}: is a scan; --split and --count are for DATA, leave them out")
        name = ScanName(scan=argument, stamp=stat_fingerprint(path))
        yield ScanToEmbed(name=name, open=partial(_open_file, path, options.fill))


def _is_data(argument: str) -> bool:
    """Whether the argument names many cases, not one scan."""
    path = Path(argument)
    if is_remote(argument):
        folder = remote_url(argument)
        return path.suffix == ".jsonl" or any(
            has_file(joined(folder, str(name))) for name in (MANIFEST, PREPARED_INDEX)
        )
    if path.exists():
        return path.suffix == ".jsonl" or (path / MANIFEST).is_file() or (path / PREPARED_INDEX).is_file()
    return path.suffix == ".jsonl" or ":" in argument


def _cases_of(data: str, options: EmbedOptions) -> Iterator[ScanToEmbed]:
    source = open_dataset(data, split=options.split, count=options.count, fill=options.fill)
    for case in source.cases:
        name = ScanName(scan=case.id, stamp=source.stamp(case), patient=case.patient_key, split=case.split)

        yield ScanToEmbed(name=name, open=partial(_open_case, source, case))


def _open_case(source: Dataset, case: Case, embedder: Embedder) -> Scan:
    """The case on the embedder's grid, or its scan where the embedder makes its own."""
    if embedder.grid_spec is not None:
        return source.grid(case, embedder.grid_spec)
    if isinstance(source, ManifestDataset):
        return source.volume(case)
    raise InputError(f"{embedder.name} brings scans to its own voxel size; name the scans' files")


def _open_file(path: str | Path, fill: str | None, embedder: Embedder) -> Scan:
    return read_volume(path, fill=fill)


def _check_names(scans: list[ScanToEmbed]) -> None:
    counted = Counter(one.name.scan for one in scans)
    if twice := [name for name, count in counted.items() if count > 1]:
        raise InputError(f"{counted[twice[0]]} scans are called {twice[0]}; name each once")


def _embed_query(table: EmbeddingTable, options: NearestOptions, load: Load) -> Embedding:
    path = Path(options.query)
    if not is_remote(options.query) and not path.exists():
        from slicesight.settings import nearest

        hint = nearest(options.query, table.scans, noun="scans of the table")
        raise InputError(f"{options.query}: neither a scan of {options.table} nor a file; {hint}")
    model = options.model or table.facts["source"]
    with stderr().status(f"loading {model}"):
        embedder = load_quietly(model, load)
    if embedder.digest() != table.facts["digest"]:
        raise InputError(
            f"{options.table}: was made by {table.facts['model']} with other weights or settings than {model}'s now; "
            "embed the scans again, or name the model with --model"
        )
    with stderr().status("embedding the scan"):
        return embedder.embed(read_volume(path), space=table.facts["space"])


def _slice(slices_NL: Vectors | None, number: int, query: str) -> Vectors:
    """One slice's vector."""
    if slices_NL is None:
        raise InputError(f"{query}: the model gives no vectors of slices; leave --slice out")
    if number >= len(slices_NL):
        raise InputError(f"--slice {number}: the grid has {len(slices_NL)} slices, 0 to {len(slices_NL) - 1}")
    found: Vectors = slices_NL[number]
    return found


def _show(neighbours: list[Neighbour], table: EmbeddingTable, options: NearestOptions) -> None:
    document = {
        "schema": 1,
        "query": options.query,
        "grid_slice": options.slice,
        "model": table.facts["model"],
        "space": table.facts["space"],
        "neighbours": [{name: value for name, value in asdict(one).items() if value is not None} for one in neighbours],
        "use": RESEARCH_NOTICE,
    }
    text = json.dumps(document, indent=1) + "\n"
    if options.json == STDOUT:
        sys.stdout.write(text)
        return
    by_slice = options.slice is not None
    what = f"{options.query}, grid slice {options.slice}" if by_slice else options.query
    columns = ["", "cosine", "scan", *(["grid slice", "file's slices", "mm (x, y, z)"] if by_slice else [])]
    shown = headed_table("", *columns, pad_edge=False)
    for one in neighbours:
        cells = [str(one.rank), f"{one.cosine:.4f}", one.scan]
        if by_slice:
            found = one.source_slices or ()
            cells += [
                " ".join(filter(None, (one.plane, str(one.grid_slice)))),
                f"{min(found)}–{max(found)}" if len(found) > 1 else "".join(map(str, found)),
                "" if one.position_mm is None else ", ".join(f"{value:.0f}" for value in one.position_mm),
            ]
        shown.add_row(*cells)
    console = Console(highlight=False)
    console.print(f"nearest to {what}, by {table.facts['model']}", style="bold", markup=False, soft_wrap=True)
    console.print(shown)
    say(f"Alike for this model is not alike for a reader. {RESEARCH_NOTICE}")
    if options.json is not None:
        write_text(options.json, text=text)
        say(f"wrote {options.json}")
