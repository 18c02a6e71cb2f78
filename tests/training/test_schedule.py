"""Schedules: a step follows from data, stage and seed alone, and all its parts together are the step."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slicesight.errors import InputError
from slicesight.training.recipe import Stage
from slicesight.training.schedule import Schedule, Visit, draw_subset, split_step, tasks_of


def make_stage(**words) -> Stage:
    return Stage(**{"name": "s", "trainable": (), "learning_rate": 1e-3, **words})


def lengths_of(visit: Visit) -> list[int]:
    """Prompts of 10, 11, 12 ... tokens, longer for later cases."""
    return [10 + place + 3 * visit.case for place in visit.asked]


def test_an_epoch_shows_every_volume_with_all_its_questions_once(memory_data) -> None:
    schedule = Schedule(memory_data(5), make_stage(epochs=2, volumes_per_step=2), seed=0)
    visits = [visit for step in range(len(schedule)) for visit in schedule[step]]
    assert len(schedule) == 5
    assert Counter((visit.case, visit.epoch) for visit in visits) == {(c, e): 1 for c in range(5) for e in range(2)}
    assert all(visit.asked == (0, 1, 2) for visit in visits)


def test_the_last_step_of_an_epoch_holds_what_is_left(memory_data) -> None:
    schedule = Schedule(memory_data(5), make_stage(epochs=1, volumes_per_step=2), seed=0)
    assert [len(schedule[step]) for step in range(len(schedule))] == [2, 2, 1]


def test_a_step_is_the_same_whatever_was_looked_at_before(memory_data) -> None:
    for words in ({"steps": 12, "volumes_per_step": 2}, {"steps": 12, "tokens_per_step": 100}):
        first, second = (Schedule(memory_data(5), make_stage(**words), seed=3, measure=lengths_of) for _ in range(2))
        late = second[11]
        assert [first[step] for step in range(12)][11] == late
        other = Schedule(memory_data(5), make_stage(**words), seed=4, measure=lengths_of)
        assert [other[step] for step in range(12)] != [first[step] for step in range(12)]


def test_steps_of_so_many_volumes_come_in_the_order_they_always_had(memory_data) -> None:
    """The order of the models that were trained before there were schedules: passes, mixed by torch's permutation."""
    schedule = Schedule(memory_data(5), make_stage(steps=7, volumes_per_step=3), seed=9)
    mixed = torch.randperm(21, generator=torch.Generator().manual_seed(9)).tolist()
    passes = [np.random.default_rng([9, epoch]).permutation(5).tolist() for epoch in range(5)]
    expected = [passes[number // 5][number % 5] for number in mixed]
    assert [visit.case for step in range(7) for visit in schedule[step]] == expected


def test_a_token_budget_takes_as_many_volumes_as_fit(memory_data) -> None:
    schedule = Schedule(memory_data(5), make_stage(epochs=3, tokens_per_step=200), seed=0, measure=lengths_of)
    steps = [schedule[number] for number in range(len(schedule))]

    def cost(visits: list[Visit]) -> int:
        lengths = [length for visit in visits for length in lengths_of(visit)]
        return len(lengths) * max(lengths)

    assert all(cost(step) <= 200 for step in steps)
    assert all(cost([*step, after[0]]) > 200 for step, after in itertools.pairwise(steps))
    assert sum(len(visit.asked) for step in steps for visit in step) == 3 * 5 * 3


def test_a_volume_whose_questions_do_not_fit_comes_in_several_steps(memory_data) -> None:
    schedule = Schedule(memory_data(2), make_stage(epochs=1, tokens_per_step=30), seed=0, measure=lengths_of)
    visits = [visit for step in range(len(schedule)) for visit in schedule[step]]
    assert len(visits) > 2
    assert sorted((visit.case, place) for visit in visits for place in visit.asked) == [
        (case, place) for case in range(2) for place in range(3)
    ]


def test_a_prompt_larger_than_the_budget_is_an_error_that_names_the_case(memory_data) -> None:
    with pytest.raises(InputError, match=r"case \d: a prompt of \d+ tokens .* tokens_per_step 11"):
        Schedule(memory_data(2), make_stage(epochs=1, tokens_per_step=11), seed=0, measure=lengths_of)


def test_only_the_wanted_tasks_are_asked_and_volumes_without_any_are_left_out(memory_data) -> None:
    data = memory_data(4)
    data.cases[2] = data.cases[2].model_copy(update={"conversations": data.cases[2].conversations[1:]})  # no report
    schedule = Schedule(data, make_stage(epochs=1, volumes_per_step=1, tasks=("report",)), seed=0)
    visits = [visit for step in range(len(schedule)) for visit in schedule[step]]
    assert sorted(visit.case for visit in visits) == [0, 1, 3]
    assert {visit.asked for visit in visits} == {(0,)}
    with pytest.raises(InputError, match="none of the 4 cases has a question of report"):
        Schedule(memory_data(4, reports=False), make_stage(steps=1, tasks=("report",)), seed=0)


def test_some_questions_of_a_volume_are_drawn_anew_in_every_pass(memory_data) -> None:
    stage = make_stage(epochs=20, volumes_per_step=1, questions_per_volume=1)
    schedule = Schedule(memory_data(1), stage, seed=0)
    assert {schedule[step][0].asked for step in range(20)} == {(0,), (1,), (2,)}


def test_a_subset_holds_so_many_pairs_of_each_task(memory_data) -> None:
    data = memory_data(6)
    wanted = {"report": 4, "closed": 2}
    chosen = draw_subset(data, wanted, seed=0)
    tasks = Counter(tasks_of(data, case)[place] for case, places in chosen.items() for place in places)
    assert tasks == wanted
    assert draw_subset(data, wanted, seed=0) == chosen != draw_subset(data, wanted, seed=1)
    schedule = Schedule(data, make_stage(epochs=1, volumes_per_step=2, subset=wanted), seed=0)
    asked = {v.case: set(v.asked) for step in range(len(schedule)) for v in schedule[step]}
    assert asked == draw_subset(data, wanted, seed=0)
    with pytest.raises(InputError, match="7 pairs of open are wanted, the data hold 6"):
        draw_subset(data, {"open": 7}, seed=0)


visits = st.lists(
    st.builds(
        Visit,
        case=st.integers(0, 99),
        epoch=st.integers(0, 3),
        asked=st.integers(1, 11).map(lambda size: tuple(range(size))),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda visit: (visit.case, visit.epoch),
)


@given(visits, st.integers(1, 16))
def test_the_parts_of_a_step_together_are_the_step(step: list[Visit], num_parts: int) -> None:
    pairs = [(visit.case, visit.epoch, place) for visit in step for place in visit.asked]
    if len(pairs) < num_parts:
        with pytest.raises(InputError, match="cannot be shared"):
            split_step(step, num_parts)
        return
    parts = split_step(step, num_parts)
    assert len(parts) == num_parts
    assert all(parts)
    assert [(visit.case, visit.epoch, place) for part in parts for visit in part for place in visit.asked] == pairs
    if len(step) >= num_parts:
        assert sum(len(part) for part in parts) == len(step), "no volume is encoded twice without need"
