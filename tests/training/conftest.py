"""The smallest recipe that has every section of a run, and phantoms for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from slicesight.data.dataset import Dataset
from slicesight.data.manifest import Case

TINY = """
name: tiny
output_dir: {out}
vocab_size: 400
seed: 3
save_every: 2
data: {{folder: {phantoms}, seed: 5, count: 6}}
grid: {{num_slices: 8, height: 32, width: 32}}
model:
  text_config: {{model_type: llama, hidden_size: 32, intermediate_size: 48, num_hidden_layers: 1,
                num_attention_heads: 2, num_key_value_heads: 2, tie_word_embeddings: true, attention_dropout: 0.1}}
  vision2d_config: {{model_type: resnet, num_channels: 1, embedding_size: 8, hidden_sizes: [8, 16], depths: [1, 1],
                    layer_type: basic}}
  vision3d_config: {{model_type: cnn3d, widths: [8, 8], blocks: [0, 0], strides: [[2, 4, 4], [2, 2, 2]]}}
pretrain_slices: {{steps: 3, batch_size: 4}}
pretrain_volumes: {{steps: 3, batch_size: 2}}
pretrain_language: {{steps: 3, batch_size: 8}}
stages:
  - {{name: align, trainable: [projector_2d, projector_3d], tasks: [report], steps: 5, learning_rate: 1.0e-3,
     volumes_per_step: 2}}
  - {{name: instruct, trainable: [projector_2d, projector_3d, language_model, vision2d], steps: 5,
     learning_rate: 1.0e-3, volumes_per_step: 2, score_weight: 0.1}}
"""


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory) -> Path:
    """A recipe file whose phantoms are made already."""
    from slicesight.phantoms.dataset import open_phantom_set
    from slicesight.volumes.grid import GridSpec

    folder = tmp_path_factory.mktemp("tiny")
    grid = GridSpec(num_slices=8, height=32, width=32)
    open_phantom_set(folder / "phantoms", seed=5, count=6, grid=grid, workers=1)
    path = folder / "tiny.yaml"
    path.write_text(TINY.format(out=folder / "run", phantoms=folder / "phantoms"))
    return path


class MemoryData(Dataset):
    """Training data in memory: small random volumes, a report, open and closed questions; no text ever changes."""

    preparation = "memory"

    def __init__(self, num_cases: int = 5, *, reports: bool = True, shape: tuple[int, int, int] = (8, 32, 32)) -> None:
        import numpy as np

        from slicesight.data.manifest import Conversation

        rng = np.random.default_rng(0)
        self.volumes = [rng.random(shape, dtype=np.float32) for _ in range(num_cases)]
        self.num_read = 0
        self.asked = [
            [
                *(
                    [
                        Conversation(
                            task="report", topic="report", question="Describe it.", answer=f"Scan {n} " * (8 * n + 4)
                        )
                    ]
                    if reports
                    else []
                ),
                Conversation(task="open", topic="plane", question="Which plane?", answer=["axial", "coronal"][n % 2]),
                Conversation(
                    task="closed",
                    topic="location",
                    question="Where is the cyst?",
                    choices=("left kidney", "right kidney"),
                    answer="right kidney",
                    answer_choice="B",
                ),
            ]
            for n in range(num_cases)
        ]

        self.cases = [
            Case(id=f"case {n}", volume=str(n), conversations=tuple(asked)) for n, asked in enumerate(self.asked)
        ]

    def grid(self, case: Case, spec):
        raise NotImplementedError

    def stamp(self, case: Case) -> str:
        return self.fingerprint(case)

    def content(self, case: Case) -> str:
        return self.fingerprint(case)

    def voxels(self, case: Case):
        self.num_read += 1
        return self.volumes[int(case.volume)]

    def true_slices(self, case: Case, conversation):
        import numpy as np

        number = int(case.volume)
        shown = np.zeros(len(self.volumes[number]), dtype=bool)
        if conversation.topic == "location":
            shown[number % 3 : number % 3 + 2] = True
        return shown

    def plane(self, case: Case) -> str:
        return "axial"

    def fingerprint(self, case: Case) -> str:
        number = int(case.volume)
        return f"{number:02d}-{self.volumes[number].sum():.6f}"


@pytest.fixture
def memory_data() -> type[MemoryData]:
    """The class, so that a test chooses how many cases there are."""
    return MemoryData
