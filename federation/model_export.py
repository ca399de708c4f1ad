"""A model for other programs: safetensors, TorchScript or ONNX, written in the clear on purpose.

ONNX needs the optional extra (`pip install 'fedseal[onnx]'`). TorchScript and ONNX follow one made-up input through the
model, so they need its shape.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from federation.model_files import StoredModel, write_safetensors
from federation.task import Task
from privacy import files
from privacy.errors import DataInvalid

SUFFIXES = {"safetensors": ".safetensors", "torchscript": ".pt", "onnx": ".onnx"}


def export_model(stored: StoredModel, task: Callable[[], Task], target: Path, shape: tuple[int, ...] | None) -> None:
    """Writes the model in the format that the target's ending names.

    task:  gives the model's task; asked only where the format needs the model itself
    shape: of one record's input, without the batch dimension; None: that of the first linear layer

    Raises:
        DataInvalid: the format is unknown, the shape is needed or wrong, or the model can't be followed.
        StorageFailed: the disk refused; nothing is left.
    """
    if target.suffix == SUFFIXES["safetensors"]:
        write_safetensors(target, stored.tensors, stored.notes)
        return
    model = stored.module(task())
    shape = shape or _first_linear(model)
    try:
        with _quiet(), torch.no_grad():
            example = torch.zeros(2, *shape)
            model(example)  # a wrong shape is found here, before an exporter makes much of it
            content = _WRITERS[target.suffix](model, example)
    except ImportError:
        raise DataInvalid("to write ONNX: pip install 'fedseal[onnx]'") from None
    except DataInvalid:
        raise
    except Exception as error:
        raise DataInvalid(
            f"the model can't be exported with inputs of shape {shape} ({type(error).__name__}): "
            "name the right shape with --input-shape, or export safetensors"
        ) from None
    files.make_folder(target.parent)
    files.replace(target, content)


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn of their own future, and log at length."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _torchscript(model: nn.Module, example: Tensor) -> bytes:
    rng = torch.Generator().manual_seed(0)
    others = [(torch.randn(count, *example.shape[1:], generator=rng),) for count in (1, 3)]
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(model, example, check_inputs=others), buffer)  # raises where they are led elsewhere
    return buffer.getvalue()


def _onnx(model: nn.Module, example: Tensor) -> bytes:
    program = torch.onnx.export(
        model,
        (example,),
        input_names=["x"],
        output_names=["outputs"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None, "dynamo gives a program"
    if not program.model_proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        raise DataInvalid("the model can't be exported to ONNX: it would take two records only; export safetensors")
    content: bytes = program.model_proto.SerializeToString()
    return content


def _first_linear(model: nn.Module) -> tuple[int, ...]:
    """What the model takes, where its first layer with parameters says so."""
    first = next((module for module in model.modules() if any(True for _ in module.parameters(recurse=False))), None)
    if isinstance(first, nn.Linear):
        return (first.in_features,)
    raise DataInvalid(
        "the shape of one input is needed: --input-shape 1,28,28 for an image, --input-shape 30 for 30 columns"
    )


_WRITERS: dict[str, Callable[[nn.Module, Tensor], bytes]] = {".pt": _torchscript, ".onnx": _onnx}
