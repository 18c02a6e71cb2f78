import pytest
import torch
from torch.nn import functional
from transformers import AutoConfig, AutoModel

from slicesight.errors import ModelError
from slicesight.models.encoders3d.configuration import CNN3DConfig, CoarseCNN3DConfig, M3DViTConfig
from slicesight.models.encoders3d.networks import Vision3D, cut_patches, pool_grid
from slicesight.models.med2e3.vision2d import Vision2D


def test_patch_vectors_run_over_depth_row_column_channel_and_patches_depth_first():
    volume = torch.randn(1, 2, 4, 6, 6)
    patches = cut_patches(volume, (2, 3, 2))
    count = 0
    for d in range(2):
        for r in range(2):
            for c in range(3):
                vector = [
                    volume[0, channel, 2 * d + i, 3 * r + j, 2 * c + k]
                    for i in range(2)
                    for j in range(3)
                    for k in range(2)
                    for channel in range(2)
                ]
                assert torch.equal(patches[0, count], torch.stack(vector))
                count += 1
    assert patches.shape[1] == count


def make_vit(**overrides):
    torch.manual_seed(0)
    settings = {"image_size": (4, 16, 16), "patch_size": (2, 8, 8), "pool_size": (1, 2, 2), "hidden_size": 12}
    config = M3DViTConfig(
        **{**settings, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 24, **overrides}
    )
    return Vision3D(config).eval()


def test_vit_equals_attention_written_out():
    vision = make_vit(initializer_range=0.3, final_norm=True)
    vit, volume = vision.encoder, torch.rand(1, 1, 4, 16, 16)
    tokens = cut_patches(volume, (2, 8, 8)) @ vit.patch_embedding.weight.T + vit.patch_embedding.bias
    tokens = torch.cat([vit.cls_token, tokens + vit.position_embedding], dim=1)[0]
    for block in vit.blocks:
        inner = functional.layer_norm(tokens, (12,), block.norm1.weight, block.norm1.bias)
        heads = []
        for head in range(3):
            query, key, value = (
                inner @ block.qkv.weight[part * 12 + head * 4 : part * 12 + head * 4 + 4].T for part in range(3)
            )
            heads.append(torch.softmax(query @ key.T / 4**0.5, dim=-1) @ value)
        tokens = tokens + block.out_proj(torch.cat(heads, dim=-1))
        tokens = tokens + block.linear2(functional.gelu(block.linear1(block.norm2(tokens))))
    expected = vit.norm(tokens)[1:].reshape(2, 4, 12).mean(dim=1, keepdim=True)
    torch.testing.assert_close(vision(volume)[0], expected, rtol=1e-4, atol=1e-5)


def test_pooling_averages_blocks_and_runs_in_bfloat16():
    features = torch.randn(2, 4, 6, 6, 3)
    expected = functional.avg_pool3d(features.permute(0, 4, 1, 2, 3), (2, 3, 3)).permute(0, 2, 3, 4, 1)
    torch.testing.assert_close(pool_grid(features, (2, 3, 3)), expected)
    assert pool_grid(features.bfloat16(), (2, 3, 3)).dtype == torch.bfloat16


def test_the_papers_vit_gives_four_depth_bins_of_sixty_four_tokens():
    assert M3DViTConfig().pooled_grid == (4, 8, 8)


@pytest.mark.parametrize("size", [(8, 32, 32), (7, 30, 20)])
def test_cnn_gives_the_grid_its_configuration_promises(size):
    config = CNN3DConfig(image_size=size, widths=(4, 8), blocks=(1, 0), strides=((1, 4, 4), (2, 2, 2)), num_groups=2)
    vision = Vision3D(config)
    depth, rows, columns = config.pooled_grid
    assert vision(torch.rand(2, 1, *size)).shape == (2, depth, rows * columns, 8)


def test_a_coarse_cnn_reads_the_mean_of_every_block_and_nothing_else():
    config = CoarseCNN3DConfig(
        image_size=(8, 32, 32), input_pool=(1, 2, 2), widths=(4, 8), blocks=(1, 0), strides=((1, 2, 2), (2, 2, 2)),
        num_groups=2,
    )  # fmt: skip
    vision = Vision3D(config)
    assert config.token_grid == (4, 4, 4)
    volume = torch.rand(1, 1, 8, 32, 32)
    checks = 0.2 * (1 - 2 * ((torch.arange(32)[:, None] + torch.arange(32)) % 2))
    assert vision(volume).shape == (1, 4, 16, 8)
    torch.testing.assert_close(vision(volume + checks), vision(volume), rtol=1e-4, atol=1e-5)
    assert (vision(volume + 0.2 * (torch.arange(32) % 4 < 2)) - vision(volume)).abs().max() > 1e-3
    with pytest.raises(ModelError, match="33 rows of image_size"):
        _ = CoarseCNN3DConfig(image_size=(8, 33, 32)).token_grid


def test_depth_bins_follow_the_slices():
    vision = make_vit(num_hidden_layers=0, use_cls_token=False)
    volume = torch.zeros(1, 1, 4, 16, 16)
    blank = vision(volume)
    volume[:, :, 2:] = 1
    changed = (vision(volume) - blank).abs().amax(dim=(0, 2, 3))
    assert changed[0] == 0
    assert changed[1] > 0


def test_a_cnn_with_lists_of_unequal_length_is_refused():
    with pytest.raises(ModelError, match="2 widths, 3 blocks, 3 strides"):
        CNN3DConfig(widths=(4, 8))


def test_gradient_checkpointing_changes_no_gradient_of_the_3d_encoders():
    for config in (
        make_vit().config,
        CNN3DConfig(image_size=(4, 16, 16), widths=(4,), blocks=(1,), strides=((1, 2, 2),), num_groups=2),
    ):
        gradients = []
        for checkpointed in (False, True):
            torch.manual_seed(0)
            vision = Vision3D(config).train()
            if checkpointed:
                vision.encoder.activation_checkpointing_enable()
            vision(torch.ones(1, 1, 4, 16, 16)).square().sum().backward()
            gradients.append([p.grad for p in vision.parameters()])
        for plain, again in zip(*gradients, strict=True):
            torch.testing.assert_close(plain, again)


TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
ENCODERS = {
    "siglip_vision_model": {**TINY, "image_size": 32, "patch_size": 8},
    "clip_vision_model": {**TINY, "image_size": 32, "patch_size": 8},
    "dinov2": {**TINY, "image_size": 56, "patch_size": 8},
    "dinov2_with_registers": {**TINY, "image_size": 32, "patch_size": 8},
    "vit": {**TINY, "image_size": 32, "patch_size": 8},
    "siglip2_vision_model": {**TINY, "num_patches": 16, "patch_size": 8},
    "resnet": {
        "embedding_size": 8,
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
        "layer_type": "basic",
        "num_channels": 1,
    },
    "convnext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
}


@pytest.mark.parametrize("model_type", ENCODERS)
def test_2d_encoders_give_a_grid_of_tokens_without_class_or_register_tokens(model_type):
    torch.manual_seed(0)
    encoder = Vision2D(AutoConfig.for_model(model_type, **ENCODERS[model_type])).eval()
    slices = torch.rand(3, 1, 32, 32)
    tokens = encoder(slices)
    side = int(tokens.shape[1] ** 0.5)
    assert tokens.shape == (3, side * side, 16)
    assert side == 4
    inputs = encoder.arrange_pixels(slices.expand(-1, encoder.num_channels, -1, -1))
    features = encoder.encoder(**inputs).last_hidden_state
    expected = features.flatten(2).transpose(1, 2) if features.ndim == 4 else features[:, -16:]
    torch.testing.assert_close(tokens, expected)


def test_before_the_final_norm_is_the_last_blocks_output():
    torch.manual_seed(0)
    config = AutoConfig.for_model("siglip_vision_model", **ENCODERS["siglip_vision_model"])
    encoder = Vision2D(config, feature="before_final_norm").eval()
    slices = torch.rand(2, 1, 32, 32)
    normed = encoder.encoder(pixel_values=slices.expand(-1, 3, -1, -1)).last_hidden_state
    torch.testing.assert_close(encoder.encoder.post_layernorm(encoder(slices)), normed)
    assert (encoder(slices) - normed).abs().max() > 1e-3


def test_slices_are_shown_raw_unless_a_mean_and_spread_are_given():
    config = AutoConfig.for_model("siglip_vision_model", **ENCODERS["siglip_vision_model"])
    slices = torch.rand(2, 1, 8, 8)
    assert torch.equal(Vision2D(config).show(slices), slices.expand(-1, 3, -1, -1))
    shown = Vision2D(config, mean=[0.1, 0.2, 0.3], std=0.5).show(slices)
    torch.testing.assert_close(shown[:, 2:], (slices - 0.3) / 0.5)


def test_pooled_slice_tokens_are_means_of_neighbouring_squares():
    torch.manual_seed(0)
    config = AutoConfig.for_model("resnet", **ENCODERS["resnet"])
    plain, pooled = Vision2D(config).eval(), Vision2D(config, pool=2).eval()
    pooled.load_state_dict(plain.state_dict())
    slices = torch.rand(2, 1, 32, 32)
    grid = plain(slices).unflatten(1, (4, 4))
    expected = torch.stack(
        [grid[:, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean((1, 2)) for r in range(2) for c in range(2)], 1
    )
    torch.testing.assert_close(pooled(slices), expected)


def test_3d_encoders_are_known_to_the_auto_classes():
    for name in ("cnn3d", "coarse_cnn3d"):
        assert AutoModel.from_config(AutoConfig.for_model(name)).config.model_type == name


MONAI_ENCODERS = {
    "monai_vit": {
        "patch_size": (2, 8, 8),
        "hidden_size": 12,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 24,
    },
    "swin_unetr": {
        "feature_size": 6,
        "num_heads": (1, 2, 2, 2),
        "depths": (1, 1, 1, 1),
        "window_size": 2,
        "output_stage": 1,
    },
}


@pytest.mark.parametrize("model_type", MONAI_ENCODERS)
def test_monai_encoders_give_their_grid_and_survive_saving(model_type, tmp_path):
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, image_size=(8, 32, 32), **MONAI_ENCODERS[model_type])
    vision = Vision3D(config).eval()
    volume = torch.rand(2, 1, 8, 32, 32)
    depth, rows, columns = config.pooled_grid
    found = vision(volume)
    assert found.shape == (2, depth, rows * columns, config.hidden_size)
    assert float(found.detach().std()) > 0.01
    vision.encoder.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(pool_grid(again(volume), config.pool_size).flatten(2, 3), found)


def test_monai_and_own_vit_agree_on_the_same_weights():
    torch.manual_seed(0)
    monai = AutoModel.from_config(
        AutoConfig.for_model(
            "monai_vit", image_size=(4, 16, 16), **{**MONAI_ENCODERS["monai_vit"], "num_hidden_layers": 2}
        )
    ).eval()
    own = make_vit(num_attention_heads=2, use_cls_token=False, final_norm=True).encoder
    renamed = {}
    for name, tensor in monai.vit.state_dict().items():
        for old, new in (
            ("patch_embedding.position_embeddings", "position_embedding"),
            ("patch_embedding.patch_embeddings.1", "patch_embedding"),
            (".attn.", "."),
            (".mlp.", "."),
        ):
            name = name.replace(old, new)
        if "norm_cross" not in name:  # MONAI keeps a norm it does not use
            renamed[name] = tensor
    own.load_state_dict(renamed)
    volume = torch.rand(1, 1, 4, 16, 16)
    torch.testing.assert_close(own(volume), monai(volume), rtol=1e-4, atol=1e-5)


def test_a_swin_stage_that_does_not_divide_the_volume_is_refused():
    config = AutoConfig.for_model("swin_unetr", image_size=(8, 32, 32), output_stage=3)
    with pytest.raises(ModelError, match=r"8 slices .* do not divide by 16"):
        _ = config.token_grid
