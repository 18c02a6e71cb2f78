"""Which of transformers' own common tests does the model pass?

    python benchmarks/library_tests.py TESTS [--json OUT] [pytest's own options, such as -k beam]

TESTS is the `tests` folder of transformers at the installed version: the source distribution (`pip download --no-binary
:all: transformers==...`) has test_modeling_common.py and its neighbours, the public repository tests/generation too.
Nothing of it is part of this project: this file only says which model is tested, and with which inputs. Needs
`parameterized`. Prints a line for each test and the numbers; docs/how-to/hugging-face.md lists what does not pass.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import types
import unittest
from pathlib import Path
from typing import Any

import pytest
import torch

VARIABLE = "SLICESIGHT_LIBRARY_TESTS"
BATCH, SLICES, SIDE = 3, 4, 16


class Med2E3ModelTester:
    """What the library's common tests ask about a model: a small configuration and inputs for it."""

    batch_size = BATCH
    num_hidden_layers = 2
    num_attention_heads = 4
    hidden_size = 32
    vocab_size = 99
    is_training = True

    def __init__(self, parent: unittest.TestCase) -> None:
        self.parent = parent
        self.text_config = self.get_config().text_config
        self.vision_config = self.get_config().vision2d_config
        self.seq_length = self.num_places + 8
        self.encoder_seq_length = self.seq_length
        self.image_size, self.patch_size = SIDE, 8

    @property
    def num_places(self) -> int:
        from slicesight.models.med2e3.matching import count_visual_tokens

        return count_visual_tokens(self.get_config())

    def get_config(self) -> Any:
        from slicesight.models.med2e3 import Med2E3Config

        encoder = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        return Med2E3Config(
            text_config={
                "model_type": "llama",
                "hidden_size": 32,
                "intermediate_size": 37,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "vocab_size": 99,
                "max_position_embeddings": 512,
                "pad_token_id": 1,
                "bos_token_id": 0,
                "eos_token_id": 2,
            },
            vision3d_config={"model_type": "m3d_vit", "patch_size": [2, 8, 8], **encoder},
            vision2d_config={
                "model_type": "siglip_vision_model",
                "image_size": SIDE,
                "patch_size": 8,
                "vision_use_head": False,
                **encoder,
            },
            image_size=[SLICES, SIDE, SIDE],
            placeholder_token_id=3,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, torch.Tensor]]:
        torch.manual_seed(0)
        config = self.get_config()
        input_ids = torch.randint(4, 99, (BATCH, self.seq_length))
        input_ids[:, : self.num_places] = config.placeholder_token_id
        question_mask = torch.zeros_like(input_ids, dtype=torch.bool)
        question_mask[:, -6:] = True
        return config, {
            "volumes": torch.rand(BATCH, 1, SLICES, SIDE, SIDE),
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            "question_mask": question_mask,
            "volume_index": torch.arange(BATCH)[:, None],
        }


def make_test_class(folder: Path) -> type[unittest.TestCase]:
    """The library's common model and generation tests of this project's model."""
    sys.path.insert(0, str(folder.parent))
    if not (folder / "exporters").is_dir():  # of the source distribution; its tests then are not run
        stub = types.ModuleType("tests.exporters.test_export")
        stub.ExportTesterMixin = type("ExportTesterMixin", (), {})  # type: ignore[attr-defined]
        sys.modules |= {"tests.exporters": types.ModuleType("tests.exporters"), stub.__name__: stub}
    from tests.generation.test_utils import GenerationTesterMixin
    from tests.test_modeling_common import ModelTesterMixin

    from slicesight.models.med2e3 import Med2E3Config, Med2E3ForConditionalGeneration

    class Med2E3LibraryTest(ModelTesterMixin, GenerationTesterMixin, unittest.TestCase):  # type: ignore[misc]
        all_model_classes = (Med2E3ForConditionalGeneration,)
        config_class = Med2E3Config
        _is_composite = True

        skip_test_image_features_output_shape = True  # it asks for pixel_values

        def setUp(self) -> None:
            self.model_tester = Med2E3ModelTester(self)

        def _image_features_prepare_config_and_inputs(self) -> tuple[Any, dict[str, torch.Tensor]]:
            config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
            return config, {"volumes": inputs["volumes"]}

    return Med2E3LibraryTest


if VARIABLE in os.environ:
    TestLibrary = make_test_class(Path(os.environ[VARIABLE]))


class Results:
    """What became of each test, and why."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[str, str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        reason = ""
        if report.outcome == "skipped":
            reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
        elif report.outcome == "failed":
            reason = report.longreprtext.strip().splitlines()[-1]
            lines = [line[2:] for line in report.longreprtext.splitlines() if line.startswith("E ")]
            reason = f"{lines[0].strip() if lines else ''} ({reason})"
        name = report.nodeid.rsplit("::", 1)[-1]
        if self.found.get(name, ("",))[0] != "failed":  # a test may have parts
            self.found[name] = (report.outcome, reason)
        print(f"{report.outcome:8}{name}  {report.duration:.1f} s  {reason[:300]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", type=Path)
    parser.add_argument("--json", type=Path)
    options, rest = parser.parse_known_args()
    os.environ[VARIABLE] = str(options.tests.resolve())
    results = Results()
    pytest.main(
        ["-q", "-s", "-p", "no:cacheprovider", "--tb=short", "-c", os.devnull, *rest, __file__], plugins=[results]
    )
    outcomes = [outcome for outcome, _ in results.found.values()]
    print(", ".join(f"{outcomes.count(one)} {one}" for one in ("passed", "failed", "skipped")))
    if options.json:
        options.json.write_text(json.dumps(results.found, indent=1, sort_keys=True))


if __name__ == "__main__":
    main()
