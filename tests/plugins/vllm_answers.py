"""Answers of vLLM in processes of its own, as JSON: usage vllm_answers.py MODEL SCAN [SETTING=VALUE ...] (EngineArgs).

A test starts it because a worker may die of an instruction that the processor does not have, and because several
workers cannot live in the test's own process.
"""

from __future__ import annotations

import json
import sys

QUESTIONS = [
    "Is there a lesion in the liver? Choices: A. yes B. no",
    "Which phase is this?",
    "Was the oesophagus captured in the scan?",
]


def main() -> None:
    from slicesight_vllm.loading import load

    model, scan, *settings = sys.argv[1:]
    given = {name: int(value) if value.isdigit() else value for name, value in (one.split("=") for one in settings)}
    predictor = load(model, **given)
    answers = predictor.ask(scan, QUESTIONS, max_new_tokens=24, answer_anyway=True)
    found = [
        {"text": one.text, "scores": one.scores, "confidence": one.confidence, "abstained": one.abstained}
        for one in answers
    ]
    print(json.dumps({"answers": found, "encoded": predictor.count_encoded()}))
    predictor.close()


if __name__ == "__main__":  # vLLM's workers import this file again
    main()
