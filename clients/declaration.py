"""How many units of privacy a site publicly declares: never counted from its data, because that number is private."""

from __future__ import annotations

from federation.plan import Plan
from federation.site_info import SiteInfo
from privacy.errors import OrderRefused


def declared_rows(info: SiteInfo, plan: Plan) -> int:
    """What a report says of the site's size: its public number of rows, 0 where there is none.

    Under unit client nothing is said: how much data a client holds is what the plan hides.
    """
    if plan.privacy.unit == "client":
        return 0
    return info.declared_rows or plan.data.rows_per_site or 0


def declared_units(info: SiteInfo, plan: Plan) -> int:
    """The public, rough number of training units (records or groups) that sums of gradients are divided by.

    Raises:
        OrderRefused: neither the site nor the plan states it.
    """
    if plan.privacy.unit == "group":
        declared, what, key = info.declared_units or plan.data.units_per_site, "groups", "units"
    else:
        declared, what, key = info.declared_rows or plan.data.rows_per_site, "rows", "rows"
    if declared is None:
        raise OrderRefused(
            f"{info.name} declares no number of {what} and the plan states none, but gradients are divided by a "
            f"public number: set data.{key}_per_site in the plan, or declared-{key} in the site's node config"
        )
    return declared
