"""A deployment as three vineyards run it: sealed records, certificates by command, an encrypted run on Flower.

While the run goes on, the memory of every process of the server is searched for the run's secret, the sites' updates
and their model; after it, the server's disk and logs are.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from disk_search import hits_below
from federation_processes import FederationProcesses
from memory_search import needles_in_memory
from sklearn.datasets import load_wine

from clients.data import DataSet
from clients.run_memory import SealedMemory
from clients.site import Site
from federation.layout import Layout
from federation.model_files import read_model
from federation.new_app import write_app
from federation.orders import Address, Order
from federation.plan import Plan
from federation.reading import app_config, read_plan
from federation.rows import split
from federation.run_secret import sum_key
from federation.seeding import initial_vector
from federation.site_info import SiteInfo
from federation.task import Task, load_task
from privacy.certified import certificate_of
from privacy.entries import Reserved
from privacy.passphrases import from_file, nobody_to_ask
from privacy.safe import Safe
from simulations.simulate import Options, simulate
from simulations.simulated_federation import public_size
from tests.client_builders import ledger_of

pytestmark = [
    pytest.mark.e2e,
    # Opacus hooks modules whose inputs need no gradient, which is what torch warns of.
    pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning"),
]

SEED = 7
SITES = 3
ROUNDS = 2
FEDSEAL = Path(sys.executable).parent / "fedseal"
MARKED = "1013.0625"  # in each table's first row, and nowhere else
FRAGMENT = 12  # bytes: three neighbours of a float32 vector, which nothing holds by chance
DEADLINE_SECONDS = 300


@pytest.fixture(scope="module")
def wines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("apps") / "wines"
    write_app(folder)
    project = folder / "pyproject.toml"
    text = project.read_text(encoding="utf-8").replace("rounds = 15", f"rounds = {ROUNDS}\nseed = {SEED}")
    project.write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def plan(wines: Path) -> Plan:
    return read_plan(app_config(wines))


@pytest.fixture(scope="module")
def vineyards(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FederationProcesses]:
    """Three sites: one locked by a passphrase in a file of its engineer's, the others by key files."""
    folder = tmp_path_factory.mktemp("federation")
    passphrase = folder / "passphrase"
    passphrase.touch(mode=0o600)
    passphrase.write_text("four random words here\n", encoding="utf-8")
    home = folder / "safes"
    home.mkdir()
    shown = fedseal(home, "authority init authority --federation vineyards --key-file ../keys/authority.key")
    fingerprint = shown.rpartition("compare: ")[2].strip()
    sites: list[dict[str, str | int]] = []
    for index in range(SITES):
        name = f"vineyard-{index}"
        locked = f"--passphrase-fd 0 < {passphrase}" if index == 1 else ""
        write_wines(folder / f"{name}.csv", index)
        fedseal(home, f"site init {name} {locked or f'--key-file ../keys/{index}.key'}")
        fedseal(home, f"site import ../{name}.csv --as wines --label-column class --site {name} {locked}")
        certified(home, "site", name, fingerprint, locked)
        train, _ = split(opened(home / name, passphrase).read(), plan.data.test_share, plan.seed)
        sites.append(
            {
                "site-name": name,
                "partition-id": index,
                "num-partitions": SITES,
                "declared-rows": public_size(len(train)),
                "simulation-seed": SEED,
                "safe": str(home / name),
                "data-set": "wines",
                **({"passphrase-file": str(passphrase)} if locked else {}),
            }
        )
        assert files_that_hold_a_record(folder) == [folder / f"{name}.csv"]  # the search finds what can be read
        (folder / f"{name}.csv").unlink()
    fedseal(home, "server init server --key-file ../keys/server.key")
    certified(home, "server", "server", fingerprint, "")
    with FederationProcesses(folder=folder / "processes", sites=sites, server=home / "server") as running:
        yield running
        print(running.log_tails())


def test_three_sites_train_together_and_the_server_holds_neither_key_nor_update_nor_model(
    vineyards: FederationProcesses, wines: Path, plan: Plan, tmp_path: Path
) -> None:
    safes, passphrase = vineyards.folder.parent / "safes", vineyards.folder.parent / "passphrase"
    task = load_task(plan.task, wines)
    records = [opened(safes / f"vineyard-{index}", passphrase).read() for index in range(SITES)]
    expected = simulate(task, plan, records, Options(out=tmp_path, export=True)).folder
    assert expected is not None
    first = initial_vector(task, plan.seed)[1]
    secrets = {f"update {index}": update(vineyards, task, plan, index, first) for index in range(SITES)}
    known_to_all = {"the first model": first.tobytes()[:FRAGMENT]}

    with vineyards.submitted(wines, seconds=400) as finished:
        after_one_round(vineyards)
        secrets |= of_the_run(safes / "vineyard-0", task, plan)
        during = needles_in_memory(vineyards.server_processes(), {**secrets, **known_to_all})
        run = finished()

    assert run.status == "finished:completed"
    assert during == set(known_to_all)  # the search finds what the server knows, and nothing else is there
    wanted = read_model(expected, nobody_to_ask).tensors
    secrets |= {f"{name} at the end": tensor.numpy().tobytes()[:FRAGMENT] for name, tensor in wanted.items()}
    trained = [read_model(safes / f"vineyard-{index}", from_file(passphrase)) for index in range(SITES)]
    for model in trained:
        assert model.notes["round"] == str(ROUNDS)
        assert model.tensors.keys() == wanted.keys()
        for name, tensor in wanted.items():
            np.testing.assert_allclose(model.tensors[name], tensor, rtol=0, atol=2e-3, err_msg=name)
            assert model.tensors[name].numpy().tobytes() == trained[0].tensors[name].numpy().tobytes()
    for index in range(SITES):
        assert counted(safes / f"vineyard-{index}", passphrase) == list(range(1, ROUNDS + 1))
    assert hits_below(vineyards.folder, secrets) == []  # runs, homes and logs of server and sites alike
    assert not files_that_hold_a_record(vineyards.folder.parent)
    rounds = (vineyards.runs / "latest" / "rounds.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["encryption"]["same_model"] for line in rounds] == [SITES] * ROUNDS


def after_one_round(vineyards: FederationProcesses) -> None:
    """Waits until the server has noted the first round: the second is under way."""
    rounds = vineyards.runs / "latest" / "rounds.jsonl"
    until = time.monotonic() + DEADLINE_SECONDS
    while not (rounds.exists() and rounds.read_bytes().count(b"\n")):
        assert time.monotonic() < until, f"no round is over\n{vineyards.log_tails()}"
        time.sleep(0.1)


def update(vineyards: FederationProcesses, task: Task, plan: Plan, index: int, first: np.ndarray) -> bytes:
    """Some neighbouring values of the update that a site makes of the first model, computed here as it does there."""
    info = SiteInfo.from_node_config(vineyards.sites[index], plan)
    passphrase = vineyards.folder.parent / "passphrase"
    data = opened(vineyards.folder.parent / "safes" / f"vineyard-{index}", passphrase)
    site = Site(task=task, info=info, plan=plan, ledger=ledger_of(info.name), data=data)
    address = Address(run="1", round=1, plan=plan.digest, layout=Layout.of(task.model()).digest)
    made = site.train(Order(address=address, cohort=SITES, vector=first)).update
    return made.tobytes()[:FRAGMENT]


def of_the_run(folder: Path, task: Task, plan: Plan) -> dict[str, bytes]:
    """The secret that the sites share, keys that come of it, and the model after a round, from a site's safe."""
    safe = Safe.unlock(folder, nobody_to_ask)
    (label,) = [label for label in safe.vault.list("run") if label.name.startswith("member.")]
    _, trust = certificate_of(safe)
    layout, _ = initial_vector(task, plan.seed)
    memory = SealedMemory(safe=safe, trust=trust, layout=layout)
    known = memory.read(label.name.removeprefix("member.run-"))
    assert known is not None
    assert known.joined is not None
    assert known.model.round >= 1
    secret, membership = known.joined.secret, known.joined.membership.digest
    found = {"the secret": secret.reveal(), "the secret in hex": secret.reveal().hex().encode()}
    for number in (1, 2):
        found[f"key of round {number}"] = sum_key(secret, membership, number, "update").reveal()[:32]
    return found | {f"model of round {known.model.round}": known.model.state.vector.tobytes()[:FRAGMENT]}


def certified(home: Path, role: str, name: str, fingerprint: str, locked: str) -> None:
    """What an engineer and the authority type, after they have compared fingerprints."""
    fedseal(home, f"{role} request --out {name}.request --{role} {name} {locked}")
    fedseal(home, f"authority sign {name}.request --role {role} --out {name}.certificate --authority authority")
    asked = f"{role} certify {name}.certificate --authority-fingerprint '{fingerprint}' --{role} {name} {locked}"
    assert f"{name} is a {role} of vineyards" in fedseal(home, asked)


def opened(folder: Path, passphrase: Path) -> DataSet:
    return DataSet.open(Safe.unlock(folder, from_file(passphrase)).vault, "wines")


def counted(folder: Path, passphrase: Path) -> list[int]:
    """The rounds that a site's ledger counts for its data set."""
    account = opened(folder, passphrase).facts.fingerprint
    entries = Safe.unlock(folder, from_file(passphrase)).ledger().entries()
    return [entry.round for entry in entries if isinstance(entry, Reserved) and entry.account == account]


def fedseal(folder: Path, command: str) -> str:
    """Types a command into a shell; returns what it printed, on one line."""
    done = subprocess.run(f"{FEDSEAL} {command}", shell=True, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return re.sub(r"\s+", " ", done.stdout)


def write_wines(path: Path, index: int) -> None:
    """Every third wine, the first of them marked."""
    inputs, labels = load_wine(return_X_y=True)
    inputs[index, 12] = float(MARKED)
    lines = [",".join([*(f"c{column}" for column in range(inputs.shape[1])), "class"])]
    lines += [",".join(map(str, [*values, label])) for values, label in zip(inputs, labels, strict=True)][index::SITES]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def files_that_hold_a_record(folder: Path) -> list[Path]:
    """Files in which the marked cell can be read, as text or as a number among its neighbours."""
    inputs, _ = load_wine(return_X_y=True)
    marks = [MARKED.encode()]
    for index in range(SITES):
        cells = [*inputs[index, 10:12], float(MARKED)]
        marks += [np.array(cells, dtype).tobytes() for dtype in (np.float32, np.float64)]
    found = (path for path in folder.rglob("*") if path.is_file())
    return [path for path in found if any(mark in path.read_bytes() for mark in marks)]
