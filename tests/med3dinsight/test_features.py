"""Frozen 2D models: any CLIP-like one or two encoders of their own, pooled as each is meant to be."""

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)

from slicesight.errors import InputError, ModelError
from slicesight.models.med3dinsight.teachers import (
    CoarsePixels,
    HashedWords,
    ImageEncoder,
    TextEncoder,
    open_image_encoder,
    open_text_encoder,
)

TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
PICTURES = np.random.default_rng(0).integers(0, 256, (3, 40, 40), dtype=np.uint8)
TEXTS = ["a slice of the liver", "a slice", "the spleen lies on the left of the patient"]


def word_tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = sorted({word for text in TEXTS for word in text.split()})
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<unk>", "<eos>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>", model_max_length=16
    )


def save(folder, model, *, processor=None):
    model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    if processor:
        processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    torch.manual_seed(0)
    text = {**TINY, "vocab_size": 40, "max_position_embeddings": 16, "eos_token_id": 2, "pad_token_id": 0}
    vision = {**TINY, "image_size": 32, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    shown = CLIPImageProcessor(size={"shortest_edge": 32}, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4])
    return save(tmp_path_factory.mktemp("clip"), CLIPModel(config), processor=shown)


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    torch.manual_seed(1)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=42, patch_size=14)
    folder = tmp_path_factory.mktemp("dino")
    Dinov2Model(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    torch.manual_seed(2)
    config = BertConfig(**TINY, vocab_size=40, max_position_embeddings=16)
    return save(tmp_path_factory.mktemp("bert"), BertModel(config))


def test_a_clip_like_model_gives_image_and_text_features_of_one_width(clip) -> None:
    image, text = open_image_encoder(clip), open_text_encoder(None, image_encoder=clip)
    seen, read = image.encode(PICTURES), text.encode(TEXTS)
    assert seen.shape == read.shape == (3, 12)
    model = AutoModel.from_pretrained(clip).eval()
    grey = torch.from_numpy(PICTURES)[:, None].float() / 255
    small = torch.nn.functional.interpolate(grey, size=(32, 32), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]))
    with torch.no_grad():
        wanted = model.get_image_features(pixel_values=(small.expand(-1, 3, -1, -1) - mean) / std)
        inputs = word_tokenizer()(TEXTS, padding=True, return_tensors="pt")
        said = model.get_text_features(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    assert np.allclose(seen, getattr(wanted, "pooler_output", wanted), atol=1e-5)
    assert np.allclose(read, getattr(said, "pooler_output", said), atol=1e-5)


def test_another_picture_size_is_interpolated(clip) -> None:
    encoder = ImageEncoder(clip, side=48)
    assert encoder.encode(PICTURES).shape == (3, 12)


def test_siglip_gives_vectors_too(tmp_path) -> None:
    torch.manual_seed(3)
    text = {**TINY, "vocab_size": 40, "max_position_embeddings": 16}
    config = SiglipConfig(text_config=text, vision_config={**TINY, "image_size": 32, "patch_size": 8})
    name = save(tmp_path, SiglipModel(config))
    assert open_image_encoder(name).encode(PICTURES).shape == (3, 16)
    alone, among = (TextEncoder(name).encode(texts) for texts in (TEXTS[:1], TEXTS))
    assert np.allclose(alone[0], among[0], atol=1e-5)


def test_separate_encoders_pool_by_class_token_and_by_the_mean_of_the_words(dino, bert) -> None:
    seen = open_image_encoder(dino, side=28).encode(PICTURES)
    assert seen.shape == (3, 16)
    encoder = open_text_encoder(bert, image_encoder=dino)
    together = encoder.encode(TEXTS)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    assert np.allclose(together, alone, atol=1e-5)  # padding does not count
    model = AutoModel.from_pretrained(bert).eval()
    with torch.no_grad():
        states = model(**word_tokenizer()(TEXTS[:1], return_tensors="pt")).last_hidden_state
    assert np.allclose(together[0], states[0].mean(0), atol=1e-5)


def test_stand_ins_tell_pictures_and_texts_apart() -> None:
    image, text = open_image_encoder("pixels"), open_text_encoder("words", image_encoder="pixels")
    assert isinstance(image, CoarsePixels)
    assert isinstance(text, HashedWords)
    assert np.abs(image.encode(PICTURES).mean(axis=1)).max() < 1e-6
    vectors = text.encode([*TEXTS, TEXTS[0].upper()])
    assert np.array_equal(vectors[0], vectors[3])
    assert vectors[1].sum() == 2
    assert not np.array_equal(vectors[0], vectors[1])


def test_what_cannot_be_loaded_is_one_line(dino, tmp_path) -> None:
    with pytest.raises(ModelError, match=r"encoder .*nowhere: cannot be loaded") as error:
        open_image_encoder(str(tmp_path / "nowhere"))
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="has no text side; set text_encoder"):
        open_text_encoder(None, image_encoder=dino)
    with pytest.raises(InputError, match="has no text side"):
        open_text_encoder(None, image_encoder="pixels")
    with pytest.raises(ModelError, match="has no tokenizer"):
        TextEncoder(dino)
