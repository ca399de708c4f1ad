"""What is exported answers as the model does, for any number of records; what can't be exported leaves no file."""

from __future__ import annotations

import logging
import stat
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from torch import Tensor, nn

from federation.layout import Layout
from federation.model_export import SUFFIXES, export_model
from federation.model_files import StoredModel
from federation.task import Task
from privacy.errors import DataInvalid
from tests.client_builders import Build, GivenTask, convolution, dropping, perceptron
from tests.federation.model_builders import answers

FOLLOWED = [SUFFIXES["torchscript"], SUFFIXES["onnx"]]
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # the tests load what was exported


def stored(build: Build) -> tuple[StoredModel, Callable[[], Task], nn.Module]:
    """A trained model, the task that builds it again with other weights, and the model itself, which evaluates."""
    task = GivenTask(build)
    model = task.model()
    vector = torch.randn(Layout.of(model).length, generator=torch.Generator().manual_seed(5)).numpy()
    layout = Layout.of(model)
    layout.load(model, abs(vector))
    return StoredModel(tensors=layout.named(abs(vector)), notes={"seed": "0"}), lambda: task, model.eval()


def nobody_asked() -> NoReturn:
    pytest.fail("the task was asked for though the format does not need it")


def normed() -> nn.Module:
    """Running statistics and dropout, which evaluate otherwise than they train."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 3)
    )


class Turning(nn.Module):
    """Looks at the records of a batch before it decides: no recipe that follows one batch holds for another."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.last(inputs)
        return found if inputs.sum() == 0 else -found


class Counting(nn.Module):
    """Takes the length of its first batch for that of all."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.last(inputs)
        return found + torch.arange(len(inputs))[:, None]


@pytest.mark.parametrize("suffix", FOLLOWED)
@pytest.mark.parametrize(
    ("build", "shape", "given"),
    [(dropping, (6,), None), (normed, (1, 4, 4), (1, 4, 4))],
    ids=["its first layer says its shape", "images"],
)
def test_an_exported_model_answers_as_the_model_does_for_any_number_of_records(
    tmp_path: Path, suffix: str, build: Build, shape: tuple[int, ...], given: tuple[int, ...] | None
) -> None:
    kept, task, model = stored(build)
    export_model(kept, task, tmp_path / f"m{suffix}", given)
    for count in (1, 2, 5):
        inputs = torch.randn(count, *shape, generator=torch.Generator().manual_seed(count))
        found = answers(tmp_path / f"m{suffix}", inputs)
        assert torch.allclose(found, model(inputs), rtol=1e-5, atol=1e-5)
        assert found.std() > 0.1


def test_safetensors_asks_for_no_task_and_holds_the_tensors_as_they_are(tmp_path: Path) -> None:
    tensors = {"weight": torch.tensor([[1.5, -2.0]]), "bias": torch.tensor([0.25])}
    export_model(StoredModel(tensors=tensors, notes={}), nobody_asked, tmp_path / "m.safetensors", None)
    assert answers(tmp_path / "m.safetensors", torch.tensor([[2.0, 1.0]])).tolist() == [[1.25]]


@pytest.mark.parametrize("suffix", FOLLOWED)
@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (perceptron, (5,)),
        (perceptron, (1, 28, 28)),
        (convolution, (2, 5, 5)),
        (perceptron, (10**13,)),
        (perceptron, (2**62, 2**62)),
        (perceptron, (10**30,)),
    ],
    ids=["too few", "an image", "another image", "more than the memory", "more than there is", "no integer"],
)
def test_a_shape_that_the_model_does_not_take_is_refused_and_leaves_nothing(
    tmp_path: Path, suffix: str, build: Build, shape: tuple[int, ...]
) -> None:
    kept, task, _ = stored(build)
    with pytest.raises(DataInvalid, match="name the right shape with --input-shape"):
        export_model(kept, task, tmp_path / f"new/m{suffix}", shape)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", FOLLOWED)
def test_a_model_whose_first_layer_is_not_linear_needs_its_shape(tmp_path: Path, suffix: str) -> None:
    kept, task, _ = stored(convolution)
    with pytest.raises(DataInvalid, match="the shape of one input is needed: --input-shape 1,28,28"):
        export_model(kept, task, tmp_path / f"m{suffix}", None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", FOLLOWED)
@pytest.mark.parametrize("build", [Turning, Counting])
def test_a_model_that_answers_otherwise_for_another_batch_is_not_exported_as_if_it_did_not(
    tmp_path: Path, suffix: str, build: Build
) -> None:
    kept, task, _ = stored(build)
    with pytest.raises(DataInvalid, match="can't be exported"):
        export_model(kept, task, tmp_path / f"m{suffix}", (4,))
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_task_is_not_exported_as_this_ones(tmp_path: Path) -> None:
    kept, _, _ = stored(perceptron)
    with pytest.raises(DataInvalid, match="it is another task's"):
        export_model(kept, lambda: GivenTask(dropping), tmp_path / "m.pt", None)
    assert list(tmp_path.iterdir()) == []


def test_an_exported_model_is_readable_by_its_owner_only_and_replaces_an_older_one(tmp_path: Path) -> None:
    kept, task, model = stored(perceptron)
    target = tmp_path / "new/folder/m.pt"
    for _ in range(2):
        export_model(kept, task, target, None)
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
        assert stat.S_IMODE(target.parent.stat().st_mode) == 0o700
        target.chmod(0o644)
        assert [path.name for path in target.parent.iterdir()] == ["m.pt"]
    assert torch.allclose(answers(target, torch.ones(1, 6)), model(torch.ones(1, 6)))


@pytest.mark.parametrize("shape", [(6,), (5,)])
def test_logging_and_warnings_are_as_before_when_an_export_ends(tmp_path: Path, shape: tuple[int, ...]) -> None:
    kept, task, _ = stored(perceptron)
    before = logging.NOTSET, [*warnings.filters]
    try:
        export_model(kept, task, tmp_path / "m.pt", shape)
    except DataInvalid:
        assert shape == (5,)
    assert (logging.root.manager.disable, [*warnings.filters]) == before


def test_without_the_extra_for_onnx_its_name_is_said(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['onnxscript'] = None\n"
        "from pathlib import Path; from torch import nn\n"
        "from federation.model_export import export_model; from federation.model_files import StoredModel\n"
        "from tests.client_builders import GivenTask\n"
        "task = GivenTask(lambda: nn.Linear(2, 2)); tensors = task.model().state_dict()\n"
        "export_model(StoredModel(tensors=tensors, notes={}), lambda: task, Path(sys.argv[1]), None)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "m.onnx")]
    root = Path(__file__).parents[2]
    ran = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert "privacy.errors.DataInvalid: to write ONNX: pip install 'fedseal[onnx]'" in ran.stderr
    assert list(tmp_path.iterdir()) == []
