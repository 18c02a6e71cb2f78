"""How many questions a second do vLLM and the package's own engine answer, of the same model on the same machine?

    OMP_NUM_THREADS=1 python benchmarks/vllm_against_ours.py [--model FOLDER] [--questions 16] [--rounds 3]

Needs the environment of `make test-vllm`. Each of N askers asks its next question when its last one is answered; no two
questions are the same, so that nothing but head and z_3D is shared, and all scans were encoded before. Rounds of both
engines take turns, so that what else the machine does meets both. Shown are medians of the rounds, and of the rounds'
ratios with the smallest and the largest; beside questions a second the CPU seconds of this process for each, which say
more on a shared machine. vLLM runs in this process too, unless VLLM_ENABLE_V1_MULTIPROCESSING says otherwise; its CPU
seconds are then not counted here. A short round of each goes before and is not counted.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Iterator, Sequence

import torch

import slicesight
from slicesight.inference.answers import AnswerPiece
from slicesight.inference.batching import AskRequest
from slicesight.inference.encoded_scan import EncodedScan
from slicesight.inference.predictor import Predictor
from slicesight.phantoms.rendering import make_phantom

NUM_SCANS = 4
TEXTS = ("Which phase is this?", "Is there a lesion in the liver?", "Where is the lesion?", "How large is the lesion?")


def unlike_questions() -> Iterator[str]:
    """Texts of which none was asked before."""
    return (f"{TEXTS[number % len(TEXTS)]} ({number})" for number in itertools.count())


def answer_all(
    predictor: Predictor, scans: Sequence[EncodedScan], questions: Sequence[str], *, num_askers: int
) -> tuple[float, float, dict[str, str]]:
    """Wall and CPU seconds until all are answered, at most `num_askers` at a time, and the answers."""
    answers: dict[str, str] = {}
    waiting = iter(enumerate(questions))
    num_open = 0

    def take() -> AskRequest | None:
        nonlocal num_open
        if num_open >= num_askers or (found := next(waiting, None)) is None:
            return None
        number, question = found
        num_open += 1

        def keep(piece: AnswerPiece) -> None:
            nonlocal num_open
            if piece.answer is not None:
                answers[question] = piece.answer.text
                num_open -= 1

        def fail(error: Exception) -> None:
            raise error

        scan = scans[number % len(scans)]
        return AskRequest(
            scan=lambda: scan, questions=[question], on_piece=keep, on_error=fail, max_new_tokens=32, in_pieces=False
        )

    began, cpu_began = time.perf_counter(), time.process_time()
    for _ in predictor.batching(batch_size=num_askers).answer(take):
        pass
    return time.perf_counter() - began, time.process_time() - cpu_began, answers


def spread(over: Sequence[float], under: Sequence[float]) -> str:
    """Median, smallest and largest of the rounds' ratios."""
    ratios = [one / other for one, other in zip(over, under, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="phantom-tiny")
    parser.add_argument("--questions", type=int, default=16, help="of each round, at least one for each asker")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--askers", type=int, nargs="+", default=[1, 8, 64])
    options = parser.parse_args()

    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    from slicesight_vllm.loading import load

    engines: dict[str, Predictor] = {"own": slicesight.load(options.model), "vllm": load(options.model)}
    volumes = [make_phantom(3, index, pixel_mm=(3.5, 4.0)).volume for index in range(NUM_SCANS)]
    encoded = {name: [engine.encode(volume) for volume in volumes] for name, engine in engines.items()}
    texts = unlike_questions()
    num_unlike = num_asked = 0
    print(f"{options.model}, {torch.get_num_threads()} threads, {NUM_SCANS} scans, {options.rounds} rounds of each")
    print(
        f"{'askers':>6} {'q/s own':>8} {'vLLM':>8} {'vLLM : own':>20} {'CPU s own':>10} {'vLLM':>8} {'own : vLLM':>20}"
    )
    for num_askers in options.askers:
        rates: dict[str, list[float]] = {"own": [], "vllm": []}
        costs: dict[str, list[float]] = {"own": [], "vllm": []}
        for number in range(options.rounds + 1):
            size = max(options.questions, num_askers) if number else 8
            questions = list(itertools.islice(texts, size))
            found = {}
            for name in ("own", "vllm") if number % 2 else ("vllm", "own"):
                wall, cpu, found[name] = answer_all(engines[name], encoded[name], questions, num_askers=num_askers)
                if number:
                    rates[name].append(size / wall)
                    costs[name].append(cpu / size)
            num_asked += size
            num_unlike += sum(found["own"][text] != found["vllm"][text] for text in questions)
        cells = [f"{statistics.median(rates[name]):8.2f}" for name in rates]
        cells += [f"{spread(rates['vllm'], rates['own']):>20}"]
        cells += [f"{statistics.median(costs['own']):10.3f}", f"{statistics.median(costs['vllm']):8.3f}"]
        print(f"{num_askers:>6} {' '.join(cells)} {spread(costs['own'], costs['vllm']):>20}", flush=True)
    print(f"{num_asked - num_unlike} of {num_asked} answers are the same text")
    engines["vllm"].close()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
