"""A deployment whose sites hold nothing but sealed records: imported by command, trained on Flower's own runtime."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from federation_processes import FederationProcesses
from sklearn.datasets import load_wine

from clients.data import DataSet
from federation.model_files import read_model
from federation.new_app import write_app
from federation.reading import app_config, read_plan
from federation.rows import split
from federation.task import load_task
from privacy.entries import Reserved
from privacy.passphrases import from_file, nobody_to_ask
from privacy.safe import Safe
from simulations.simulate import Options, public_size, simulate

pytestmark = [
    pytest.mark.e2e,
    # Opacus hooks modules whose inputs need no gradient, which is what torch warns of.
    pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning"),
]

SEED = 7
FEDSEAL = Path(sys.executable).parent / "fedseal"
MARKED = "1013.0625"  # in each table's first row, and nowhere else


@pytest.fixture(scope="module")
def wines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("apps") / "wines"
    write_app(folder)
    project = folder / "pyproject.toml"
    text = project.read_text(encoding="utf-8").replace("rounds = 15", f"rounds = 2\nseed = {SEED}")
    project.write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def vineyards(wines: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FederationProcesses]:
    """Two sites: one locked by a key file, the other by a passphrase in a file of its engineer's."""
    folder = tmp_path_factory.mktemp("federation")
    passphrase = folder / "passphrase"
    passphrase.touch(mode=0o600)
    passphrase.write_text("four random words here\n", encoding="utf-8")
    plan = read_plan(app_config(wines))
    sites: list[dict[str, str | int]] = []
    for index, lock in enumerate(["--key-file ../keys/0.key", f"--passphrase-fd 0 < {passphrase}"]):
        name = f"vineyard-{index}"
        write_wines(folder / f"{name}.csv", index)
        unlock = lock if "passphrase" in lock else ""
        home = folder / "safes"
        home.mkdir(exist_ok=True)
        fedseal(home, f"site init {name} {lock}")
        fedseal(home, f"site import ../{name}.csv --as wines --label-column class --site {name} {unlock}")
        train, _ = split(opened(home / name, passphrase).read(), plan.data.test_share, plan.seed)
        sites.append(
            {
                "site-name": name,
                "partition-id": index,
                "num-partitions": 2,
                "declared-rows": public_size(len(train)),
                "simulation-seed": SEED,
                "safe": str(home / name),
                "data-set": "wines",
                **({"passphrase-file": str(passphrase)} if unlock else {}),
            }
        )
        assert files_that_hold_a_record(folder) == [folder / f"{name}.csv"]  # the search finds what can be read
        (folder / f"{name}.csv").unlink()
    with FederationProcesses(folder=folder / "processes", sites=sites) as running:
        yield running
        print(running.log_tails())


def test_sealed_sites_train_the_model_that_one_process_trains_on_the_same_records(
    vineyards: FederationProcesses, wines: Path, tmp_path: Path
) -> None:
    safes, passphrase = vineyards.folder.parent / "safes", vineyards.folder.parent / "passphrase"
    records = [opened(safes / f"vineyard-{index}", passphrase).read() for index in range(2)]
    plan = read_plan(app_config(wines))
    expected = simulate(load_task(plan.task, wines), plan, records, Options(out=tmp_path, export=True)).folder
    assert expected is not None

    run = vineyards.submit(wines, seconds=400)

    assert run.status == "finished:completed"
    wanted = read_model(expected, nobody_to_ask).tensors
    trained = read_model(vineyards.runs / "latest", nobody_to_ask).tensors
    assert trained.keys() == wanted.keys()
    for name, tensor in wanted.items():
        np.testing.assert_allclose(trained[name], tensor, rtol=0, atol=1e-6, err_msg=name)
    for index in range(2):
        assert counted(safes / f"vineyard-{index}", passphrase) == [1, 2]
    kept = read_model(safes / "vineyard-1", from_file(passphrase))
    assert kept.notes["round"] == "2"
    assert not files_that_hold_a_record(vineyards.folder.parent)


def opened(folder: Path, passphrase: Path) -> DataSet:
    return DataSet.open(Safe.unlock(folder, from_file(passphrase)).vault, "wines")


def counted(folder: Path, passphrase: Path) -> list[int]:
    """The rounds that a site's ledger counts for its data set."""
    account = opened(folder, passphrase).facts.fingerprint
    entries = Safe.unlock(folder, from_file(passphrase)).ledger().entries()
    return [entry.round for entry in entries if isinstance(entry, Reserved) and entry.account == account]


def fedseal(folder: Path, command: str) -> None:
    """Types a command into a shell."""
    done = subprocess.run(f"{FEDSEAL} {command}", shell=True, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def write_wines(path: Path, index: int) -> None:
    """Every other wine, the first of them marked."""
    inputs, labels = load_wine(return_X_y=True)
    inputs[index, 12] = float(MARKED)
    lines = [",".join([*(f"c{column}" for column in range(inputs.shape[1])), "class"])]
    lines += [",".join(map(str, [*values, label])) for values, label in zip(inputs, labels, strict=True)][index::2]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def files_that_hold_a_record(folder: Path) -> list[Path]:
    """Files in which the marked cell can be read, as text or as a number among its neighbours."""
    inputs, _ = load_wine(return_X_y=True)
    marks = [MARKED.encode()]
    for index in range(2):
        cells = [*inputs[index, 10:12], float(MARKED)]
        marks += [np.array(cells, dtype).tobytes() for dtype in (np.float32, np.float64)]
    found = (path for path in folder.rglob("*") if path.is_file())
    return [path for path in found if any(mark in path.read_bytes() for mark in marks)]
