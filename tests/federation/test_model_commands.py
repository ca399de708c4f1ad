"""`fedseal model` as a person meets it: a sealed model is opened on purpose, used on rows, and refused in words."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from federation.checkpoints import Checkpoint, keep, notes_of
from federation.layout import Layout
from federation.model_files import write_safetensors
from federation.optimizers import ModelState
from privacy.safe import Safe
from privacy.secret import Secret
from privacy.unlocking import PassphraseSettings
from server.run_folder import RunFolder
from tests.clients.data_builders import on_disk, pipe
from tests.command_builders import done, fedseal_says, refused
from tests.federation.model_builders import AGREED, MORTAL, PLAIN_AGREED, POWER, a_run, a_site, answers, app
from tests.federation.table_builders import csv_file
from tests.privacy.vault_builders import key_file

SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx", "torchscript": ".pt"}
PEOPLE = "outcome,age,sex,pressure\nalive,30,f,1\ndead,40,m,2\n\nalive,50,m,\nalive,60,m,3\n"
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # the tests load what was exported


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with an app in `app`, a table of people, and one of powers."""
    monkeypatch.chdir(tmp_path)
    app(tmp_path)
    csv_file(tmp_path, PEOPLE, "people.csv")
    csv_file(tmp_path, "a,y,b\n1,1,5\n1,0,5\n-1,0,5\n2,1,5\n", "powers.csv")
    return tmp_path


# export


@pytest.mark.parametrize("made", [a_run, a_site])
@pytest.mark.parametrize("kind", SUFFIXES)
def test_a_sealed_model_is_exported_where_it_says_and_answers_as_it_did(
    here: Path, made: Callable[[Path], Path], kind: str
) -> None:
    model = made(here)
    before = on_disk(model)
    shown = done("model", "export", model, "--to", kind, "--app", "app")
    target = f"hearts-round-3{SUFFIXES[kind]}"
    assert shown == f"exported round 3 of hearts in the clear to {target}\n"
    found = answers(here / target, torch.tensor([[30.0, 0, 1], [40, 1, 2], [50, 1, 3]])).softmax(dim=1)
    assert torch.allclose(found[:, 1], torch.tensor([0.25, 0.75, 0.75]), atol=1e-6)
    assert on_disk(model) == before


def test_safetensors_is_what_is_written_unless_another_format_is_named_and_needs_no_app(here: Path) -> None:
    a_run(here)
    assert "to new/m.safetensors" in done("model", "export", "runs/latest", "--out", "new/m.safetensors")
    assert answers(here / "new/m.safetensors", torch.zeros(1, 3)).softmax(dim=1)[0, 1].item() == pytest.approx(0.25)
    assert stat.S_IMODE((here / "new/m.safetensors").stat().st_mode) == 0o600


def test_an_exported_model_is_a_model_again(here: Path) -> None:
    run = a_run(here)
    done("model", "export", run, "--out", "m.safetensors")
    table = ("--data", "people.csv", "--app", "app")
    assert done("model", "predict", "m.safetensors", *table) == done("model", "predict", run, *table)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--to", "onnx", "--out", "m.pt"], "m.pt: a onnx file ends in .onnx"),
        (["--to", "torchscript", "--out", "m"], "m: a torchscript file ends in .pt"),
        (["--out", "m.onnx"], "m.onnx: a safetensors file ends in .safetensors"),
        (["--to", "onnx", "--input-shape", "4", "--app", "app"], "can't be exported with inputs of shape (4,)"),
        (["--to", "torchscript", "--input-shape", "1,28,28", "--app", "app"], "shape (1, 28, 28)"),
        (["--to", "onnx", "--input-shape", "3,", "--app", "app"], "write whole numbers from 1 with commas between"),
        (["--to", "onnx", "--input-shape", "0", "--app", "app"], "write whole numbers from 1 with commas between"),
        (["--to", "onnx", "--input-shape", "3x3", "--app", "app"], "write whole numbers from 1 with commas between"),
        (["--to", "onnx", "--app", "nowhere"], "task 'not_in_this_app:task'"),
        (["--round", "1"], "round 1 of hearts is not kept; kept are: 2, 3"),
        (["--round", "4"], "round 4 of hearts is not kept; kept are: 2, 3"),
    ],
)  # fmt: skip
def test_an_export_that_makes_no_sense_is_refused_and_writes_nothing(here: Path, options: list[str], told: str) -> None:
    elsewhere = AGREED.model_copy(update={"task": "not_in_this_app:task"})
    a_run(here, agreed=elsewhere if "nowhere" in options else AGREED)
    before = on_disk(here)
    assert told in refused("model", "export", "runs/latest", *options)
    assert on_disk(here).keys() - before.keys() <= {name for name in on_disk(here) if "__pycache__" in name}


def test_a_file_of_others_making_does_not_say_where_its_export_is_written(here: Path) -> None:
    (here / "inside").mkdir()
    for place, (name, number) in enumerate([("../up", "3"), ("up", "/../../up"), ("[/]", "[/b]"), ("\0", "\0")]):
        write_safetensors(here / "evil.safetensors", MORTAL, {"name": name, "round": number})
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(here / "inside")
            shown = done("model", "export", "../evil.safetensors")
        made = list((here / "inside").iterdir())
        assert len(made) == 1, place
        assert shown.endswith(f"to {made.pop().name}\n")
        next((here / "inside").iterdir()).unlink()
    assert {path.name for path in here.iterdir()} == {"app", "evil.safetensors", "inside", "people.csv", "powers.csv"}


# predict


def test_predicting_prints_a_line_a_row_with_the_schemas_classes(here: Path) -> None:
    assert done("model", "predict", a_run(here), "--data", "people.csv", "--app", "app").splitlines() == [
        "row,predicted,p(alive),p(dead)",
        "2,alive,0.7500,0.2500",
        "3,dead,0.2500,0.7500",
        "6,dead,0.2500,0.7500",
    ]


@pytest.mark.parametrize("options", [["--label-column", "y"], ["--columns", "a, b"]])
def test_without_a_schema_the_inputs_are_named_or_the_answers_left_out(here: Path, options: list[str]) -> None:
    run = a_run(here, POWER, PLAIN_AGREED)
    shown = done("model", "predict", run, "--data", "powers.csv", "--app", "app", *options).splitlines()
    assert shown[0] == "row,predicted,p(0),p(1)"
    assert shown[1:3] == ["2,1,0.2500,0.7500", "3,1,0.2500,0.7500"]
    assert shown[3:] == ["4,0,0.7500,0.2500", "5,1,0.1000,0.9000"]


def test_an_earlier_round_that_is_kept_can_be_asked(here: Path) -> None:
    run = a_run(here)
    shown = done("model", "predict", run, "--data", "people.csv", "--app", "app", "--round", "2")
    assert shown.splitlines()[1:3] == ["2,dead,0.2500,0.7500", "3,alive,0.7500,0.2500"]
    assert "kept are: 2, 3" in refused("model", "predict", run, "--data", "people.csv", "--app", "app", "--round", "1")


def test_predictions_are_written_where_out_says_and_counted(here: Path) -> None:
    arguments = ("model", "predict", a_site(here), "--data", "people.csv", "--app", "app")
    printed = done(*arguments)
    assert done(*arguments, "--out", "p.csv") == "wrote 3 predictions to p.csv\n"  # one of four has a missing cell
    assert (here / "p.csv").read_text() == printed
    assert stat.S_IMODE((here / "p.csv").stat().st_mode) == 0o600
    assert "No such file or directory" in refused(*arguments, "--out", "nowhere/p.csv")


@pytest.mark.parametrize("read", ["people.csv", "north"])
def test_predictions_never_replace_what_is_read(here: Path, read: str) -> None:
    arguments = ("model", "predict", a_site(here), "--data", "people.csv", "--app", "app")
    before = (here / "people.csv").read_bytes()
    assert f"{read} is what is read" in refused(*arguments, "--out", read)
    assert (here / "people.csv").read_bytes() == before


@pytest.mark.parametrize("command", ["predict", "evaluate"])
@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("alive,200,f,1", "row 3, column 'age' is above the schema's upper bound 120"),
        ("alive,30,geheim4711,1", "row 3, column 'sex' is not one of the schema's categories"),
        ("alive,30,f,1,9", "row 3 has 5 cells, the header has 4"),
    ],
)
def test_a_bad_cell_refuses_the_table_and_is_not_shown(here: Path, command: str, row: str, told: str) -> None:
    csv_file(here, f"outcome,age,sex,pressure\nalive,30,f,1\n{row}\n", "bad.csv")
    options = ["--out", "p.csv"] if command == "predict" else []
    said = refused("model", command, a_run(here), "--data", "bad.csv", "--app", "app", *options)
    assert said == f"bad.csv: {told}\n"
    assert not (here / "p.csv").exists()


# evaluate


def test_evaluations_are_the_figures_that_one_computes_by_hand(here: Path) -> None:
    run = a_run(here, POWER, PLAIN_AGREED)
    shown = done("model", "evaluate", run, "--data", "powers.csv", "--app", "app", "--label-column", "y")
    # the right answer has 3/4, 1/4, 3/4, 9/10; of four pairs of scores three are in order and one is equal
    loss = -(np.log(3 / 4) + np.log(1 / 4) + np.log(3 / 4) + np.log(9 / 10)) / 4
    assert shown.splitlines() == ["accuracy 0.75", "auroc 0.875", f"loss {loss:.4g}", "4 of 4 rows, exact figures"]


def test_evaluations_tell_how_many_rows_they_are_of(here: Path) -> None:
    shown = done("model", "evaluate", a_run(here), "--data", "people.csv", "--app", "app")
    assert shown.splitlines()[0] == f"accuracy {2 / 3:.4g}"
    assert shown.splitlines()[-1] == "3 of 4 rows, exact figures"


@pytest.mark.parametrize(
    ("content", "options", "told"),
    [
        ("a,b,y\n1,5,1\n", [], "which column holds the right answers? Name it with --label-column"),
        ("a,b,y\n1,5,7\n", ["--label-column", "y"], "one of the model's classes"),
        ("a,b,y\n1,5,-1\n", ["--label-column", "y"], "one of the model's classes"),
        ("a,y\n1,1\n", ["--label-column", "y"], "x of shape (1,)"),
        ("a,b,c,y\n1,5,5,1\n", ["--label-column", "y"], "x of shape (3,)"),
    ],
)
def test_rows_that_do_not_fit_the_model_are_refused_in_words(
    here: Path, content: str, options: list[str], told: str
) -> None:
    csv_file(here, content, "other.csv")
    run = a_run(here, POWER, PLAIN_AGREED)
    assert told in refused("model", "evaluate", run, "--data", "other.csv", "--app", "app", *options)


# All commands


COMMANDS = [["export"], ["predict", "--data", "people.csv", "--app", "app"], ["evaluate", "--data", "people.csv"]]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_run_whose_key_was_thrown_away_is_refused_and_says_why(here: Path, command: list[str]) -> None:
    folder = RunFolder(here / "runs", simulation_seed=1)
    folder.run_started("17", AGREED, 3)
    layout = Layout(names=("weight", "bias"), shapes=((2, 3), (2,)))
    folder.model_advanced(1, layout, ModelState.start(np.ones(8, dtype=np.float32), AGREED.aggregation))
    said = refused("model", command[0], "runs/latest", *command[1:])
    assert "holds no model that can be opened" in said
    assert "a run without --key-file threw its key away" in said


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_another_key_opens_no_model(here: Path, command: list[str]) -> None:
    a_run(here)
    (here / "keys/run.key").write_bytes(key_file(here / "keys/other.key").path.read_bytes())
    said = refused("model", command[0], "runs/latest", *command[1:])
    assert "run.key" in said
    assert said.count("\n") == 1
    assert not list(here.glob("*.safetensors"))


def test_a_passphrase_is_read_from_a_descriptor_and_another_opens_no_model(here: Path) -> None:
    right, wrong = b"four random words here", b"other words, more of them"
    safe = Safe.create(here / "north", "north", PassphraseSettings(), lambda: Secret(right))
    with safe.changing() as vault:
        weights, notes = {name: tensor.float() for name, tensor in MORTAL.items()}, notes_of(AGREED, "17", 3)
        keep(vault, "hearts-17", 3, Checkpoint(model=weights, state={}, notes=notes))
    table = ("--data", "people.csv", "--app", "app")
    with pipe(wrong) as number:
        assert "the passphrase is wrong" in refused("model", "predict", "north", *table, "--passphrase-fd", str(number))
    with pipe(right) as number:
        assert "2,alive," in done("model", "predict", "north", *table, "--passphrase-fd", str(number))
    assert "nobody is there to type it" in refused("model", "predict", "north", *table)


def test_a_model_of_another_task_is_refused(here: Path) -> None:
    run = a_run(here, POWER, AGREED)
    for command in (["predict", "--data", "people.csv"], ["export", "--to", "torchscript"]):
        assert "it is another task's" in refused("model", command[0], run, *command[1:], "--app", "app")


@pytest.mark.parametrize(
    "arguments",
    [
        ["export"],
        ["export", "runs/latest", "--to", "pickle"],
        ["export", "runs/latest", "--round", "0"],
        ["predict", "runs/latest"],
        ["evaluate", "runs/latest", "--data"],
        ["evaluate", "runs/latest", "--data", "people.csv", "--round", "two"],
    ],
)
def test_wrong_usage_exits_with_two(here: Path, arguments: list[str]) -> None:
    a_run(here)
    assert fedseal_says("model", *arguments).status == 2
