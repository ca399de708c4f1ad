# %% [markdown]
# # A private federation in Python
# Run this file as it is, or cell by cell in an editor that knows `# %%`. It needs no network and no data of yours.

# %% One task: what is trained
import torch
from torch import nn

from federation import Rows, SiteInfo, Task, read_plan
from federation.preparation import bound_norm
from simulations.simulate import simulate


class TwoMoons(Task):
    """Two classes in the plane; every site makes its own records."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))

    def rows(self, site: SiteInfo) -> Rows:
        generator = torch.Generator().manual_seed(site.index)
        labels = torch.randint(0, 2, (200,), generator=generator)
        angle = torch.rand(200, generator=generator) * torch.pi
        side = 1 - 2 * labels
        points = torch.stack([side * angle.cos() + labels, side * angle.sin() + labels / 2], dim=1)
        return Rows(fields={"x": points + 0.1 * torch.randn(200, 2, generator=generator), "y": labels})

    def prepare(self, rows: Rows) -> Rows:
        return rows.replace(x=bound_norm(rows["x"], bound=3.0))


# %% One plan: what is promised, and how it is trained
plan = read_plan(
    {
        "name": "two-moons",
        "rounds": 25,
        "seed": 1,
        "privacy.epsilon": 4.0,
        "privacy.delta": 1e-3,
        "training.steps": 4,
        "training.learning_rate": 0.5,
        "aggregation.optimizer": "fedavgm",
        "aggregation.momentum": 0.5,
    }
)

# %% Four sites
result = simulate(TwoMoons(), plan, sites=4)
print("ended:", result.run.ended)
for row in result.rows()[::8]:
    print(f"round {row['round']}: accuracy {row['accuracy']:.1%}, epsilon {row['epsilon_median']:.2f}")

# %% What each site spent
for site in result.sites[:3]:
    print(f"{site.site}: {site.rounds} rounds, epsilon {site.epsilon:.2f} of {plan.privacy.epsilon:g}")

# %% The model
point = torch.tensor([[0.0, 1.0]])
print("class of (0, 1):", int(result.model(point).argmax()))

# %% The same with a fortieth of the budget: what privacy costs in accuracy
smaller = plan.model_copy(update={"privacy": plan.privacy.model_copy(update={"epsilon": 0.1})})
worse = simulate(TwoMoons(), smaller, sites=4)
print(f"epsilon 4: {result.rows()[-1]['accuracy']:.1%}, epsilon 0.1: {worse.rows()[-1]['accuracy']:.1%}")
