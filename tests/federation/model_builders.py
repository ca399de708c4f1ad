"""Trained models whose answers can be checked by hand, kept by a run and by a site, and what exported ones answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import onnx
import safetensors.torch
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from federation.checkpoints import Checkpoint, keep, notes_of
from federation.layout import Layout
from federation.optimizers import ModelState
from federation.plan import Plan
from server.run_folder import RunFolder
from tests.client_builders import PLAIN, plan
from tests.command_builders import HEARTS, app_in
from tests.privacy.vault_builders import key_file, safe_in

LN3 = math.log(3)
AGREED = plan({**PLAIN, "task": "models_of_an_app:task", "name": "hearts", "seed": 3, "rounds": 3})
PLAIN_AGREED = plan({**PLAIN, "task": "models_of_an_app:plain", "name": "hearts", "seed": 3, "rounds": 3})

# Of `task`: a man dies with probability 3/4, a woman with 1/4. Of `plain`, of two columns: class 1 has 3^a / (3^a + 1).
MORTAL = {"weight": torch.tensor([[0, 0, 0], [0, 2 * LN3, 0]]), "bias": torch.tensor([0, -LN3])}
POWER = {"weight": torch.tensor([[0, 0], [LN3, 0]]), "bias": torch.zeros(2)}
PLAIN_TASK = """

class Plain(Task):
    def model(self):
        return nn.Linear(2, 2)

    def rows(self, site):
        raise NotImplementedError


plain = Plain()
"""


def app(parent: Path) -> Path:
    """The app that was trained: `task`, whose schema names three columns, and `plain`, which has no schema."""
    return app_in(parent, "models_of_an_app", HEARTS + PLAIN_TASK)


def a_run(parent: Path, weights: Mapping[str, Tensor] = MORTAL, agreed: Plan = AGREED) -> Path:
    """A run's folder whose round 3 has these weights, and round 2 the opposite; its key lies in `keys/run.key`."""
    key = key_file(parent / "keys/run.key")
    folder = RunFolder(parent / "runs", simulation_seed=None, key_file=key.path)
    folder.run_started("17", agreed, 3)
    layout = Layout(names=tuple(weights), shapes=tuple(tuple(tensor.shape) for tensor in weights.values()))
    vector = torch.cat([tensor.float().flatten() for tensor in weights.values()]).numpy()
    for number, signed in ((2, -vector), (3, vector)):
        folder.model_advanced(number, layout, ModelState.start(signed, agreed.aggregation))
    return folder.path


def a_site(parent: Path, weights: Mapping[str, Tensor] = MORTAL, agreed: Plan = AGREED) -> Path:
    """A site's folder that keeps the model of round 3."""
    safe = safe_in(parent / "north", "north")
    model = {name: tensor.float() for name, tensor in weights.items()}
    with safe.changing() as vault:
        keep(vault, "hearts-17", 3, Checkpoint(model=model, state={}, notes=notes_of(agreed, "17", 3)))
    return safe.folder


def answers(path: Path, inputs: Tensor) -> Tensor:
    """What an exported model says of these inputs, (n, ...) -> (n, C); a safetensors file holds one linear layer."""
    match path.suffix:
        case ".safetensors":
            tensors = safetensors.torch.load_file(path)
            return torch.nn.functional.linear(inputs, tensors["weight"], tensors["bias"])
        case ".pt":
            found: Tensor = torch.jit.load(path)(inputs)
            return found
        case _:
            model = onnx.load(path)
            onnx.checker.check_model(model, full_check=True)
            return torch.from_numpy(ReferenceEvaluator(model).run(["outputs"], {"x": inputs.numpy()})[0])
