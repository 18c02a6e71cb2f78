"""Vision-language models of several families as a user has them, in folders, but random and tiny; and a server.

A picture of 56×56 pixels takes 4 to 16 tokens. `FAMILIES` is {name: builder(folder)}.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from slicesight.volumes.grid import GridSpec, GridVolume, to_grid
from slicesight.volumes.volume import Volume

SIDE = 56
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 4096,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 14,
    "initializer_range": 0.3,
}


def bytes_tokenizer(*special: str, **named: str) -> PreTrainedTokenizerFast:
    """A token per byte, and one for each special word; named: attributes of the tokenizer that hold one."""
    words = ["<pad>", "<s>", "</s>", *special, *named.values(), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<pad>", "<s>", "</s>", *special, *named.values()])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", extra_special_tokens=named
    )


def write_guest(
    folder: Path, config: Any, tokenizer: Any, image_processor: Any, *, processor: str, image: str, **settings: Any
) -> None:
    """The files of a model's repository; image: what its chat template writes for a picture."""
    torch.manual_seed(7)
    kind = transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    folder.mkdir(parents=True, exist_ok=True)
    model = kind(config)
    for weight in model.parameters():
        if (
            weight.ndim > 1 and not weight.any()
        ):  # Gemma 3's projector begins at nought: nothing of a picture would show
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    described = {
        **image_processor.to_dict(),
        "image_processor_type": type(image_processor).__name__.removesuffix("Pil"),
    }
    text = json.dumps({"image_processor": described, "processor_class": processor, **settings}, default=str)
    (folder / "processor_config.json").write_text(text)
    (folder / "chat_template.jinja").write_text(TEMPLATE.replace("IMAGE", image))


def gemma3(folder: Path) -> None:
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = bytes_tokenizer(**named)
    config = transformers.Gemma3Config(
        text_config={**TEXT, "vocab_size": len(tokenizer), "sliding_window": 64},
        vision_config=VISION,
        mm_tokens_per_image=4,
        image_token_index=tokenizer.image_token_id,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        eos_token_id=2,
    )
    images = Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    write_guest(
        folder, config, tokenizer, images, processor="Gemma3Processor", image="<start_of_image>", image_seq_length=4
    )


def llava(folder: Path) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = bytes_tokenizer(image_token="<image>")
    config = transformers.LlavaConfig(
        text_config={"model_type": "llama", **TEXT, "vocab_size": len(tokenizer)},
        vision_config={"model_type": "clip_vision_model", **VISION, "projection_dim": 32},
        image_token_index=tokenizer.image_token_id,
        vision_feature_layer=-1,
        image_seq_length=16,
    )
    size = {"height": SIDE, "width": SIDE}
    images = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=size)
    settings = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    write_guest(folder, config, tokenizer, images, processor="LlavaProcessor", image="<image>", **settings)


def qwen3_vl(folder: Path) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer = bytes_tokenizer("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    number = tokenizer.convert_tokens_to_ids
    rope = {"rope_type": "default", "mrope_section": [4, 2, 2], "rope_theta": 10000.0, "mrope_interleaved": True}
    config = transformers.Qwen3VLConfig(
        text_config={**TEXT, "vocab_size": len(tokenizer), "rope_parameters": rope},
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": 14,
            "out_hidden_size": 32,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
            "initializer_range": 0.3,
        },
        image_token_id=number("<|image_pad|>"),
        video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"),
    )
    images = Qwen2VLImageProcessorPil(patch_size=14, size={"shortest_edge": 28 * 28, "longest_edge": SIDE * SIDE})
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    write_guest(folder, config, tokenizer, images, processor="Qwen3VLProcessor", image=picture)


def internvl(folder: Path) -> None:
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    tokenizer = bytes_tokenizer(
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>"
    )
    config = transformers.InternVLConfig(
        text_config={"model_type": "qwen2", **TEXT, "vocab_size": len(tokenizer)},
        vision_config={**VISION, "image_size": [SIDE, SIDE], "patch_size": [14, 14]},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    images = GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    picture = "<IMG_CONTEXT>"
    write_guest(folder, config, tokenizer, images, processor="InternVLProcessor", image=picture, image_seq_length=4)


def idefics3(folder: Path, family: str = "Idefics3") -> None:
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    tokenizer = bytes_tokenizer(
        "<row_1_col_1>",
        image_token="<image>",
        fake_image_token="<fake_token_around_image>",
        global_image_token="<global-img>",
        end_of_utterance_token="<end_of_utterance>",
    )
    config = getattr(transformers, f"{family}Config")(
        text_config={"model_type": "llama", **TEXT, "vocab_size": len(tokenizer)},
        vision_config=VISION,
        image_token_id=tokenizer.image_token_id,
        scale_factor=2,
    )
    kind = {"Idefics3": Idefics3ImageProcessorPil, "SmolVLM": SmolVLMImageProcessorPil}[family]
    images = kind(size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=False)
    write_guest(folder, config, tokenizer, images, processor=f"{family}Processor", image="<image>", image_seq_len=4)


def smolvlm(folder: Path) -> None:
    idefics3(folder, "SmolVLM")


def llava_onevision(folder: Path) -> None:
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

    tokenizer = bytes_tokenizer(image_token="<image>", video_token="<video>")
    config = transformers.LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **TEXT, "vocab_size": len(tokenizer)},
        vision_config={"model_type": "siglip_vision_model", **VISION, "vision_use_head": False},
        image_token_index=tokenizer.image_token_id,
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=[[SIDE, SIDE]],
        vision_feature_layer=-1,
    )
    images = LlavaOnevisionImageProcessorPil(size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=[[SIDE, SIDE]])
    settings = {"num_image_tokens": 16, "vision_feature_select_strategy": "full"}
    write_guest(folder, config, tokenizer, images, processor="LlavaOnevisionProcessor", image="<image>", **settings)


FAMILIES: dict[str, Callable[[Path], None]] = {
    "gemma3": gemma3,
    "llava": llava,
    "qwen3_vl": qwen3_vl,
    "internvl": internvl,
    "idefics3": idefics3,
    "llava_onevision": llava_onevision,
    **({"smolvlm": smolvlm} if find_spec("num2words") else {}),
}
PRESET = "name: small\nslices: 6\nsize: 56\nwindow: soft_tissue|-160,240\n"
SHEET = "name: small-sheet\nslices: 6\nsize: 56\nlayout: sheet\ncolumns: 3\nwindow: soft_tissue|-160,240\n"


def body(num_slices: int = 12, side: int = 40) -> Volume:
    """A bright ball in water, seen in the middle slices only, with noise that differs from slice to slice."""
    z, y, x = np.ogrid[:num_slices, :side, :side]
    voxels = np.random.default_rng(3).normal(0, 30, (num_slices, side, side)).astype(np.float32)
    voxels += np.linspace(-80, 80, num_slices, dtype=np.float32)[:, None, None]
    inside = ((z - num_slices / 2) * 4) ** 2 + (y - side / 2) ** 2 + (x - side / 2) ** 2 < 100
    voxels[inside] += 150
    affine = np.array([[0, 0, 0.8, -16], [0, 0.8, 0, -16], [2.5, 0, 0, -121], [0, 0, 0, 1]])
    return Volume(
        voxels=voxels,
        affine_lps=affine,
        spacing_mm=(2.5, 0.8, 0.8),
        modality="CT",
        unit="HU",
        source={"format": "none"},
    )


def on_grid(spec: GridSpec) -> GridVolume:
    """That body as a guest sees it."""
    return to_grid(body(), spec)


class StubServer(ThreadingHTTPServer):
    """A server in OpenAI's shape that counts the bright pictures it is sent.

    tells: "log_probs", "nothing", or "refuses" (an error where log-probabilities are asked for). requests: bodies.
    """

    def __init__(self, tells: str = "log_probs") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.tells, self.requests, self.failures, self.headers = tells, [], [], []
        self.models = ["stub"]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Says how many of its pictures are not black; surer the more of the second and third are seen."""
        pictures = [
            part["image_url"]["url"]
            for message in asked["messages"]
            if isinstance(message["content"], list)
            for part in message["content"]
            if part["type"] == "image_url"
        ]
        seen = [len(set(decoded_picture(url))) > 1 for url in pictures]
        marked = [one for one in seen[1:3] if one]
        words = "a cyst" if marked or not pictures else "nothing"
        message = {"role": "assistant", "content": words}
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": "stop"}
        if asked.get("logprobs") and self.tells == "log_probs":
            sure = -0.1 if len(marked) == 2 else -1.0
            tokens = words.split()
            choice["logprobs"] = {
                "content": [
                    {
                        "token": token,
                        "logprob": sure,
                        "top_logprobs": [{"token": token, "logprob": sure}, {"token": "a", "logprob": -3.0}],
                    }
                    for token in tokens
                ]
            }
        usage = {"prompt_tokens": 10 + len(pictures), "completion_tokens": len(words.split())}
        return {"object": "chat.completion", "choices": [choice], "usage": usage}


def decoded_picture(url: str) -> list[int]:
    """The grey levels of a picture in a data address."""
    import base64
    import io

    from PIL import Image

    picture = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    return np.asarray(picture).flatten().tolist()


class _Handler(BaseHTTPRequestHandler):
    server: StubServer

    def do_GET(self) -> None:
        if self.path != "/v1/models" or self.server.models is None:
            self._send(404, {"error": {"message": "no such page"}})
            return
        self._send(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self.server.models]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.headers.append(dict(self.headers))
        self.server.requests.append(asked)
        if self.server.failures:
            status, message = self.server.failures.pop(0)
            self._send(status, {"error": {"message": message}}, {"Retry-After": "0"})
        elif self.server.tells == "refuses" and asked.get("logprobs"):
            self._send(400, {"error": {"message": "logprobs are not supported by this model"}})
        else:
            self._send(200, self.server.answer(asked))

    def _send(self, status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        """Silent."""


@contextmanager
def stub_server(tells: str = "log_probs") -> Iterator[StubServer]:
    """The server while it runs, on this machine only."""
    server = StubServer(tells)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
