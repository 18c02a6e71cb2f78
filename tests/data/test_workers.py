"""Processes that stay between calls keep the order, lose no job, and find the one that kills its process."""

from __future__ import annotations

import operator
import os
from functools import partial

import pytest

from slicesight.data.workers import Processes
from slicesight.errors import InputError


def test_outcomes_come_in_order_and_the_process_is_kept_between_calls():
    with Processes(operator.call, killed=repr, workers=1, ahead=2) as processes:
        assert list(processes.outcomes([partial(abs, -number) for number in range(5)])) == [0, 1, 2, 3, 4]
        (first,) = processes.outcomes([os.getpid])
        (second,) = processes.outcomes([os.getpid])
        assert first == second != os.getpid()
        assert list(processes.outcomes([])) == []


def test_a_job_that_kills_its_process_is_named_and_the_others_are_done():
    jobs = [partial(abs, -1), partial(os._exit, 1), partial(abs, -2), partial(abs, -3)]
    with Processes(operator.call, killed=lambda job: f"killed {job.func.__name__}", workers=1, ahead=3) as processes:
        assert list(processes.outcomes(iter(jobs))) == [1, "killed _exit", 2, 3]
        assert list(processes.outcomes([partial(abs, -4)])) == [4], "it goes on afterwards"


def test_jobs_are_taken_only_as_they_are_needed_and_an_error_reaches_the_caller():
    taken = []

    def jobs():
        for number in range(100):
            taken.append(number)
            yield partial(abs, number) if number != 3 else partial(int, "no number")

    with Processes(operator.call, killed=repr, workers=1, ahead=2) as processes:
        outcomes = processes.outcomes(jobs())
        assert [next(outcomes), next(outcomes), next(outcomes)] == [0, 1, 2]
        with pytest.raises(ValueError, match="no number"):
            next(outcomes)
        assert len(taken) < 7


def test_a_refusal_from_within_stays_an_input_error():
    from pathlib import Path

    from slicesight.files import checked_place

    with Processes(checked_place, killed=repr, workers=1) as processes, pytest.raises(InputError, match="is a folder"):
        list(processes.outcomes([Path("/")]))
