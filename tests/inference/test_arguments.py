"""Whatever a public function is given that it cannot take is refused in one line: found, expected, what to change."""

from __future__ import annotations

import pytest

import slicesight
from slicesight.errors import InputError
from slicesight.io.writers import write_nifti

QUESTION = "Which phase is this?"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scan": {}}, "the scan is a dict; expected one path"),
        ({"questions": [3]}, "question 1 is a int; expected text"),
        ({"history": "Which phase?"}, "history is 'Which phase"),
        ({"history": ["Which phase?"]}, "expected (question, answer) pairs of text"),
        ({"max_new_tokens": "many"}, "max_new_tokens is 'many'; expected at least 1"),
        ({"temprature": 0.5}, "temprature is no option of asking; expected do_sample"),
        ({"do_sample": True, "temperature": "hot"}, "temperature is 'hot'; expected a number"),
        ({"scan": "no/such/scan.nii.gz"}, "no/such/scan.nii.gz"),
    ],
)
@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_wrong_argument_of_ask_is_one_plain_line(tiny_reader, phantom, arguments, message, is_streamed):
    given = {"scan": phantom.volume, "questions": QUESTION, "max_new_tokens": 1, **arguments}
    with pytest.raises(InputError) as caught:
        list(tiny_reader.ask_stream(**given) if is_streamed else tiny_reader.ask(**given))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_job_that_is_no_pair_is_one_plain_line(tiny_reader, phantom):
    with pytest.raises(InputError, match="a job is a Volume; expected a pair of a scan and its questions"):
        list(tiny_reader.ask_many([phantom.volume]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "gpu0"}, "device is 'gpu0'; expected cpu"),
        ({"device": "meta"}, "device is 'meta'; expected cpu"),
        ({"dtype": "float33"}, "dtype is 'float33'; expected float32"),
        ({"cache_bytes": -1}, "cache_bytes is -1; expected 0 or more"),
        ({"cache_bytes": "1GB"}, "cache_bytes is '1GB'; expected 0 or more"),
    ],
)
def test_a_wrong_argument_of_load_is_one_plain_line(tiny_model_folder, arguments, message):
    with pytest.raises(InputError) as caught:
        slicesight.load(tiny_model_folder, **arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_a_scan_can_be_named_by_its_path(tiny_reader, phantom, tmp_path, kind):
    path = tmp_path / "scan.nii.gz"
    write_nifti(phantom.volume, path)
    (found,) = tiny_reader.ask(kind(path), QUESTION, max_new_tokens=4)
    assert found == tiny_reader.ask(slicesight.read_volume(path), QUESTION, max_new_tokens=4)[0]


def test_the_names_of_inference_load_on_first_use():
    import slicesight.inference as inference

    assert {getattr(inference, name).__name__ for name in inference.__all__} == set(inference.__all__)
    with pytest.raises(AttributeError, match="it offers Answer"):
        inference.Engine  # noqa: B018
