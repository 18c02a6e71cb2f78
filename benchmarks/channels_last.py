"""How much faster does a 3D network learn with its channels last in memory, as `slicesight insight` keeps them?

usage: python benchmarks/channels_last.py [--threads 1] [--rounds 3]

One training step (forward and backward) of networks of several widths, the same weights and inputs in either layout, in
turns; the best of --rounds steps by processor time. The loss must agree within 1e-4. The last line is JSON.
"""

import argparse
import json
import sys
import time

import torch

from slicesight.models.encoders3d.backbones import build_backbone

LAYOUTS = {"as made": torch.contiguous_format, "channels last": torch.channels_last_3d}
NETWORKS = {
    "segresnet, 8 channels": ("segresnet", {"init_filters": 8}, 2, 48),
    "segresnet, 16 channels": ("segresnet", {"init_filters": 16}, 2, 48),
    "dynunet, 8 channels": ("dynunet", {"filters": [8, 16, 32, 64, 64]}, 2, 48),
    "dynunet, 16 channels": ("dynunet", {"filters": [16, 32, 64, 96, 128]}, 2, 48),
    "cnn3d, 24 channels": ("cnn3d", {"widths": [24, 48, 96], "feature_size": 8}, 4, 32),
    "swin_unetr, 12 channels": ("swin_unetr", {"feature_size": 12}, 1, 64),
}


def seconds_of_a_step(network, volumes):
    """Processor seconds, and the loss."""
    begin = time.process_time()
    loss = network(volumes).square().mean()
    loss.backward()
    return time.process_time() - begin, loss.item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ratios, same = {}, True
    print("| network | as made, s | channels last, s | ratio |\n|---|---|---|---|")
    for title, (name, settings, batch, side) in NETWORKS.items():
        torch.manual_seed(0)
        network = build_backbone(name, image_size=(side,) * 3, **settings).train()
        volumes = torch.rand(batch, 1, side, side, side)
        best, losses = {}, {}
        for number in range(args.rounds + 1):  # the first round warms up
            for layout, memory_format in LAYOUTS.items():
                network.to(memory_format=memory_format)
                seconds, losses[layout] = seconds_of_a_step(network, volumes)
                if number:
                    best[layout] = min(seconds, best.get(layout, seconds))
        made, last = (best[layout] for layout in LAYOUTS)
        ratios[title] = round(made / last, 2)
        same &= abs(losses["as made"] - losses["channels last"]) <= 1e-4 * abs(losses["as made"])
        print(f"| {title} | {made:.2f} | {last:.2f} | {ratios[title]:.2f} |", flush=True)
    print(json.dumps({"benchmark": "channels_last", "threads": args.threads, "ratios": ratios, "same_loss": same}))
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
