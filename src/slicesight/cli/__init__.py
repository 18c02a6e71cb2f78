"""The map of the command line: which verb calls which function.

Every verb imports what it needs when it runs, so that `slicesight --help` stays quick. A user's mistake (`InputError`)
is one line on stderr and exit code 2; anything else is our own fault and keeps its traceback.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from slicesight import __version__
from slicesight.cli import (
    agents,
    calibrating,
    data,
    doctor,
    insight,
    models,
    scans,
    scoring,
    serving,
    training,
    vectors,
    watching,
)
from slicesight.cli.terminal import CANNOT_WRITE, complain, silence_stdout, spell_for_any_terminal
from slicesight.errors import MODEL_LIBRARIES, InputError, how_to_install

EXAMPLES: dict[Callable[..., None], str] = {
    scans.ask: 'slicesight ask scan.nii.gz "Which phase is this?" --html scan.html',
    watching.watch: "slicesight watch inbox --questions questions.csv --out answers",
    scans.inspect: "slicesight inspect dicom_folder --png sheet.png",
    scans.demo: "slicesight demo --out demo",
    serving.serve: "slicesight serve --port 8000",
    agents.mcp: "slicesight mcp --root scans",
    data.phantom: "slicesight phantom --count 20 --seed 1 --out phantoms",
    data.prepare: "slicesight prepare scans --format folder --out prepared --split-by-patient 0",
    training.train: "slicesight train recipes/phantom-tiny.yaml --set output_dir=runs/mine --set seed=3",
    calibrating.calibrate: "slicesight calibrate --model runs/mine/model --data phantoms:8000:120",
    scoring.evaluate: "slicesight evaluate --data test/manifest.jsonl --out runs/test --train-data train",
    scoring.score: "slicesight score ours=runs/ours lamed=eval_caption.csv,eval_close_vqa.csv --json sheet.json",
    scoring.compare: "slicesight compare ours=runs/ours theirs=runs/theirs --html compare.html",
    scoring.ablate: "slicesight ablate recipes/phantom-ablation.yaml --table 4 --seeds 3 --out runs/ablation",
    scoring.faithfulness: "slicesight faithfulness --data phantoms:9000:40 --out runs/faithful",
    models.pull: "slicesight pull med-2e3",
    models.models: "slicesight models",
    models.publish: "slicesight publish runs/own/model me/liver-ct --out README.md",
    vectors.embed: "slicesight embed scans/*.nii.gz --out features.parquet",
    vectors.nearest: "slicesight nearest features.parquet scan.nii.gz --top 5",
    models.plan: "slicesight plan med2e3-phi3 --dtype bfloat16 --questions 11 --device 24GiB",
    models.convert: "slicesight convert Med-2E3-M3D med2e3 --question-tokenizer M3D-CLIP",
    doctor.doctor: "slicesight doctor",
}
"""Every verb with a line to try, in the order `--help` lists them."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Ask questions of a 3D medical scan and see which slices weigh most in each answer. "
    "For research use only; not a medical device.",
)
for verb, example in EXAMPLES.items():
    app.command(epilog=f"Example: {example}")(verb)
app.add_typer(insight.app, name="insight")


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Options before the verb."""
    if version:
        typer.echo(f"slicesight {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point: run the verb and turn a user's mistake, or an output that cannot be written, into one line."""
    spell_for_any_terminal()
    try:
        try:
            app(prog_name="slicesight")
        finally:
            sys.stdout.flush()
    except InputError as error:
        complain(" ".join(str(error).split()))
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in MODEL_LIBRARIES:
            raise
        complain(how_to_install(library))
    except OSError as error:
        if error.filename is not None or error.errno not in CANNOT_WRITE:
            raise
        silence_stdout()
        if error.errno == errno.EPIPE:  # whoever reads has seen enough
            sys.exit(1)
        complain(f"the output cannot be written ({error.strerror}); make room, or send it elsewhere")
