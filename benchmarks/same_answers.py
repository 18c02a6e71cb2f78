"""Are the scheduler's answers those of `generate`, question by question, and what do bfloat16 and int8 change?

usage: python benchmarks/same_answers.py [--model phantom-tiny] [--count 30] [--seed 41000] [--threads N]

COUNT phantoms with eleven questions each, greedily. For float32 and bfloat16: the share of questions whose tokens are
the same by `generate` (one question at a time, nothing shared) and by the scheduler, and a logit's largest difference.
Where tokens differ: how close the two best logits were at the first one that does, beside how close they are usually.
For bfloat16 and int8: agreement with float32, and the phantom scores of each. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys

import torch
from phantom_scores import AskedQuestion, score
from rich.console import Console

import slicesight
from slicesight.data.choices import with_letter
from slicesight.inference.cpu.int8 import has_operator
from slicesight.inference.cpu.processor import count_cores
from slicesight.inference.scheduler import Scheduler
from slicesight.phantoms.rendering import make_phantom
from slicesight.phantoms.texts import conversation_rng, phantom_conversations
from slicesight.reports.terminal import progress_bar

NEW_TOKENS = 160


def by_generate(predictor, encoded, question):
    """New token ids and the logits behind each, one question alone from an unshared prompt."""
    inputs = predictor.processor(question, volume_index=[0])
    with torch.inference_mode():
        found = predictor.model.generate(
            **inputs,
            volume_features=encoded.features,
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return found.sequences[0, inputs["input_ids"].shape[1] :].tolist(), torch.cat(found.logits).float()


def by_scheduler(predictor, encoded, questions):
    """The same for all questions together."""
    ids, logits = {}, {}
    choose = Scheduler._choose_tokens

    def listen(rows, logits_RW, sampler):
        steps = choose(rows, logits_RW, sampler)
        for step, logits_W in zip(steps, logits_RW, strict=True):
            logits.setdefault(step.number, []).append(logits_W.float())
            ids[step.number] = step.token_ids
        return steps

    predictor.scheduler._choose_tokens = listen
    predictor.ask(encoded, questions, max_new_tokens=NEW_TOKENS)
    del predictor.scheduler._choose_tokens
    return [(ids[number], torch.stack(logits[number])) for number in range(len(questions))]


def compare(plain, shared):
    """Share of equal answers, largest difference of a logit while tokens agree, and gaps between the best two."""
    equal, largest, gaps, split_gaps = 0, 0.0, [], []
    for (ids, logits), (other_ids, other_logits) in zip(plain, shared, strict=True):
        alike = next((i for i, (a, b) in enumerate(zip(ids, other_ids, strict=False)) if a != b), None)
        stop = min(len(ids), len(other_ids)) if alike is None else alike + 1
        largest = max(largest, float((logits[:stop] - other_logits[:stop]).abs().max()))
        best = logits.topk(2, dim=-1).values
        gap = (best[:, 0] - best[:, 1]).tolist()
        gaps += gap
        equal += ids == other_ids
        if alike is not None:
            split_gaps.append(gap[alike])
    return {
        "questions": len(plain),
        "same": equal,
        "share_same": round(equal / len(plain), 4),
        "largest_logit_difference": largest,
        "median_gap": round(statistics.median(gaps), 4),
        "largest_gap_where_they_part": round(max(split_gaps), 4) if split_gaps else None,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="phantom-tiny")
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--seed", type=int, default=41_000)
    parser.add_argument("--threads", type=int, default=count_cores())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    console = Console(stderr=True)
    kinds = {"float32": {"dtype": "float32"}, "bfloat16": {"dtype": "bfloat16"}}
    if has_operator():
        kinds["int8"] = {"dtype": "float32", "quantize": "int8"}
    predictors = {name: slicesight.load(args.model, device="cpu", **words) for name, words in kinds.items()}
    plain = {"float32": [], "bfloat16": []}
    shared = {name: [] for name in kinds}
    conversations = []
    with progress_bar(console, "phantoms") as progress:
        for case in range(args.count):
            progress(case, args.count)
            phantom = make_phantom(args.seed, case)
            asked = phantom_conversations(
                phantom.truth, conversation_rng(args.seed, case), num_slices=phantom.volume.num_source_slices
            )
            questions = [conversation.prompt for conversation in asked]
            for name, predictor in predictors.items():
                encoded = predictor.encode(phantom.volume)
                shared[name] += by_scheduler(predictor, encoded, questions)
                if name in plain:
                    plain[name] += [by_generate(predictor, encoded, question) for question in questions]
            conversations += [(case, conversation) for conversation in asked]
    found = {name: compare(plain[name], shared[name]) for name in plain}
    for name in kinds:
        rows = []
        for (case, conversation), (ids, _) in zip(conversations, shared[name], strict=True):
            text = predictors[name].processor.decode_answers(torch.tensor([ids]), num_prompt_tokens=0)[0]
            said = with_letter(conversation.prompt, text)
            rows.append(AskedQuestion(case=case, conversation=conversation, prediction=said))
        numbers = score(rows)
        same = sum(a[0] == b[0] for a, b in zip(shared[name], shared["float32"], strict=True))
        found[f"{name} scores"] = {
            "agreement_with_float32": round(same / len(rows), 4),
            "closed": round(numbers["closed"], 4),
            "open": round(numbers["open"], 4),
            "triples_f1": round(numbers["triples"]["f1"], 4),
        }
    for name, row in found.items():
        print(f"{name:16} {row}", file=sys.stderr)
    print(json.dumps({"benchmark": "same_answers", "model": args.model, "phantoms": args.count, **found}))


if __name__ == "__main__":
    main()
