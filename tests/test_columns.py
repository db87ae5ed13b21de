"""Tables that are read by column, and lists as flat arrays, against what plain Python says of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset

from distilingua.columns import (
    Encoded,
    Ragged,
    blocks,
    by_value,
    codes,
    column,
    first_of_each,
    joined,
    numbers_of,
    on_disk,
    select,
    strings,
    texts_of,
    values_of,
    where,
    with_columns,
)

LISTS = [[5, 6, 7], [], [8], [9, 10]]
ROWS = {"id": ["a", "b", "c", "d"], "text": ["one", "zwei", "", "vier"]}


@pytest.fixture
def rows() -> Dataset:
    return on_disk([pa.table(ROWS)], pa.schema([(name, pa.string()) for name in ROWS]))


def as_lists(found: Ragged) -> list[list[int]]:
    return [each.tolist() for each in found]


@pytest.mark.parametrize(
    "index", [[2, 0], slice(1, None), slice(None, None, -1), np.array([True, False, False, True]), [], [3, 3, 1]]
)
def test_lists_are_gathered_as_python_would(index: object) -> None:
    if isinstance(index, slice):
        expected = LISTS[index]
    elif isinstance(index, np.ndarray):
        expected = [each for each, chosen in zip(LISTS, index, strict=True) if chosen]
    else:
        expected = [LISTS[n] for n in index]  # type: ignore[attr-defined]
    found = Ragged.of(LISTS)[index]
    assert as_lists(found) == expected
    assert found.lengths.tolist() == [len(each) for each in expected]
    assert as_lists(Ragged.of_column(pa.chunked_array([found.as_column()]))) == expected


def test_one_list_is_an_array_and_there_are_no_more_than_there_are() -> None:
    found = Ragged.of(LISTS)
    assert found[-1].tolist() == [9, 10]
    with pytest.raises(IndexError):
        found[4]


def test_shorter_lists_are_filled_up() -> None:
    assert Ragged.of(LISTS).padded(0).tolist() == [[5, 6, 7], [0, 0, 0], [8, 0, 0], [9, 10, 0]]
    assert Ragged.of(LISTS)[[1, 2]].padded(-1).tolist() == [[-1], [8]]
    assert Ragged.of([]).padded(0).shape == (0, 0)


def test_what_was_encoded_is_the_same_on_disk_in_parts_and_one_by_one(tmp_path: Path) -> None:
    plain = [{"input_ids": ids, "frames": n, "cut": n == 2} for n, ids in enumerate(LISTS)]
    found = Encoded.of(plain)
    Encoded.write(tmp_path, [found[:1], found[1:]])
    for one in (found, Encoded.read(tmp_path), Encoded.join([found[:3], found[3:]]), found[[0, 1, 2, 3]]):
        assert list(one) == plain
        assert one.lengths.tolist() == [0, 1, 2, 3]
    assert "cut" in found
    assert "at" not in found
    assert list(Encoded({})) == []
    assert Encoded({}).lengths.tolist() == []


def test_a_selection_of_a_selection_knows_its_rows(rows: Dataset) -> None:
    some = select(select(rows, [3, 1, 0]), [2, 0])
    assert some["id"][:] == texts_of(some, "id") == column(some, "id").to_pylist() == ["a", "d"]
    assert numbers_of(some).tolist() == [0, 3]
    assert texts_of(where(rows, np.array([False, True, True, False])), "id") == ["b", "c"]
    assert [block.to_pydict() for block in blocks(some, ["text"], 1)] == [{"text": ["one"]}, {"text": ["vier"]}]


@pytest.mark.parametrize("chosen", [[0, 1, 2, 3], [2, 0], [1, 1, 3]])
def test_columns_of_ones_own_stand_beside_those_on_disk(rows: Dataset, chosen: list[int]) -> None:
    own = with_columns(select(rows, chosen), {"text": strings(map(str, chosen)), "n": pa.array(chosen)})
    assert own.column_names == ["id", "text", "n"]
    assert own.to_dict() == {
        "id": [ROWS["id"][n] for n in chosen], "text": [str(n) for n in chosen], "n": chosen
    }  # fmt: skip
    assert joined([own, own]).to_dict() == {name: [*own[name], *own[name]] for name in own.column_names}


def test_a_function_is_asked_once_for_every_value() -> None:
    asked = []

    def double(value: str | None) -> str:
        asked.append(value)
        return 2 * (value or "-")

    cells = pa.chunked_array([pa.array(["a", "b"]), pa.array(["b", None, "a"])])
    assert by_value(cells, double).to_pylist() == ["aa", "bb", "bb", "--", "aa"]
    assert asked == ["a", "b", None]
    assert codes(cells)[0].tolist() == [0, 1, 1, 2, 0]
    assert first_of_each(np.array([2, 0, 2, 1, 0])).tolist() == [True, True, False, True, False]


def test_a_table_that_is_not_to_be_kept_leaves_no_file(rows: Dataset, tmp_path: Path) -> None:
    assert not any(Path(file["filename"]).exists() for file in rows.cache_files)
    kept = on_disk([pa.table(ROWS)], rows.data.schema, tmp_path / "kept.arrow")
    assert kept.to_dict() == rows.to_dict() == ROWS
    assert (tmp_path / "kept.arrow").exists()


BEYOND = 2**62 + 1


@pytest.mark.parametrize(
    "kind",
    [pa.date32(), pa.date64(), pa.timestamp("s"), pa.time64("us"), pa.duration("s")],
    ids=str,
)
def test_times_beyond_the_calendar_are_their_numbers(kind: pa.DataType) -> None:
    stored, number = (pa.int32(), 2**30) if kind.bit_width == 32 else (pa.int64(), BEYOND)
    cells = pa.array([number, None], stored).view(kind)
    assert values_of(cells) == [number, None]
    assert values_of(pa.array([["a"], None])) == [["a"], None]
    inside = pa.StructArray.from_arrays([pa.ListArray.from_arrays([0, 2], cells)], ["when"])
    assert values_of(pa.chunked_array([inside])) == [{"when": [number, None]}]
