"""Which released models does this package know by a short name, and what did their authors say about them?

Sources. Med-2E3: arXiv 2411.12783 (tables 1 and 2) and github.com/MSIIP/Med-2E3; its weights are on the hub as
shiym2000/Med-2E3-M3D, its question's vocabulary in GoodBaiBai88/M3D-CLIP. M3D-CLIP and M3D-LaMed: arXiv 2404.00578 and
github.com/BAAI-DCAI/M3D. Scores stand as published, of the authors' own test sets: none was measured with this package.
"""

from __future__ import annotations

from dataclasses import dataclass, field

M3D_CLIP_HUB = "GoodBaiBai88/M3D-CLIP"
M3D_CAPTION_QUESTION = "Can you provide a caption consists of findings for this medical image?"
"""As M3D's own example asks, its English included: the models were trained on such sentences."""


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """A released model: where it is, what it was trained on, and what its authors measured.

    gib: about what is fetched, from the architecture in 16 bits (M3D-CLIP: 32); `slicesight pull` says it exactly.
    """

    name: str
    hub: str
    summary: str
    trained_on: str
    licence: str
    gib: float
    scores: dict[str, float] = field(default_factory=dict)
    scores_from: str = ""
    caption_question: str | None = None


KNOWN_MODELS = {
    known.name: known
    for known in (
        KnownModel(
            name="med-2e3",
            hub="shiym2000/Med-2E3-M3D",
            summary="Med-2E3 as its authors released it: Phi-3-mini, SigLIP-L/16-256, M3D-CLIP's 3D encoder, TG-IS.",
            trained_on="M3D-Cap and M3D-VQA: 3D CT of many organs with reports and questions",
            licence="Apache-2.0 is named for its code; pull shows the weights' own",
            gib=8.1,
            scores={"report BLEU-1": 51.51, "report ROUGE-1": 54.48, "open BLEU-1": 58.55, "closed accuracy": 82.42},
            scores_from="published, arXiv 2411.12783, M3D-Cap and M3D-VQA (macro)",
            caption_question=M3D_CAPTION_QUESTION,
        ),
        KnownModel(
            name="m3d-lamed",
            hub="GoodBaiBai88/M3D-LaMed-Phi-3-4B",
            summary="M3D-LaMed on Phi-3-mini: answers from the 3D encoder alone, so no slice scores.",
            trained_on="M3D-Data: 3D CT of many organs with reports, questions and masks",
            licence="not known here; pull shows what the hub names",
            gib=7.7,
            scores={"report BLEU-1": 37.30, "report ROUGE-1": 40.70, "open BLEU-1": 53.63, "closed accuracy": 80.16},
            scores_from="of M3D-LaMed's open weights, which are not said; arXiv 2411.12783, macro averages",
            caption_question=M3D_CAPTION_QUESTION,
        ),
        KnownModel(
            name="m3d-clip",
            hub=M3D_CLIP_HUB,
            summary="M3D-CLIP: one vector per volume and per text, for retrieval; it answers no questions.",
            trained_on="M3D-Cap: 3D CT of many organs with reports",
            licence="not known here; pull shows what the hub names",
            gib=0.8,
        ),
    )
}
"""Short name -> the model; `slicesight pull` takes these and any name on the hub."""
