"""What a model without scans is asked and answers."""

from __future__ import annotations

import torch

from slicesight.data.choices import with_letter
from slicesight.data.manifest import Case, Conversation
from slicesight.evaluation import controls
from slicesight.inference.answers import printable

CONVERSATIONS = (
    Conversation(task="open", topic="organ", question="Which organ is shown?", answer="liver"),
    Conversation(
        task="closed", topic="phase", question="Which phase?", choices=("arterial", "venous"), answer="venous",
        answer_choice="B",
    ),
)  # fmt: skip


def test_a_blind_models_answers_are_those_of_generate_to_the_text_alone(tiny_reader):
    cases = [Case(id=name, volume=f"{name}.nii.gz", conversations=CONVERSATIONS) for name in ("one", "two")]
    seen = []
    found = controls.ask_blind(tiny_reader, cases, progress=lambda done, total: seen.append((done, total)))
    prompts = [conversation.prompt for conversation in CONVERSATIONS]
    inputs = tiny_reader.processor(prompts, volume_index=[[-1]] * len(prompts))
    inputs.pop("volume_index")
    with torch.inference_mode():
        ids = tiny_reader.model.generate(**inputs, do_sample=False, max_new_tokens=controls.MAX_NEW_TOKENS)
    texts = tiny_reader.processor.decode_answers(ids, num_prompt_tokens=inputs["input_ids"].shape[1])
    expected = [with_letter(prompt, printable(text)) for prompt, text in zip(prompts, texts, strict=True)]
    assert [row.prediction for row in found] == expected * 2
    assert [row.volume for row in found] == ["one", "one", "two", "two"]
    assert seen == [(0, 2), (1, 2)]
