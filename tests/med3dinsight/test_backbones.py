"""Does every backbone encode, decode, pass its weights on, and equal the network it wraps?"""

import importlib
import json

import pytest
import torch
from torch import nn

from slicesight.errors import ModelError
from slicesight.models.checksums import SUMS_FILE
from slicesight.models.encoders3d.backbone import BACKBONES, BackboneSpec
from slicesight.models.encoders3d.backbones import backbone_from, build_backbone, load_backbone, save_backbone
from slicesight.models.importers.insight import put_into_med2e3
from slicesight.models.med2e3.configuration import Med2E3Config
from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration

SWIN = {"feature_size": 12, "depths": [1, 1, 1, 1], "num_heads": [2, 2, 2, 2], "window_size": 2}
VIT = {
    "patch_size": [2, 8, 8],
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "feature_size": 4,
}
TINY = {
    "swin_unetr": {"image_size": (64, 32, 32), **SWIN},
    "unetr": {"image_size": (32, 16, 16), "hidden_size": 12, "mlp_dim": 24, "num_heads": 2, "feature_size": 4},
    "segresnet": {"image_size": (16, 16, 16), "init_filters": 8, "blocks_down": [1, 1, 1], "blocks_up": [1, 1]},
    "dynunet": {"image_size": (16, 16, 16), "strides": [1, [1, 2, 2], 2], "filters": [4, 6, 8]},
    "m3d_vit": {"image_size": (8, 32, 32), **VIT},
    "cnn3d": {
        "image_size": (8, 16, 16),
        "widths": [4, 8],
        "blocks": [0, 1],
        "strides": [[1, 2, 2], [2, 2, 2]],
        "num_groups": 2,
        "feature_size": 4,
    },
}


@pytest.fixture(params=BACKBONES)
def backbone(request):
    torch.manual_seed(0)
    return build_backbone(request.param, **TINY[request.param])


def some_volumes(backbone, *, count=2):
    generator = torch.Generator().manual_seed(3)
    return torch.rand(count, backbone.spec.in_channels, *backbone.spec.image_size, generator=generator)


def test_memory_and_dense_features_have_the_sizes_they_announce(backbone):
    volumes = some_volumes(backbone)
    features = backbone.encode(volumes)
    assert features.memory.shape == (2, backbone.memory_width, *backbone.memory_grid)
    assert features.memory_BMC.shape == (2, backbone.num_memory_tokens, backbone.memory_width)
    second = features.memory[1, :, 0, 0, 1 % backbone.memory_grid[2]]
    assert torch.equal(features.memory_BMC[1, 1 % backbone.memory_grid[2]], second)
    assert backbone.decode(features).shape == (2, backbone.dense_width, *backbone.spec.image_size)
    assert backbone.make_head(3)(backbone(volumes)).shape == (2, 3, *backbone.spec.image_size)


def test_every_weight_gets_a_gradient_from_memory_and_dense_features_together(backbone):
    features = backbone.encode(some_volumes(backbone))
    dense = backbone.decode(features)
    weights = torch.rand(dense.shape, generator=torch.Generator().manual_seed(1))
    ((dense * weights).sum() + features.memory.square().sum()).backward()
    blind = [name for name, weight in backbone.named_parameters() if weight.grad is None]
    assert not [name for name in blind if "norm_cross_attn" not in name]  # MONAI builds it and does not call it


def test_a_saved_backbone_comes_back_the_same_and_twice_as_often_as_one_likes(backbone, tmp_path):
    save_backbone(backbone, tmp_path, about={"trained_with": "nothing"})
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["trained_with"] == "nothing"
    assert config["backbone"]["name"] == backbone.spec.name
    again = load_backbone(tmp_path)
    volumes = some_volumes(backbone)
    assert torch.equal(again.eval()(volumes), backbone.eval()(volumes))
    save_backbone(again, tmp_path)
    assert load_backbone(tmp_path).spec == backbone.spec


def test_a_segmenters_folder_gives_its_backbone(tmp_path):
    from slicesight.models.folder import write_model_folder

    backbone = build_backbone("segresnet", **TINY["segresnet"])
    both = nn.ModuleDict({"backbone": backbone, "head": backbone.make_head(2)})
    write_model_folder(tmp_path, kind="segmenter", facts={"backbone": backbone.spec.to_dict()}, model=both)
    volumes = some_volumes(backbone)
    assert torch.equal(load_backbone(tmp_path)(volumes), backbone(volumes))


@pytest.mark.parametrize(
    ("name", "module", "kind", "arguments"),
    [
        ("swin_unetr", "swin_unetr", "SwinUNETR", SWIN),
        (
            "unetr",
            "unetr",
            "UNETR",
            {"img_size": (32, 16, 16), "hidden_size": 12, "mlp_dim": 24, "num_heads": 2, "feature_size": 4},
        ),
        ("segresnet", "segresnet", "SegResNet", {"init_filters": 8, "blocks_down": (1, 1, 1), "blocks_up": (1, 1)}),
        (
            "dynunet",
            "dynunet",
            "DynUNet",
            {
                "spatial_dims": 3,
                "kernel_size": [3, 3, 3],
                "strides": [1, (1, 2, 2), 2],
                "upsample_kernel_size": [(1, 2, 2), 2],
                "filters": [4, 6, 8],
            },
        ),
    ],
)
def test_with_the_last_layer_put_back_it_is_monais_own_forward(name, module, kind, arguments):
    torch.manual_seed(1)
    theirs = getattr(importlib.import_module(f"monai.networks.nets.{module}"), kind)(
        in_channels=1, out_channels=3, **arguments
    )
    ours = build_backbone(name, **TINY[name])
    ours.net.load_state_dict({n: w for n, w in theirs.state_dict().items() if n in ours.net.state_dict()})
    last = {"segresnet": lambda net: net.conv_final[-1], "dynunet": lambda net: net.output_block}
    head = last.get(name, lambda net: net.out)(theirs)
    volumes = some_volumes(ours)
    with torch.no_grad():
        assert torch.allclose(head(ours.eval()(volumes)), theirs.eval()(volumes), atol=1e-5)


def test_the_vits_memory_is_what_the_encoder_itself_gives():
    for settings in ({}, {"final_norm": True, "use_cls_token": False}):
        ours = build_backbone("m3d_vit", **TINY["m3d_vit"], **settings).eval()
        volumes = some_volumes(ours)
        assert torch.allclose(ours.encode(volumes).memory, ours.encoder(volumes).permute(0, 4, 1, 2, 3), atol=1e-6)


def test_the_cnns_memory_is_what_the_encoder_itself_gives():
    ours = build_backbone("cnn3d", **TINY["cnn3d"]).eval()
    volumes = some_volumes(ours)
    assert torch.equal(ours.encode(volumes).memory, ours.encoder(volumes).permute(0, 4, 1, 2, 3))


def language_and_slices(size):
    return {
        "text_config": {
            "model_type": "llama",
            "vocab_size": 64,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "bos_token_id": None,
        },
        "vision2d_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": size[1],
            "patch_size": 8,
            "vision_use_head": False,
        },
        "image_size": list(size),
        "placeholder_token_id": 2,
    }


def an_answer(model, size):
    """Logits of a prompt whose placeholders stand for one random volume."""
    num_visual = model.num_visual_tokens
    ids = torch.tensor([[5, *([2] * num_visual), 6, 7]])
    mask = torch.zeros_like(ids, dtype=torch.bool)
    mask[0, -2:] = True
    volumes = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(4))
    return model(input_ids=ids, volumes=volumes, question_mask=mask).logits


@pytest.mark.parametrize("name", ["m3d_vit", "cnn3d", "swin_unetr"])
def test_med2e3_answers_with_a_pretrained_backbone_as_its_3d_encoder(name, tmp_path):
    torch.manual_seed(2)
    save_backbone(build_backbone(name, **TINY[name]), tmp_path)
    backbone = load_backbone(tmp_path)
    size = backbone.spec.image_size
    vision3d = backbone.vision3d().config.to_dict() | {"pool_size": [1, 1, 1]}
    model = Med2E3ForConditionalGeneration(Med2E3Config(vision3d_config=vision3d, **language_and_slices(size))).eval()
    with torch.no_grad():
        before = an_answer(model, size)
        put_into_med2e3(model, backbone)
        after = an_answer(model, size)
        volumes = some_volumes(backbone)
        features = model.vision3d.encoder(volumes).permute(0, 4, 1, 2, 3)
        assert torch.allclose(features, backbone.eval().encode(volumes).memory, atol=1e-5)
    assert torch.isfinite(after).all()
    assert not torch.equal(before, after)
    model.save_pretrained(tmp_path / "med2e3")
    again = Med2E3ForConditionalGeneration.from_pretrained(tmp_path / "med2e3").eval()
    with torch.no_grad():
        assert torch.allclose(an_answer(again, size), after, atol=1e-5)


def test_a_med2e3_of_another_encoder_is_refused():
    model = Med2E3ForConditionalGeneration(
        Med2E3Config(vision3d_config={"model_type": "cnn3d"}, **language_and_slices((8, 32, 32)))
    )
    with pytest.raises(ModelError, match=r"cnn3d.*differs from the pre-trained m3d_vit"):
        put_into_med2e3(model, build_backbone("m3d_vit", **TINY["m3d_vit"]))
    with pytest.raises(ModelError, match="no counterpart among Med-2E3's 3D encoders"):
        put_into_med2e3(model, build_backbone("segresnet", **TINY["segresnet"]))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "segresnt"}, "did you mean 'segresnet'"),
        ({"name": "segresnet", "image_size": (16, 16)}, "three positive sizes"),
        ({"name": "segresnet", "image_size": (20, 16, 16)}, "20 slices .* do not divide by 8"),
        ({"name": "segresnet", "settings": {"init_filter": 8}}, "did you mean 'init_filters'"),
        ({"name": "segresnet", "settings": {"init_filters": 3}}, "backbone segresnet: .*change its settings"),
        ({"name": "swin_unetr", "settings": {"feature_size": 10}}, "divisible by 12"),
        ({"name": "m3d_vit", "settings": {"patch_sizes": 8}}, "did you mean 'patch_size'"),
        ({"name": "m3d_vit", "settings": {"patch_size": [3, 8, 8]}, "image_size": (9, 16, 16)}, "powers of two"),
        ({"name": "dynunet", "settings": {"strides": [2, 2, 2]}}, "expected 1, for dense features"),
        ({"name": "dynunet", "settings": {"strides": [1, 0, 2]}}, "a whole number or three"),
    ],
)
def test_wrong_specs_are_one_line_that_says_what_to_change(settings, words):
    with pytest.raises(ModelError, match=words) as caught:
        backbone_from(BackboneSpec(**settings))
    assert "\n" not in str(caught.value)


def test_volumes_of_another_size_are_refused():
    backbone = build_backbone("segresnet", **TINY["segresnet"])
    with pytest.raises(ModelError, match=r"this segresnet reads \(1, 16, 16, 16\)"):
        backbone(torch.rand(1, 1, 16, 16, 32))


def test_a_folder_that_is_not_whole_is_refused_in_one_line(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_backbone(tmp_path)
    backbone = build_backbone("segresnet", **TINY["segresnet"])
    save_backbone(backbone, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["backbone"]["settings"]["init_filters"] = 16
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="does not fit its config"):
        load_backbone(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="its bytes are not those that were saved"):
        load_backbone(tmp_path)
    (tmp_path / SUMS_FILE).unlink()
    with pytest.raises(ModelError, match="damaged"):
        load_backbone(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "med2e3"}')
    with pytest.raises(ModelError, match="not of this family"):
        load_backbone(tmp_path)
