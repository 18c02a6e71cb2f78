"""What tests of plug-ins need: for viewers a server that listens, and a scan that lies oblique in the patient; for vLLM
a model of the paper's parts, and one model in both engines."""

from __future__ import annotations

import json

import numpy as np
import pytest

from serving_address import listening


def rotated(degrees: float, axis: int) -> np.ndarray:
    """A rotation about x, y or z."""
    one, other = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(3)
    first, second = (at for at in range(3) if at != axis)
    matrix[first, first], matrix[first, second], matrix[second, first], matrix[second, second] = one, -other, other, one
    return matrix


@pytest.fixture(scope="session")
def oblique():
    """(voxels KJI in whole HU, RAS from IJK): tilted about two axes, three spacings, slices from feet to head."""
    rng = np.random.default_rng(3)
    voxels_KJI = rng.integers(-1010, -990, (14, 20, 18)).astype(np.int16)
    voxels_KJI[:, 3:-3, 3:-3] = rng.integers(-80, 120, (14, 14, 12))
    voxels_KJI[4:7, 5:9, 4:7] = 900
    matrix = np.eye(4)
    matrix[:3, :3] = rotated(17, 0) @ rotated(-12, 2) @ np.diag([-6.0, -7.5, 11.0])
    matrix[:3, 3] = 41.5, 33.25, -120.75
    return voxels_KJI, matrix


@pytest.fixture(scope="session")
def serve_options(tmp_path_factory):
    from slicesight.serving.options import ServeOptions

    return ServeOptions(model="tiny-random", folder=tmp_path_factory.mktemp("viewers") / "kept", port=0)


@pytest.fixture(scope="session")
def served(tiny_reader, serve_options):
    """A server that really listens on this machine -> (its address, what runs it)."""
    with listening(tiny_reader, serve_options) as found:
        yield found


@pytest.fixture(scope="session")
def phi3_folder(tmp_path_factory, tiny_reader):
    """A tiny random Med-2E3 with the paper's kinds of parts: Phi-3 with long positions, SigLIP, M3D's ViT.

    Its z_3D is as long as a block of keys and values, so that questions can share it.
    """
    import torch

    from slicesight.models.med2e3.configuration import Med2E3Config
    from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration
    from slicesight.models.med2e3.processing import Med2E3Processor

    torch.manual_seed(1)
    config = Med2E3Config(
        image_size=(8, 32, 32),
        text_config={
            "model_type": "phi3",
            "vocab_size": 320,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
            "original_max_position_embeddings": 512,
            "initializer_range": 0.3,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "bos_token_id": None,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "factor": 2.0,
                "original_max_position_embeddings": 512,
                "short_factor": [1.0] * 16,
                "long_factor": [1.5] * 16,
            },
        },
        vision2d_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
            "vision_use_head": False,
        },
        vision3d_config={
            "model_type": "m3d_vit",
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "patch_size": [4, 8, 8],
            "pool_size": [1, 1, 1],
        },
        score_scale=30.0,
        score_norm="l2",
    )
    processor = Med2E3Processor.for_model(
        config,
        tiny_reader.processor.tokenizer,
        grid={"num_slices": 8, "height": 32, "width": 32},
        template="short",
    )
    folder = tmp_path_factory.mktemp("models") / "tiny-phi3"
    Med2E3ForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "card.json").write_text(json.dumps({"name": "tiny-phi3", "trained_on": "synthetic"}))
    return folder


@pytest.fixture(scope="session")
def in_both_engines():
    """A model in the package's own engine and in vLLM, one after the other."""
    from two_engines import loaded

    return loaded
