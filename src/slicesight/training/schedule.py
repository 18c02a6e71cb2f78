"""Which volumes, and which of their questions, make up step k? It follows from the data, the stage and the seed alone.

So a resumed run needs no state for its place in the data, and the number of processes changes nothing: a step is cut
into as many parts as there are processes times accumulations, and all parts together are the step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray

from slicesight.data.dataset import Dataset
from slicesight.errors import InputError
from slicesight.training.recipe import Stage

CHOICE_STREAM, SUBSET_STREAM = 21, 22


@dataclass(frozen=True, kw_only=True)
class Visit:
    """One volume's turn: in which pass, and which of its questions are asked (places in `conversations`)."""

    case: int
    epoch: int
    asked: tuple[int, ...]


Measure = Callable[[Visit], Sequence[int]]
"""The lengths of a visit's prompts in tokens, visual ones included."""


class Schedule:
    """The steps of one stage; `schedule[k]` are the visits of step k.

    A stage of so many `steps` of so many volumes mixes its passes; with `epochs` or a token budget one pass follows
    another. num_parts: a last step with fewer questions than that is left out. measure: for a token budget.
    Raises InputError where the data hold no such questions, or fewer than the subset wants.
    """

    def __init__(
        self, data: Dataset, stage: Stage, *, seed: int, num_parts: int = 1, measure: Measure | None = None
    ) -> None:
        assert stage.tokens_per_step is None or measure is not None
        self.data, self.stage, self.seed, self.num_parts = data, stage, seed, num_parts
        self.asked = questions_of(data, stage, seed=seed)
        self.cases = np.array(list(self.asked))
        self.num_visits = None if stage.epochs is None else max(1, round(stage.epochs * len(self.cases)))
        self.pass_order = functools.lru_cache(maxsize=16)(self._pass_order)
        self.order = None
        if stage.steps is not None and stage.volumes_per_step is not None:
            total = stage.steps * stage.volumes_per_step
            self.order = torch.randperm(total, generator=torch.Generator().manual_seed(seed)).numpy()
        self._filled: list[list[Visit]] = []
        self._filling = (
            None
            if stage.tokens_per_step is None or measure is None
            else self._fill_steps(stage.tokens_per_step, measure)
        )
        self.length = self._count_steps()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, step: int) -> list[Visit]:
        if not 0 <= step < self.length:
            raise IndexError(step)
        if self._filling is not None:
            while len(self._filled) <= step:
                self._filled.append(next(self._filling))
            return self._filled[step]
        size = self.stage.volumes_per_step
        assert size is not None
        stop = (step + 1) * size if self.num_visits is None else min((step + 1) * size, self.num_visits)
        return [self.visit(number) for number in range(step * size, stop)]

    def visit(self, number: int) -> Visit:
        """The visit that comes so many visits after the stage's first one."""
        if self.order is not None:
            number = int(self.order[number])
        epoch, place = divmod(number, len(self.cases))
        case = int(self.cases[self.pass_order(epoch)[place]])
        asked, wanted = self.asked[case], self.stage.questions_per_volume
        if wanted is not None and wanted < len(asked):
            rng = np.random.default_rng([self.seed, CHOICE_STREAM, epoch, case])
            asked = tuple(asked[i] for i in rng.permutation(len(asked))[:wanted])
        return Visit(case=case, epoch=epoch, asked=asked)

    def visited_cases(self) -> list[int]:
        """Every case that comes up, in ascending order."""
        if self.num_visits is not None and self.num_visits >= len(self.cases):
            return [int(case) for case in self.cases]
        return sorted({visit.case for step in range(len(self)) for visit in self[step]})

    def _pass_order(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.cases))

    def _count_steps(self) -> int:
        if self.stage.steps is not None:
            return self.stage.steps
        if self._filling is not None:
            self._filled = list(self._filling)
            self.length = len(self._filled)
        else:
            assert self.num_visits is not None
            assert self.stage.volumes_per_step is not None
            self.length = math.ceil(self.num_visits / self.stage.volumes_per_step)
        too_small = sum(len(visit.asked) for visit in self[self.length - 1]) < self.num_parts
        return self.length - 1 if too_small and self.length > 1 else self.length

    def _fill_steps(self, budget: int, measure: Measure) -> Iterator[list[Visit]]:
        """Take visits as they come; a step is full when the next one would not fit."""
        step: list[Visit] = []
        num_prompts = longest = 0
        for number in count() if self.num_visits is None else range(self.num_visits):
            for visit, lengths in self._fitting(self.visit(number), budget, measure):
                if step and (num_prompts + len(lengths)) * max(longest, *lengths) > budget:
                    yield step
                    step, num_prompts, longest = [], 0, 0
                step.append(visit)
                num_prompts, longest = num_prompts + len(lengths), max(longest, *lengths)
        yield step

    def _fitting(self, visit: Visit, budget: int, measure: Measure) -> Iterator[tuple[Visit, list[int]]]:
        """The visit itself, or several with fewer questions each where they do not fit into one step."""
        asked: list[int] = []
        lengths: list[int] = []
        for place, length in zip(visit.asked, measure(visit), strict=True):
            if length > budget:
                raise InputError(
                    f"{self.data.cases[visit.case].id}: a prompt of {length} tokens does not fit into tokens_per_step "
                    f"{budget}; raise it, or set max_length"
                )
            if (len(lengths) + 1) * max([*lengths, length]) > budget:
                yield replace(visit, asked=tuple(asked)), lengths
                asked, lengths = [], []
            asked.append(place)
            lengths.append(length)
        yield replace(visit, asked=tuple(asked)), lengths


def questions_of(data: Dataset, stage: Stage, *, seed: int) -> dict[int, tuple[int, ...]]:
    """The places of every case's questions that the stage asks, for the cases that have any.

    Raises InputError where none has, or the subset wants more than there are.
    """
    subset = None if stage.subset is None else draw_subset(data, stage.subset, seed=seed)
    asked: dict[int, tuple[int, ...]] = {}
    for case in range(len(data)):
        places = [place for place, task in enumerate(tasks_of(data, case)) if task in stage.tasks]
        chosen = tuple(place for place in places if subset is None or place in subset.get(case, ()))
        if chosen:
            asked[case] = chosen
    if not asked:
        raise InputError(
            f"stage {stage.name}: none of the {len(data)} cases has a question of {', '.join(stage.tasks)}; "
            "change its tasks, or the data"
        )
    return asked


def split_step(step: Sequence[Visit], num_parts: int) -> list[list[Visit]]:
    """Cut a step into parts of about equal size: between volumes, and inside one only where there are too few.

    Raises InputError where the step has fewer questions than parts.
    """
    if num_parts == 1:
        return [list(step)]
    if len(step) >= num_parts:
        return [[step[i] for i in places] for places in np.array_split(np.arange(len(step)), num_parts)]
    pairs = [(visit, place) for visit in step for place in visit.asked]
    if len(pairs) < num_parts:
        raise InputError(
            f"a step of {len(pairs)} questions cannot be shared by {num_parts} (processes times accumulation); "
            f"give a step more volumes, or use fewer parts"
        )
    parts = []
    for places in np.array_split(np.arange(len(pairs)), num_parts):
        asked: dict[Visit, list[int]] = {}
        for i in places:
            asked.setdefault(pairs[i][0], []).append(pairs[i][1])
        parts.append([replace(visit, asked=tuple(chosen)) for visit, chosen in asked.items()])
    return parts


def tasks_of(data: Dataset, case: int) -> list[str]:
    """The task of every question of a case; the same in every epoch."""
    return [conversation.task for conversation in data.cases[case].conversations]


def draw_subset(data: Dataset, wanted: dict[str, int], *, seed: int) -> dict[int, set[int]]:
    """So many pairs of each task, evenly from all cases -> the places of each case's pairs; other tasks have none.

    Raises InputError where there are fewer.
    """
    chosen: dict[int, set[int]] = {}
    for number, (task, size) in enumerate(sorted(wanted.items())):
        pairs = [
            (case, place)
            for case in range(len(data))
            for place, found in enumerate(tasks_of(data, case))
            if found == task
        ]
        if len(pairs) < size:
            raise InputError(f"subset: {size} pairs of {task} are wanted, the data hold {len(pairs)}; lower the number")
        rng = np.random.default_rng([seed, SUBSET_STREAM, number])
        for i in rng.permutation(len(pairs))[:size]:
            case, place = pairs[i]
            chosen.setdefault(case, set()).add(place)
    return chosen
