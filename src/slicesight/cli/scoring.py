"""Verbs that measure: evaluate a model, score result files, ablate, ask how faithful the slice scores are."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from slicesight.cli.options import (
    ChangesOption,
    EvidenceOption,
    FillOption,
    ModelOption,
    PassesOption,
    PresetOption,
    checked_folder,
    is_address_of_store,
    verb,
)
from slicesight.cli.scans import STDOUT
from slicesight.data.sources import BENCHMARKS
from slicesight.errors import InputError
from slicesight.files import checked_place

BertScoreOption = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="BERTScore's model by name or folder; roberta-large is the papers'."),
]
LabelsOption = Annotated[
    str | None,
    typer.Option(
        metavar="rules|MODEL",
        help="Read findings from the reports: rules (CT-RATE's 18), or a sequence classifier by name or folder.",
    ),
]
TrueLabelsOption = Annotated[
    str | None,
    typer.Option(metavar="FILE.csv|rules|MODEL", help="The true findings; left out, read from the true reports alike."),
]
UncertainOption = Annotated[
    Literal["present", "absent"], typer.Option(help="What a finding counts as that is only possible.")
]
RadEvalOption = Annotated[
    list[str] | None,
    typer.Option(metavar="METRIC", help="Also RadEval's: radgraph, ratescore, green, f1radbert_ct, ...; repeatable."),
]
RadEvalPythonOption = Annotated[
    Path | None, typer.Option(metavar="PYTHON", help="The Python of the environment that has RadEval.")
]
LayerOption = Annotated[int | None, typer.Option(help="Which layer of it; left out, the one bert-score takes.")]


DataHelp = "manifest.jsonl or its folder, a prepared folder, or phantoms:SEED:COUNT"


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """The options of `slicesight evaluate`."""

    data: Annotated[
        str,
        typer.Option(
            metavar="DATA", help=f"Test data: {DataHelp}; with --benchmark its own folder.", show_default=False
        ),
    ]
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for answers, sheet and report; with --benchmark runs/BENCHMARK-MODEL if left out.",
            show_default=False,
        ),
    ] = None
    model: ModelOption = "phantom-tiny"
    benchmark: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"A public benchmark: {', '.join(BENCHMARKS)}; docs/how-to/benchmarks.md."),
    ] = None
    volumes: Annotated[
        Path | None, typer.Option(metavar="DIR", help="With --benchmark: where its scans lie, if not in DATA.")
    ] = None
    split: Annotated[
        str | None, typer.Option(help="Which split; left out, test where the manifest has splits, else all.")
    ] = None
    count: Annotated[int | None, typer.Option(min=1, help="Only the first so many cases.")] = None
    fill: FillOption = None
    preset: PresetOption = None
    evidence: EvidenceOption = True
    evidence_passes: PassesOption = None
    controls: Annotated[
        bool, typer.Option(help="Also answer with a blank volume, shuffled slices and a wrong volume.")
    ] = True
    blind_model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A model trained without scans, as a control.")
    ] = None
    train_data: Annotated[
        str | None, typer.Option(metavar="DATA", help="What the model was trained on: leak check, majority answers.")
    ] = None
    bertscore: BertScoreOption = None
    bertscore_layer: LayerOption = None
    labels: LabelsOption = None
    true_labels: TrueLabelsOption = None
    uncertain: UncertainOption = "present"
    radeval: RadEvalOption = None
    radeval_python: RadEvalPythonOption = None
    skip_bad_cases: Annotated[bool, typer.Option(help="Leave unreadable scans out and list them.")] = False
    figures: Annotated[int, typer.Option(min=0, help="How many cases the report pictures.")] = 3
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Answer on a Ray cluster: local, auto, ray://...")
    ] = None
    workers: Annotated[int, typer.Option(min=1, help="With --ray: how many loaded models answer side by side.")] = 2

    def __post_init__(self) -> None:
        if self.benchmark is None and self.out is None:
            raise InputError("no folder for the answers; name one with --out")
        if self.benchmark is None and self.volumes is not None:
            raise InputError("--volumes belongs to --benchmark; a manifest names its scans itself, leave it out")
        if self.benchmark is not None and self.fill is not None:
            raise InputError("--fill does not go with --benchmark; prepare the scans with it, or leave it out")
        if is_address_of_store(self.folder):
            if self.benchmark is not None:
                raise InputError("--benchmark writes its files into a folder here; name one with --out")
            return
        checked_folder(self.folder)

    @property
    def folder(self) -> Path:
        """Where everything is written."""
        if self.out is not None:
            return self.out
        model = "".join(
            sign if sign.isalnum() or sign in "-_." else "_" for sign in Path(self.model).name or self.model
        )
        return Path("runs") / f"{self.benchmark}-{model}"


@verb
def evaluate(options: EvaluateOptions) -> None:
    """Answer a test set with all controls, score it, and write a report page; goes on where it was stopped."""
    from slicesight.cli.measure import run_evaluate

    run_evaluate(options)


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """The options of `slicesight score`."""

    predictions: Annotated[
        list[str],
        typer.Argument(
            metavar="PREDICTIONS",
            help="FILE, FOLDER or NAME=FILE[,FILE...]: our predictions.jsonl, M3D's result csv's, official Med-2E3 "
            "outputs, a csv of labels. Runs of the same NAME are seeds of one system.",
            show_default=False,
        ),
    ]
    answers: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="The answers json of official outputs; repeatable.")
    ] = None
    json: Annotated[Path | None, typer.Option(metavar="FILE|-", help="Write the sheet; - is stdout.")] = None
    controls: Annotated[
        bool, typer.Option("--controls", help="Beneath each system the controls that its folder holds.")
    ] = False
    bertscore: BertScoreOption = None
    bertscore_layer: LayerOption = None
    labels: Annotated[
        list[str] | None,
        typer.Option(
            metavar="rules|MODEL|[NAME=]FILE.csv",
            help="Findings of what was said: rules (CT-RATE's 18), a sequence classifier, or system NAME's csv.",
        ),
    ] = None
    true_labels: TrueLabelsOption = None
    uncertain: UncertainOption = "present"
    radeval: RadEvalOption = None
    radeval_python: RadEvalPythonOption = None
    benchmark: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"Beside its published rows: {', '.join(BENCHMARKS)}."),
    ] = None
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Test data that every prediction must be of; with --benchmark its folder."),
    ] = None

    def __post_init__(self) -> None:
        if self.json is not None and self.json != STDOUT:
            checked_place(self.json)


@verb
def score(options: ScoreOptions) -> None:
    """Score what any system answered: texts, closed answers, findings (F1, AUROC, CRG), paired tests."""
    from slicesight.cli.measure import run_score

    run_score(options)


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """The options of `slicesight compare`."""

    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Two or more of FOLDER (of evaluate), FILE or NAME=FILE[,FILE...], as score takes them.",
            show_default=False,
        ),
    ]
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the page; one file, needs nothing else.")] = (
        None
    )
    json: Annotated[Path | None, typer.Option(metavar="FILE|-", help="Write the sheets and tests; - is stdout.")] = None
    benchmark: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help=f"Published rows too ({', '.join(BENCHMARKS)}); left out, the runs' own benchmark."
        ),
    ] = None
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="Where the scans lie, if not where the runs had them.")
    ] = None
    cases: Annotated[int, typer.Option(min=0, help="How many of the worst scans the page pictures.")] = 6
    answers: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="The answers json of official outputs; repeatable.")
    ] = None
    bertscore: BertScoreOption = None
    bertscore_layer: LayerOption = None

    def __post_init__(self) -> None:
        for place in (self.html, self.json):
            if place is not None and place != STDOUT:
                checked_place(place)


@verb
def compare(options: CompareOptions) -> None:
    """Several systems on the same questions: leaderboard, paired tests, topics and worst cases, on one HTML page."""
    from slicesight.cli.measure import run_compare

    run_compare(options)


@dataclass(frozen=True, kw_only=True)
class AblateOptions:
    """The options of `slicesight ablate`."""

    recipe: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE", help="One cell's training; recipes/phantom-ablation.yaml.", show_default=False
        ),
    ]
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for cells and tables.", show_default=False)]
    table: Annotated[
        list[int] | None, typer.Option(metavar="3|4|5", help="Which table; repeatable, all if left out.")
    ] = None
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds each cell is trained with.")] = 3
    data: Annotated[str, typer.Option(metavar="DATA", help=f"Test data: {DataHelp}.")] = "phantoms:9000:150"
    changes: ChangesOption = None
    bertscore: BertScoreOption = None
    bertscore_layer: LayerOption = None

    def __post_init__(self) -> None:
        checked_folder(self.out)


@verb
def ablate(options: AblateOptions) -> None:
    """Train and score every cell of the paper's ablation tables; goes on cell by cell where it was stopped."""
    if find_spec("accelerate") is None:
        raise InputError(
            "ablations train; that needs accelerate, which is not installed: pip install 'slicesight[train]'"
        )
    from slicesight.cli.measure import run_ablate

    run_ablate(options)


@dataclass(frozen=True, kw_only=True)
class FaithfulnessOptions:
    """The options of `slicesight faithfulness`."""

    data: Annotated[str, typer.Option(metavar="DATA", help=f"Scans with questions: {DataHelp}.", show_default=False)]
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the figure and the numbers.", show_default=False)]
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL", help="A shipped model, a model folder or a hub name; repeat it to compare several."
        ),
    ] = None
    split: Annotated[str | None, typer.Option(help="Which split; left out, test where there are splits.")] = None
    count: Annotated[int | None, typer.Option(min=1, help="Only the first so many scans.")] = None
    preset: PresetOption = None
    evidence_passes: PassesOption = None

    def __post_init__(self) -> None:
        checked_folder(self.out)


@verb
def faithfulness(options: FaithfulnessOptions) -> None:
    """Ask how far answers rest on the slices they point at: deletion and insertion curves, the paper's claims."""
    from slicesight.cli.measure import run_faithfulness

    run_faithfulness(options)
