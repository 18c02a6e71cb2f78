"""How much memory does `slicesight convert` need beside the weights it converts?

usage: python benchmarks/convert_memory.py [--layers 32] [--folder DIR]

Writes a folder in the official layout at the released sizes (bf16 weights; --layers shortens the language model),
converts it in a process of its own and prints that process's highest resident memory over the bytes of the weights.
The limit: the largest part is mapped from its file, which the kernel counts as resident, and one shard waits beside it.
Exit code 1 past 1.15 times the weights. The last line is JSON.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from official_layout import official_parts, write_settings
from slicesight.models.importers.conversion import build_on_meta
from slicesight.models.med2e3.configuration import PHI3_MINI_128K, make_preset
from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration

ALLOWED = 1.15
GIB = 2**30
BERT = {"model_type": "bert"}  # the library's default is BERT-base, which M3D-CLIP's text encoder is
RELEASED = {
    "question_source": "text_encoder",
    "text_encoder_config": BERT,
    "vision2d_feature": "before_final_norm",
    "score_scale": 0.2,
    "score_dropout": 0.1,
}
CONVERT = """
import sys
from pathlib import Path
from slicesight.models.importers.med2e3 import convert_released

def highest():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

before = highest()
convert_released(sys.argv[1], sys.argv[2])
print(before * 1024, highest() * 1024)
"""


def write_official(folder, layers):
    """The official folder with random weights, one part in memory at a time; returns the bytes of the weights."""
    config = make_preset("med2e3-phi3", text_config={**PHI3_MINI_128K, "num_hidden_layers": layers}, **RELEASED)
    model = build_on_meta(Med2E3ForConditionalGeneration, config)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>")))
    write_settings(folder, config, tokenizer)
    total = 0
    for part, tensors in official_parts(model.state_dict().items()).items():
        (folder / part).mkdir()
        filled = {name: torch.full(tensor.shape, 0.01, dtype=torch.bfloat16) for name, tensor in tensors.items()}
        torch.save(filled, folder / part / "pytorch_model.bin")
        total += sum(tensor.numel() * tensor.element_size() for tensor in filled.values())
        del filled
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32, help="of the language model; 32 is Phi-3-mini")
    parser.add_argument("--folder", type=Path, help="where the two folders are made (twice the weights; default: /tmp)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as place:
        weights = write_official(Path(place) / "official", args.layers)
        printed = subprocess.run(
            [sys.executable, "-c", CONVERT, f"{place}/official", f"{place}/converted"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    libraries, peak = (int(number) for number in printed.split())
    found = {
        "weights_gib": weights / GIB,
        "peak_gib": peak / GIB,
        "libraries_gib": libraries / GIB,
        "ratio": peak / weights,
        "ratio_without_libraries": (peak - libraries) / weights,
        "allowed": ALLOWED,
    }
    print(
        f"weights {found['weights_gib']:.2f} GiB, peak {found['peak_gib']:.2f} GiB: {found['ratio']:.3f} of the weights"
    )
    print(json.dumps(found))
    sys.exit(found["ratio"] > ALLOWED)


if __name__ == "__main__":
    main()
