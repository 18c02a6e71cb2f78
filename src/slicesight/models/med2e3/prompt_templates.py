"""Which text stands around a question and a volume's place? One template for each way a model was trained."""

from __future__ import annotations

from dataclasses import dataclass

from slicesight.data.choices import SCAN_PLACE

VOLUME_TOKEN = SCAN_PLACE


@dataclass(frozen=True, kw_only=True)
class PromptTemplate:
    """The text around a question; {question} holds the volumes' places too, {eos} is the tokenizer's end token.

    system opens the conversation, user is each question, cue asks for an answer, answer is a finished one.
    place: what stands before the question for each volume. is_opened: whether the tokenizer's opening token (if it has
    one) comes first. stand_in: a token of the tokenizer that is written S times for a volume, and the text is then
    tokenised in one piece (M3D-LaMed); without one the pieces around "<image3d>" are tokenised on their own.
    """

    system: str = (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. "
    )
    user: str = "USER: {question} "
    cue: str = "ASSISTANT:"
    answer: str = "ASSISTANT: {answer}{eos}"
    place: str = VOLUME_TOKEN + "\n"
    is_opened: bool = True
    stand_in: str | None = None


TEMPLATES = {
    "phi": PromptTemplate(),
    "short": PromptTemplate(system="", user="{question} ", cue="Answer:", answer="Answer: {answer}{eos}"),
    "lamed": PromptTemplate(
        system="", user="{question}", cue="", answer=" {answer}{eos}", place=VOLUME_TOKEN, stand_in="<im_patch>"
    ),
    "pretrain_vision3d": PromptTemplate(
        system="", user=VOLUME_TOKEN, cue="ASSISTANT:", answer="{answer}", is_opened=False
    ),
}
