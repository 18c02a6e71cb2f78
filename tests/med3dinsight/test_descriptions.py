"""Captions: any image-text-to-text model by folder, each answer on disk before it is used, nothing asked twice."""

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from slicesight.errors import ModelError
from slicesight.models.med3dinsight import descriptions
from slicesight.models.med3dinsight.descriptions import CaptionCache, Captioner, caption_all, caption_key

PICTURES = np.random.default_rng(0).integers(0, 256, (5, 32, 32), dtype=np.uint8)
PROMPTS = ["This is a slice. Describe it.", "What is it?", "Say more.", "And now?", "And this one, which is longer?"]
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
CHAT = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def byte_tokenizer(*special: str) -> PreTrainedTokenizerFast:
    tokens = ["<pad>", "<eos>", "<bos>", *special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        additional_special_tokens=list(special),
    )


@pytest.fixture(scope="module")
def llava(tmp_path_factory) -> str:
    """A chat model: the prompt goes through its template, the answer follows the prompt."""
    torch.manual_seed(0)
    folder = str(tmp_path_factory.mktemp("llava"))
    tokenizer = byte_tokenizer("<image>")
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION, image_size=16, patch_size=8),
        text_config=LlamaConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            vocab_size=len(tokenizer),
            initializer_range=1.0,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=2,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    model = LlavaForConditionalGeneration(config)
    for part in (*model.model.vision_tower.parameters(), *model.model.multi_modal_projector.parameters()):
        if part.ndim > 1:
            torch.nn.init.normal_(part, std=0.7)  # so that the picture weighs as much as the words
    model.save_pretrained(folder)
    LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"height": 16, "width": 16}, crop_size={"height": 16, "width": 16}),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def blip(tmp_path_factory) -> str:
    """A captioner without a chat template."""
    torch.manual_seed(1)
    folder = str(tmp_path_factory.mktemp("blip"))
    text = {**VISION, "vocab_size": 300, "max_position_embeddings": 128, "encoder_hidden_size": 16}
    ids = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, "sep_token_id": 1}
    config = BlipConfig(text_config={**text, **ids}, vision_config={**VISION, "image_size": 16, "patch_size": 8})
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 16, "width": 16}), byte_tokenizer()).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["llava", "blip"])
def test_a_picture_is_described_the_same_alone_and_in_a_batch_and_the_prompt_is_not_repeated(kind, request) -> None:
    captioner = Captioner(request.getfixturevalue(kind), max_new_tokens=6)
    together = captioner.describe(PICTURES[:2], PROMPTS[:2])
    assert len(together) == 2
    assert not any("Describe" in text or "USER" in text or "describe" in text for text in together)
    if kind == "llava":
        assert together == [captioner.describe(PICTURES[[i]], [PROMPTS[i]])[0] for i in range(2)]


def test_the_picture_itself_decides_what_is_said(llava) -> None:
    captioner = Captioner(llava, max_new_tokens=12)
    black, white = np.zeros((1, 32, 32), np.uint8), np.full((1, 32, 32), 255, np.uint8)
    assert captioner.describe(black, PROMPTS[:1]) != captioner.describe(white, PROMPTS[:1])


def ask_all(folder, cache, *, pictures=PICTURES, prompts=PROMPTS, **changes):
    return caption_all(
        zip(pictures, prompts, strict=True),
        captioner=folder,
        cache=cache,
        total=len(pictures),
        **{"max_new_tokens": 4, "batch_size": 2, **changes},
    )


def test_a_stopped_run_asks_only_what_is_missing(llava, tmp_path, monkeypatch) -> None:
    place = tmp_path / "captions.jsonl"
    asked = []

    class Stopping(Captioner):
        def describe(self, pictures, prompts):
            if len(asked) == 2:
                raise KeyboardInterrupt
            asked.append(len(pictures))
            return super().describe(pictures, prompts)

    monkeypatch.setattr(descriptions, "Captioner", Stopping)
    with pytest.raises(KeyboardInterrupt):
        ask_all(llava, CaptionCache(place))
    assert len(place.read_text().splitlines()) == 4
    with place.open("a") as file:
        file.write('{"key": "cut sho')  # the crash came while a line was written
    asked.clear()
    found = ask_all(llava, CaptionCache(place))
    assert asked == [1]
    monkeypatch.undo()
    assert found == ask_all(llava, CaptionCache(tmp_path / "fresh.jsonl"))
    lines = [json.loads(line) for line in place.read_text().splitlines()]
    assert [line["text"] for line in lines] == found
    assert all(line["captioner"] == llava and line["prompt"] in PROMPTS for line in lines)


def test_a_full_cache_needs_no_model(llava, tmp_path) -> None:
    cache = CaptionCache(tmp_path / "captions.jsonl")
    for picture, prompt in zip(PICTURES, PROMPTS, strict=True):
        key = caption_key(picture, prompt, captioner="nowhere", max_new_tokens=4)
        cache.add(key, captioner="nowhere", prompt=prompt, text=f"said of {prompt} a\u2028line")
    assert ask_all("nowhere", CaptionCache(cache.path)) == [f"said of {prompt} a\u2028line" for prompt in PROMPTS]


def test_a_caption_depends_on_picture_prompt_model_and_length() -> None:
    keys = {
        caption_key(picture, prompt, captioner=name, max_new_tokens=length)
        for picture in PICTURES[:2]
        for prompt in PROMPTS[:2]
        for name in ("a", "b")
        for length in (4, 5)
    }
    assert len(keys) == 16


def test_a_model_of_another_kind_is_one_line(tmp_path) -> None:
    with pytest.raises(ModelError, match=r"captioner .*cannot be loaded") as error:
        Captioner(str(tmp_path), max_new_tokens=4)
    assert "\n" not in str(error.value)
