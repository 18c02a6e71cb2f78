"""Which findings does a text classifier see in a report? Any sequence classifier of the hub, by name or folder.

It must name its findings (`id2label` of its config.json) and give each a probability of its own (a sigmoid, not a
softmax over labels that exclude one another). Texts longer than it reads are cut, and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slicesight.errors import InputError
from slicesight.evaluation.metrics.labels import THRESHOLD, Labels

BATCH = 8


def label_with_model(
    name: str, volumes: Sequence[str], texts: Sequence[str], *, threshold: float = THRESHOLD
) -> Labels:
    """The table of what a classifier sees in the texts, one scan each.

    Raises:
        InputError: there is no such model, or it is none that names several findings.
    """
    import torch

    model, tokenizer = _load(name)
    findings = tuple(str(model.config.id2label[number]) for number in range(model.config.num_labels))
    room = min(int(tokenizer.model_max_length), int(getattr(model.config, "max_position_embeddings", 512)) - 2)
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    probability = np.zeros((len(texts), len(findings)))
    num_cut = 0
    for start in range(0, len(order), BATCH):
        places = order[start : start + BATCH]
        batch = [texts[place] for place in places]
        num_cut += sum(len(ids) > room for ids in tokenizer(batch, verbose=False)["input_ids"])
        inputs = tokenizer(batch, truncation=True, max_length=room, padding=True, return_tensors="pt")
        with torch.inference_mode():
            logits = model(**{key: value.to(model.device) for key, value in inputs.items()}).logits
        probability[places] = logits.float().sigmoid().cpu().numpy()
    return Labels(
        volumes=tuple(volumes),
        findings=findings,
        present=(probability >= threshold).astype(np.float64),
        probability=probability,
        about={"from": name, "threshold": threshold, "num_cut": num_cut},
    )


def _load(name: str) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    from slicesight.models.library_fetch import fetched

    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise InputError(f"{name}: no config.json in that folder; name the folder of a sequence classifier")
    try:
        config = AutoConfig.from_pretrained(name)
        _check(config, name)
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = fetched(lambda: AutoModelForSequenceClassification.from_pretrained(name, dtype="float32"), name=name)
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        reason = str(error).strip().splitlines()[0][:160]
        raise InputError(
            f"labels by {name!r}: it cannot be loaded ({reason}); expected rules, a csv file of labels, or a sequence "
            "classifier by name or folder"
        ) from error
    return model.eval(), tokenizer


def _check(config: Any, name: str) -> None:
    kinds = config.architectures or ()
    if not any("SequenceClassification" in kind for kind in kinds):
        found = ", ".join(kinds) or "no architecture"
        raise InputError(f"labels by {name!r}: its config.json names {found}; expected a ...ForSequenceClassification")
    if config.problem_type == "single_label_classification" or config.num_labels < 2:
        raise InputError(
            f"labels by {name!r}: its {config.num_labels} labels exclude one another; expected a multi-label "
            "classifier, one label for each finding"
        )
    names = [str(label) for label in config.id2label.values()]
    if any(label.upper().startswith("LABEL_") for label in names):
        raise InputError(f"labels by {name!r}: it calls its labels {names[0]}, ...; name the findings in id2label")
