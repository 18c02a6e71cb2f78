"""What goes to the Hugging Face hub when a model is published, and what does its page there say?

README.md in the hub's form (https://huggingface.co/docs/hub/model-cards): metadata between two lines of ---, then text.
All of it is made of card.json and config.json, so the page says what the folder knows and no more. Nothing is sent
anywhere but by `upload`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from slicesight import __version__
from slicesight.errors import InputError, ModelError
from slicesight.files import read_json_object
from slicesight.models.card import CARD_FILE, RESEARCH_NOTICE, ModelCard, read_card
from slicesight.models.checksums import SUMS_FILE
from slicesight.models.folder import CONFIG_FILE, FAMILY, check_files
from slicesight.models.shipped import SHIPPED_FOLDER

README_FILE, CALIBRATION_FILE = "README.md", "calibration.json"
PUBLISHED = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "processor_config.json",
    "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja", CARD_FILE, CALIBRATION_FILE,
    "adapter_config.json", SUMS_FILE,
)  # fmt: skip
"""Names that are published. A log, a recipe or a list of scans may hold a patient's name in a path, and stays here."""
CALIBRATED = (
    "Each answer comes with a calibrated confidence. Scans unlike those it knows, and questions that it was not "
    'taught, are answered "I do not know", with what it would have said beside it; both can fail, so read its figures.'
)
METRIC_NAMES = {"closed": "right answers, closed questions", "open": "right answers, open questions"}
CONTROL_NAMES = {
    "blank": "an empty volume",
    "other": "another scan",
    "majority": "the commonest answer",
    "blind": "a model trained without scans",
}


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What would be sent: the repository's name, every file with its path here, and the text of README.md.

    licence: None where neither the caller nor the card named one. left_out: files of the folder that stay here.
    """

    repository: str
    licence: str | None
    files: Mapping[str, Path]
    readme: str
    left_out: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        """Of all files with README.md."""
        return sum(path.stat().st_size for path in self.files.values()) + len(self.readme.encode())


def prepare_publication(folder: Path, repository: str, *, licence: str | None = None) -> Publication:
    """Gather what is published of a model folder; nothing is written or sent.

    Args:
        repository: owner/name on the hub.
        licence: of the weights, as the hub lists it (apache-2.0, other …); left out, what card.json says.

    Raises:
        ModelError: no model folder, weights that are not safetensors, or a damaged file.
        InputError: a repository's name that the hub would refuse.
    """
    _check_repository(repository)
    if not (folder / CONFIG_FILE).is_file() and not (folder / "adapter_config.json").is_file():
        raise ModelError(f"{folder}: no {CONFIG_FILE} there; expected a model folder, as slicesight train writes it")
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    files = {name: folder / name for name in names if any(fnmatch(name, kind) for kind in PUBLISHED)}
    if not any(name.endswith(".safetensors") for name in files):
        raise ModelError(f"{folder}: no *.safetensors there; only safetensors are published, save the model again")
    check_files(folder)
    licence = licence or _licence_of(folder)
    return Publication(
        repository=repository,
        licence=licence,
        files=files,
        readme=card_text(folder, repository=repository, licence=licence),
        left_out=tuple(name for name in names if name not in files and name != README_FILE),
    )


def card_text(folder: Path, *, repository: str, licence: str | None = None) -> str:
    """README.md of a model folder."""
    from huggingface_hub import ModelCardData

    card = read_card(folder / CARD_FILE, name=repository.rpartition("/")[2])
    config = read_json_object(folder / CONFIG_FILE, error=ModelError) if (folder / CONFIG_FILE).is_file() else {}
    is_insight = config.get("model_type") == FAMILY
    data = ModelCardData(
        license=licence,
        library_name="slicesight" if is_insight else "transformers",
        pipeline_tag="image-segmentation" if is_insight else "image-text-to-text",
        language="en",
        tags=_tags(card, config),
        model_name=card.name,
        eval_results=list(_eval_results(card)) or None,
        ignore_metadata_errors=True,
    )
    text = _body(
        card,
        config,
        repository=repository,
        is_insight=is_insight,
        is_calibrated=(folder / CALIBRATION_FILE).is_file(),
    )
    return f"---\n{data.to_yaml()}\n---\n\n{text}"


def upload(publication: Publication, *, private: bool) -> str:
    """Send it and return its address. The token is the hub library's own (hf auth login, HF_TOKEN).

    Raises:
        InputError: the hub refused, in one line.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub import errors as hub_errors

    api = HfApi()
    operations = [CommitOperationAdd(name, path) for name, path in publication.files.items()]
    operations.append(CommitOperationAdd(README_FILE, publication.readme.encode()))
    try:
        api.create_repo(publication.repository, private=private, exist_ok=True)
        made = api.create_commit(
            publication.repository, operations, commit_message=f"Published with slicesight {__version__}"
        )
    except (getattr(hub_errors, "HTTPError", OSError), OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{publication.repository}: the hub refused ({reason}); log in with hf auth login, and name a repository "
            "you may write to"
        ) from error
    return str(made.commit_url)


def _licence_of(folder: Path) -> str | None:
    """What the card says in the hub's words; the models that ship have the package's own."""
    if folder.parent == SHIPPED_FOLDER:
        return "apache-2.0"
    said = read_card(folder / CARD_FILE, name=folder.name).facts.get("licence")
    if not said:
        return None
    return said if isinstance(said, str) and re.fullmatch(r"[a-z0-9.-]+", said) else "other"


def _check_repository(repository: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, and not in __all__

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise InputError(
            f"{repository!r}: {str(error).rstrip('.')}; expected owner/name, such as me/liver-ct"
        ) from error
    if repository.count("/") != 1:
        raise InputError(f"{repository!r} names no owner; expected owner/name, such as me/liver-ct")


def _tags(card: ModelCard, config: Mapping[str, Any]) -> list[str]:
    found = ["medical", "radiology", "3d", "slicesight", "not-for-clinical-use"]
    if card.is_synthetic:
        found.append("synthetic")
    kind = config.get("kind") or config.get("model_type")
    return [*found, str(kind)] if kind else found


def _eval_results(card: ModelCard) -> Iterator[Any]:
    """The model's own figures as the hub shows them beside the page."""
    from huggingface_hub import EvalResult

    scores = card.facts.get("scores")
    own = scores.get("model") if isinstance(scores, dict) else None
    for key, name in METRIC_NAMES.items():
        if isinstance(own, dict) and isinstance(own.get(key), int | float):
            yield EvalResult(
                task_type="visual-question-answering",
                dataset_type="synthetic" if card.is_synthetic else "own",
                dataset_name=str(card.facts.get("data", "see the text"))[:120],
                metric_type="accuracy",
                metric_name=name,
                metric_value=round(float(own[key]), 4),
            )


def _body(card: ModelCard, config: Mapping[str, Any], *, repository: str, is_insight: bool, is_calibrated: bool) -> str:
    parts = [f"# {card.name}", f"**{RESEARCH_NOTICE}**", card.summary, *card.notices]
    if card.is_synthetic:
        parts.append("It has seen synthetic CT only. **About a real scan its answers mean nothing.**")
    parts += ["## Use", _usage(repository, is_insight=is_insight)]
    parts += ["## Intended use and limits", _limits(card)]
    parts += ["## Training data", f"{card.facts.get('data') or card.trained_on}."]
    if card.is_synthetic:
        parts.append("The data statement of the phantoms is in the manual of slicesight (docs/phantoms.md).")
    if recipes := card.facts.get("recipes"):
        parts += ["## Training", "Recipes, in their order: " + ", ".join(f"`{name}`" for name in recipes) + "."]
    if table := _score_table(card) or _measured_table(card):
        parts += ["## Evaluation", table]
    if is_calibrated:
        parts += ["## Confidence", CALIBRATED]
    if size := config.get("image_size"):
        parts += ["## Input", f"A grid of {'×'.join(map(str, size))} (slices, rows, columns), cut from the scan."]
    return "\n\n".join(filter(None, parts)) + "\n"


def _usage(repository: str, *, is_insight: bool) -> str:
    if is_insight:
        lines = f"hf download {repository} --local-dir model\nslicesight insight predict scan.nii.gz --model model"
        return f"```sh\npip install slicesight\n{lines} --out mask.nii.gz\n```"
    return (
        f"```python\nimport slicesight\n\npredictor = slicesight.load({repository!r})\n"
        'answers = predictor.ask("scan.nii.gz", ["Describe the findings."])\n```'
    )


def _limits(card: ModelCard) -> str:
    return (
        "For research on vision-language models of volumes and on evidence for their answers. Not for care of "
        "patients, not for screening, not for a decision about a person. "
        f"Trained on: {card.trained_on}. Other scanners, protocols, body regions and populations are untested. "
        "A slice's score says how much it weighs in what the language model is given, not that the answer is right."
    )


def _score_table(card: ModelCard) -> str:
    """The model beside its controls, in percent, with intervals where the card has them."""
    scores = card.facts.get("scores")
    if not isinstance(scores, dict) or not isinstance(scores.get("model"), dict):
        return ""
    used = [key for key in METRIC_NAMES if isinstance(scores["model"].get(key), int | float)]
    rows = {
        "this model": scores["model"],
        **{name: scores[key] for key, name in CONTROL_NAMES.items() if key in scores},
    }
    lines = [
        "| answered by | " + " | ".join(METRIC_NAMES[key] for key in used) + " |",
        "|---|" + "---|" * len(used),
        *(f"| {name} | " + " | ".join(_percent(found, key) for key in used) + " |" for name, found in rows.items()),
    ]
    count = scores["model"].get("num_phantoms")
    note = f"Percent, 95 % interval drawn by scan{f'; {count} phantoms' if count else ''}."
    return "\n".join(lines) + f"\n\n{note} What the controls reach needs no scan."


def _measured_table(card: ModelCard) -> str:
    """Each kind of question, in percent, and where the figures come from: their maker says what each of them is."""
    scores = card.facts.get("published_scores") or card.facts.get("measured_scores")
    if not isinstance(scores, dict):
        return ""
    rows = [f"| {name} | {value:g} |" for name, value in scores.items() if isinstance(value, int | float)]
    source = f"From: {scores['source']}. " if "source" in scores else ""
    note = f"{source}A figure says nothing by itself: the page that it comes from has the controls beside it."
    return "\n".join(["| asked | percent |", "|---|---|", *rows]) + f"\n\n{note}" if rows else ""


def _percent(found: Mapping[str, Any], key: str) -> str:
    if not isinstance(found.get(key), int | float):
        return "–"
    ends = found.get(f"{key}_interval")
    return f"{100 * found[key]:.1f}" + (f" ({100 * ends[0]:.1f}–{100 * ends[1]:.1f})" if ends else "")
