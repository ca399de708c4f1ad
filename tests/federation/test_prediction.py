"""New rows through a model: each answer stands by its row's number; what does not fit the model is said in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor, nn

from federation import prediction
from federation.prediction import predictions, table_rows
from federation.preparation import drop_missing
from federation.rows import Rows
from federation.schema import Column, Schema
from privacy.errors import DataInvalid
from tests.client_builders import GivenTask
from tests.federation.model_builders import POWER
from tests.federation.table_builders import csv_file

HEADER = ["row", "predicted", "p(0)", "p(1)"]


class Power(GivenTask):
    """Of two columns: class 1 has 3^a / (3^a + 1), whatever b is."""

    def __init__(
        self, prepare: Callable[[Rows], Rows] = lambda rows: rows, last: Callable[[Tensor], Tensor] = lambda x: x
    ) -> None:
        super().__init__(lambda: nn.Sequential(linear(), Last(last)))
        self._prepare = prepare

    def prepare(self, rows: Rows) -> Rows:
        return self._prepare(rows)


class Last(nn.Module):
    """A function as a layer."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.forward = act


def linear() -> nn.Module:
    layer = nn.Linear(2, 2)
    layer.load_state_dict(POWER)
    return layer


def told(task: GivenTask, path: Path, label: str | None = None, columns: tuple[str, ...] | None = None) -> list[object]:
    """The lines of a table's predictions."""
    rows, numbers = table_rows(task, path, label, columns, labelled=False)
    return list(predictions(task, task.model(), rows, numbers))


def test_each_row_has_its_number_its_class_and_probabilities_that_are_known(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "a,b\n1,5\n\n-1,5\n,\n0,5\n2,5\n")
    assert told(Power(), path) == [
        HEADER,
        [2, "1", "0.2500", "0.7500"],
        [4, "0", "0.7500", "0.2500"],
        [6, "0", "0.5000", "0.5000"],
        [7, "1", "0.1000", "0.9000"],
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_batches_of_any_size_give_the_same_lines_under_one_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    path = csv_file(tmp_path, "a,b\n" + "".join(f"{place / 5},0\n" for place in range(7)))
    whole = told(Power(), path)
    monkeypatch.setattr(prediction, "_BATCH", size)
    assert told(Power(), path) == whole
    assert [line[0] for line in whole] == ["row", 2, 3, 4, 5, 6, 7, 8]


def test_probabilities_of_many_classes_sum_to_one(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "a,b\n" + "".join(f"{place / 7},{place % 5 - 2}\n" for place in range(50)))
    header, *lines = told(GivenTask(lambda: nn.Linear(2, 10)), path)
    assert header == ["row", "predicted", *(f"p({place})" for place in range(10))]
    for _, predicted, *chances in lines:
        numbers = [float(chance) for chance in chances]
        assert sum(numbers) == pytest.approx(1, abs=10 * 0.00005)
        assert numbers[int(predicted)] == max(numbers)


@pytest.mark.parametrize("answer", ["0", "", "NA", "unknown", "1.5"])
@pytest.mark.parametrize("schema", [None, Schema(columns=(), label=Column(name="y", upper=1))])
def test_a_column_of_answers_is_left_out_and_not_looked_at(tmp_path: Path, answer: str, schema: Schema | None) -> None:
    task = Power()
    task.schema = schema
    path = csv_file(tmp_path, f"a,y,b\n1,{answer},5\n")
    assert told(task, path, label="y") == [HEADER, [2, "1", "0.2500", "0.7500"]]
    assert told(task, path, label="y", columns=("a", "b")) == [HEADER, [2, "1", "0.2500", "0.7500"]]


def test_a_column_of_answers_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataInvalid, match="no column 'z'"):
        told(Power(), csv_file(tmp_path, "a,b\n1,5\n"), label="z")


@pytest.mark.parametrize("schema", [None, Schema(columns=(), label=Column(name="y"))])
def test_an_array_of_answers_beside_the_inputs_is_left_out(tmp_path: Path, schema: Schema | None) -> None:
    task = Power()
    task.schema = schema
    np.savez(tmp_path / "t.npz", table=np.array([[1, 5], [-1, 5]], dtype=np.float32), answers=np.array(["?", ""]))
    lines = told(task, tmp_path / "t.npz", label="answers")
    assert lines == [HEADER, [1, "1", "0.2500", "0.7500"], [2, "0", "0.7500", "0.2500"]]


def test_rows_that_prepare_drops_have_no_line_and_the_others_keep_their_numbers(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "a,b\n,5\n1,5\n2,\n-1,5\n")
    assert [line[0] for line in told(Power(drop_missing), path)] == ["row", 3, 5]
    assert told(Power(drop_missing), csv_file(tmp_path, "a,b\n,5\n")) == [HEADER]


def test_rows_that_are_dropped_without_saying_which_are_refused_and_else_counted(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "a,b\n,5\n1,5\n\n-1,5\n")
    with pytest.raises(DataInvalid, match="let it keep every field of its rows"):
        told(Power(lambda rows: Rows(fields={"x": drop_missing(rows)["x"]})), path)
    filled = told(Power(lambda rows: Rows(fields={"x": rows["x"].nan_to_num(2)})), path)
    assert [line[:2] for line in filled[1:]] == [[2, "1"], [3, "1"], [5, "0"]]


def test_a_model_of_one_number_gives_that_number(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "a,b\n1,5\n\n2,6\n")
    task = GivenTask(lambda: nn.Sequential(nn.Flatten(), Last(lambda x: x.sum(dim=1, keepdim=True))))
    assert told(task, path) == [["row", "value"], [2, 6.0], [4, 8.0]]


def test_a_model_of_other_outputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataInvalid, match=r"outputs of shape \(1, 2, 1\), not one line a row"):
        told(Power(last=lambda x: x[:, :, None]), csv_file(tmp_path, "a,b\n1,5\n"))


@pytest.mark.parametrize("content", ["a\n1\n", "a,b,c\n1,5,0\n"])
def test_a_table_of_another_width_than_the_models_is_refused_in_words(tmp_path: Path, content: str) -> None:
    width = content.index("\n") // 2 + 1
    with pytest.raises(DataInvalid, match=rf"x of shape \({width},\).*--columns"):
        told(Power(), csv_file(tmp_path, content))
    with pytest.raises(DataInvalid, match=rf"x of shape \({width},\).*--columns"):
        told(Power(lambda rows: rows.replace(x=rows["x"][:, [0, 1, 1, 7]])), csv_file(tmp_path, content))


def test_a_bad_cell_refuses_the_table_by_its_row_and_column(tmp_path: Path) -> None:
    with pytest.raises(DataInvalid) as raised:
        told(Power(), csv_file(tmp_path, "a,b\n1,5\n\n2,geheim4711\n"))
    assert str(raised.value).endswith("heart.csv: row 4, column 'b' is not a number")


def test_a_table_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataInvalid, match="has no records"):
        told(Power(), csv_file(tmp_path, "a,b\n"))


# Rows with their answers


def labelled(task: GivenTask, path: Path, label: str | None, columns: tuple[str, ...] | None = None) -> Rows:
    return table_rows(task, path, label, columns, labelled=True)[0]


def test_answers_are_read_from_the_named_column_or_the_schemas(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "a,y,b,z\n1,0,5,1\n")
    task = Power()
    with pytest.raises(DataInvalid, match="which column holds the right answers"):
        labelled(task, path, None)
    assert labelled(task, path, "z", ("b", "a"))["y"].tolist() == [1]
    task.schema = Schema(columns=(Column(name="b"), Column(name="a")), label=Column(name="y"))
    assert labelled(task, path, None)["y"].tolist() == [0]
    found = labelled(task, path, "z", ("z", "y"))  # the schema says what the inputs are
    assert (found["x"].tolist(), found["y"].tolist()) == ([[5, 1]], [1])


def test_images_are_labelled_by_their_folders_and_predicted_without(tmp_path: Path) -> None:
    for name, colour in (("cat/1.png", 0), ("dog/1.png", 1)):
        (tmp_path / "images" / name).parent.mkdir(parents=True)
        Image.new("L", (2, 1), colour).save(tmp_path / "images" / name)
    task = Power(lambda rows: rows.replace(x=rows["x"].flatten(1).float()))
    assert labelled(task, tmp_path / "images", None)["y"].tolist() == [0, 1]
    for label in (None, "folder"):
        lines = told(task, tmp_path / "images", label)
        assert lines == [HEADER, [1, "0", "0.5000", "0.5000"], [2, "1", "0.2500", "0.7500"]]
