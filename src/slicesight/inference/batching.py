"""How do the questions of many scans become answers, or pieces of them as they are said?

Scans are taken one by one, encoded when there is room for their first question; all questions share one engine. What
only the library's `generate` can do (beams, an unusual language model) is answered scan by scan beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from slicesight.inference.answers import Answer, AnswerPiece, Wording, make_answer
from slicesight.inference.encoded_scan import EncodedScan, Scan
from slicesight.volumes.grid import GridVolume

if TYPE_CHECKING:
    from slicesight.inference.predictor import Predictor
    from slicesight.inference.prompts import Prompt
    from slicesight.inference.sampling import Sampler
    from slicesight.inference.scheduler import GenerationRequest, GenerationStep

Progress = Callable[[int, int], None]
"""Called with (answers done, answers asked for); the second grows as further scans are read."""
Job = tuple[Scan, list[str]]
History = Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class OpenQuestion:
    """A question at work: whose it is and what has been made of it."""

    job: int
    number: int
    wording: Wording
    scores: tuple[float, ...]
    grid: GridVolume

    def answer(self, text: str) -> Answer:
        return make_answer(self.wording.question, text, self.scores, grid=self.grid)


@dataclass(kw_only=True)
class OpenBatch:
    """What is under way: open questions by their number over all jobs, and answers that came another way."""

    num_asked: int = 0
    open: dict[int, OpenQuestion] = field(default_factory=dict)
    ready: list[tuple[int, AnswerPiece]] = field(default_factory=list)

    def take_ready(self) -> list[tuple[int, AnswerPiece]]:
        found, self.ready = self.ready, []
        return found


@dataclass(frozen=True, kw_only=True)
class BatchedAsking:
    """One call of the reader with its settings."""

    reader: Predictor
    max_new_tokens: int
    batch_size: int
    options: dict[str, Any]

    def answers(self, jobs: Iterable[Job], *, history: History, progress: Progress | None) -> Iterator[list[Answer]]:
        """All answers of each job, in the order of the jobs."""
        expected: list[int] = []  # answers of each job so far taken up
        found: list[dict[int, Answer]] = []
        next_job = num_done = 0

        def note(job: Job) -> Job:
            expected.append(len(job[1]))
            found.append({})
            if progress is not None and len(expected) == 1:
                progress(0, expected[0])
            return job

        for step in self.pieces((note(job) for job in jobs), history=history, in_pieces=False):
            for job, piece in step:
                if piece.answer is not None:
                    found[job][piece.number] = piece.answer
            done = sum(map(len, found[next_job:])) + sum(expected[:next_job])
            if progress is not None and done > num_done:
                progress(done, sum(expected))
            num_done = done
            while next_job < len(found) and len(found[next_job]) == expected[next_job]:
                yield [found[next_job].pop(number) for number in range(expected[next_job])]
                next_job += 1

    def pieces(
        self, jobs: Iterable[Job], *, history: History, in_pieces: bool
    ) -> Iterator[list[tuple[int, AnswerPiece]]]:
        """What each step of the engine adds: (job, piece) pairs; without `in_pieces` only whole answers."""
        from slicesight.inference.sampling import make_sampler

        desk = OpenBatch()
        choosing = make_sampler(self.reader.model, self.options)
        requests = self._requests(jobs, desk, history=history, choosing=choosing)
        if choosing is None:
            for _ in requests:  # none comes: every job is answered by `generate`
                raise AssertionError
            yield desk.take_ready()
            return
        for step in self.reader.engine.answer(requests, choosing=choosing, at_once=self.batch_size):
            pieces = [piece for said in step if (piece := self._piece(desk, said, in_pieces)) is not None]
            if found := desk.take_ready() + pieces:
                yield found
        if found := desk.take_ready():
            yield found

    def _requests(
        self, jobs: Iterable[Job], desk: OpenBatch, *, history: History, choosing: Sampler | None
    ) -> Iterator[GenerationRequest]:
        """Every question's request; a job the engine cannot answer leaves its answers on the desk instead."""
        from slicesight.inference.prompts import check_lengths, embed_prompts, longest_text, split_questions
        from slicesight.inference.scheduler import longest_prompt

        model, processor = self.reader.model, self.reader.processor
        longest_made_for, longest_shared = longest_text(model.config), longest_prompt(model)
        for job, (scan, asked) in enumerate(jobs):
            lengths = check_lengths(processor, asked, history=history, longest=longest_made_for)
            encoded = scan if isinstance(scan, EncodedScan) else self.reader.encode(scan)
            del scan
            needed = max(lengths) + self.max_new_tokens
            if choosing is None or (longest_shared is not None and needed > longest_shared):
                desk.ready += [(job, piece) for piece in self._ask_plainly(encoded, asked, history)]
                continue
            for numbers in split_questions(lengths, at_once=self.batch_size):
                prompts = embed_prompts(
                    model, processor, encoded.features, [asked[number] for number in numbers], history=history
                )
                for number, prompt in zip(numbers, prompts, strict=True):
                    desk.open[desk.num_asked] = OpenQuestion(
                        job=job,
                        number=number,
                        wording=Wording(prompt.question, self.reader.decode),
                        scores=prompt.scores,
                        grid=encoded.grid,
                    )
                    room = self.max_new_tokens
                    if longest_made_for is not None:
                        room = min(room, longest_made_for - len(prompt.token_ids))
                    yield make_request(self.reader, encoded, prompt, number=desk.num_asked, max_new_tokens=room)
                    desk.num_asked += 1

    def _piece(self, desk: OpenBatch, said: GenerationStep, in_pieces: bool) -> tuple[int, AnswerPiece] | None:
        asked = desk.open[said.number]
        if not said.is_finished:
            text = asked.wording.next_piece(said.token_ids) if in_pieces else ""
            return (asked.job, AnswerPiece(number=asked.number, text=text)) if text else None
        del desk.open[said.number]
        last, text = asked.wording.finish(said.token_ids)
        return asked.job, AnswerPiece(number=asked.number, text=last, answer=asked.answer(text))

    def _ask_plainly(self, encoded: EncodedScan, asked: list[str], history: History) -> Iterator[AnswerPiece]:
        """Whole answers by `generate`."""
        from slicesight.inference.generate_fallback import answer_by_generate

        found = answer_by_generate(
            self.reader.engine,
            self.reader.processor,
            encoded.features,
            asked,
            history=history,
            batch_size=self.batch_size,
            max_new_tokens=self.max_new_tokens,
            options=self.options,
        )
        for number, (token_ids, scores) in enumerate(found):
            _, text = Wording(asked[number], self.reader.decode).finish(token_ids)
            answer = make_answer(asked[number], text, scores, grid=encoded.grid)
            yield AnswerPiece(number=number, text=text, answer=answer)


def make_request(
    reader: Predictor, encoded: EncodedScan, prompt: Prompt, *, number: int, max_new_tokens: int
) -> GenerationRequest:
    """The prompt as a request, its shared part taken from the scan's memo or made."""
    from slicesight.inference.encoding import weights_fingerprint
    from slicesight.inference.scheduler import GenerationRequest

    prefix = None
    if shared := prompt.num_shared:
        key = (prompt.token_ids[:shared], weights_fingerprint(reader.model))
        prefix = encoded.memo.get(key, lambda: reader.engine.make_prefix(prompt.embeds_TD[:shared]))
    return GenerationRequest(
        number=number, prefix=prefix, suffix_TD=prompt.embeds_TD[shared:], max_new_tokens=max_new_tokens
    )
