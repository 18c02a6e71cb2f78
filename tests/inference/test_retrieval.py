"""Tables of vectors come back bit by bit, go on where they were stopped, and are searched exactly."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from slicesight.errors import InputError
from slicesight.inference.embedding import Embedding
from slicesight.inference.embedding_table import ScanName, TableFacts, TableWriter, read_table
from slicesight.inference.retrieval import cosines, nearest_scans, nearest_slices
from slicesight.volumes.grid import GridSlice

FACTS = TableFacts(model="m", source="m", digest="d", space="encoder")


def embedding(seed: int, *, slices: bool = True) -> Embedding:
    rng = np.random.default_rng(seed)
    places = tuple(GridSlice(index=n, source_slices=(n, n + 1), position_mm=(0.0, 1.0, 5.0 * n)) for n in range(4))
    return Embedding(
        volume=rng.normal(size=6).astype(np.float32),
        slices=rng.normal(size=(4, 3)).astype(np.float32) if slices else None,
        depth_bins=rng.normal(size=(2, 5, 6)).astype(np.float32),
        slice_places=places if slices else (),
        receipt={"window": {"low": -160}},
        model="m",
        space="encoder",
        missing={} if slices else {"slices": "no 2D encoder"},
    )


def name(number: int, *, patient: str | None = None) -> ScanName:
    return ScanName(scan=f"s{number}", stamp="1", patient=patient)


def write(path, embeddings, *, patients=None, facts=FACTS):
    writer = TableWriter(path, facts)
    for number, one in enumerate(embeddings):
        writer.add(name(number, patient=patients[number] if patients else None), one)
    writer.finish()
    return read_table(path)


def test_vectors_places_and_receipt_come_back_as_they_were(tmp_path):
    made = [embedding(seed) for seed in range(3)]
    table = write(tmp_path / "t.parquet", made)
    assert table.scans == ["s0", "s1", "s2"]
    np.testing.assert_array_equal(table.volumes, np.stack([one.volume for one in made]))
    for number, one in enumerate(made):
        np.testing.assert_array_equal(table.slices(number), one.slices)
        np.testing.assert_array_equal(table.depth_bins(number), one.depth_bins)
    assert table.receipt(1) == {"window": {"low": -160}}
    assert table.places(2)[3] == {"source_slices": [3, 4], "position_mm": [0.0, 1.0, 15.0], "plane": None}
    assert not list(tmp_path.glob("*.partial")), "nothing is left beside a whole table"


def test_any_reader_of_parquet_finds_the_vectors_and_what_they_are(tmp_path):
    write(tmp_path / "t.parquet", [embedding(0)])
    found = pq.read_table(tmp_path / "t.parquet")
    assert found.column("volume").to_pylist()[0] == pytest.approx(embedding(0).volume.tolist())
    assert found.column("depth_bins_shape").to_pylist() == [[2, 5, 6]]
    facts = json.loads(found.schema.metadata[b"slicesight"])
    assert (facts["model"], facts["space"], facts["digest"]) == ("m", "encoder", "d")
    assert "research use only" in facts["use"]


def test_what_a_model_does_not_have_is_null_with_its_reason(tmp_path):
    table = write(tmp_path / "t.parquet", [embedding(0, slices=False)])
    with pytest.raises(InputError, match=r"holds no slices \(no 2D encoder\)"):
        table.slices(0)


def test_a_stopped_run_goes_on_and_a_changed_scan_is_embedded_anew(tmp_path):
    path = tmp_path / "t.parquet"
    TableWriter(path, FACTS).add(name(0), embedding(0))
    assert not path.exists()
    again = TableWriter(path, FACTS)
    assert again.has(name(0))
    assert not again.has(name(1))
    assert not again.has(ScanName(scan="s0", stamp="changed"))
    again.keep(name(0))
    again.add(name(1), embedding(1))
    again.finish()
    np.testing.assert_array_equal(read_table(path).volumes, np.stack([embedding(0).volume, embedding(1).volume]))


@pytest.mark.parametrize("other", [{"digest": "e"}, {"space": "language"}, {"has_depth_bins": False}])
def test_what_was_begun_otherwise_is_refused(tmp_path, other):
    TableWriter(tmp_path / "t.parquet", FACTS).add(name(0), embedding(0))
    with pytest.raises(InputError, match=rf"was begun with {next(iter(other))} .*remove it"):
        TableWriter(tmp_path / "t.parquet", TableFacts(**{**vars(FACTS), **other}))


def test_cosines_are_exact_and_do_not_depend_on_lengths():
    rng = np.random.default_rng(0)
    vectors, query = rng.normal(size=(50, 7)), rng.normal(size=7)
    plain = [float(query @ row) / (float(query @ query) * float(row @ row)) ** 0.5 for row in vectors]
    np.testing.assert_allclose(cosines(query * 9, vectors * 0.01), plain, rtol=0, atol=1e-12)
    assert cosines(query, [query, -query]).tolist() == pytest.approx([1, -1])


@pytest.mark.parametrize(
    ("query", "vectors", "said"),
    [
        ([1, 0], [[1, 0, 0]], "expected one model's"),
        ([0, 0], [[1, 0]], "no direction"),
        ([1, 0], [[0, 0]], "no direction"),
        ([1, float("nan")], [[1, 0]], "no number"),
    ],
)
def test_vectors_without_direction_or_of_another_size_are_refused(query, vectors, said):
    with pytest.raises(InputError, match=said):
        cosines(query, vectors)


def test_the_nearest_scans_are_in_order_without_the_query_and_its_patient(tmp_path):
    made = [embedding(seed) for seed in range(6)]
    table = write(tmp_path / "t.parquet", made, patients=["a", "a", "b", "b", "c", "c"])
    query = made[0].volume
    expected = sorted(range(1, 6), key=lambda n: -float(cosines(query, [made[n].volume])[0]))
    found = nearest_scans(table, query, count=3, without=("s0",))
    assert [one.scan for one in found] == [f"s{n}" for n in expected[:3]]
    assert [one.rank for one in found] == [1, 2, 3]
    others = nearest_scans(table, query, count=9, without=("s0",), other_than="a")
    assert {one.scan for one in others} == {"s2", "s3", "s4", "s5"}
    with pytest.raises(InputError, match="no other scan is left"):
        nearest_scans(table, query, count=1, without=table.scans)


def test_the_nearest_slices_are_the_best_of_all_scans_with_their_places(tmp_path):
    made = [embedding(seed) for seed in range(4)]
    table = write(tmp_path / "t.parquet", made)
    query = made[0].slices[2]
    every = [(float(cosines(query, one.slices)[n]), number, n) for number, one in enumerate(made) for n in range(4)]
    found = nearest_slices(table, query, count=5)
    assert [(one.scan, one.grid_slice) for one in found] == [
        (f"s{number}", n) for _, number, n in sorted(every, reverse=True)[:5]
    ]
    assert (found[0].scan, found[0].grid_slice, found[0].position_mm) == ("s0", 2, (0.0, 1.0, 10.0))
    assert found[0].source_slices == (2, 3)


def test_files_that_are_no_table_are_one_line(tmp_path):
    (tmp_path / "a.parquet").write_text("no")
    with pytest.raises(InputError, match="no Parquet"):
        read_table(tmp_path / "a.parquet")
    with pytest.raises(InputError, match="no such file"):
        read_table(tmp_path / "b.parquet")
    import pyarrow as pa

    pq.write_table(pa.table({"volume": [1]}), tmp_path / "c.parquet")
    with pytest.raises(InputError, match="no vectors of ours"):
        read_table(tmp_path / "c.parquet")
