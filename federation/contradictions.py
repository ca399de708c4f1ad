"""Settings that are right alone and wrong together: each refused with the reason and the remedy (DESIGN G7)."""

from __future__ import annotations

from federation.plan import Plan
from privacy.encryption_parameters import Encryption
from privacy.errors import PlanInvalid

_BITS_OF_MANY = 14  # leave the widest margin for noise


def refuse_contradictions(plan: Plan) -> None:
    """Passes a plan whose settings agree.

    Raises:
        PlanInvalid: two settings contradict each other, or together would make a claim false.
    """
    for says_no in (
        _delta_against_units,
        _group_against_physical_batch,
        _client_against_weights,
        _client_against_metrics,
        _metrics_without_privacy,
        _shares_against_updates,
        _robust_against_weights,
        _krum_against_quorum,
        _column_named,
        _rounds_per_site,
        _robust_against_encryption,
        _quorum_against_encryption,
        _quorum_against_sum,
        _ckks_against_server,
        _settings_without_ciphertexts,
    ):
        says_no(plan)


def refuse_loose_delta(plan: Plan, units: int) -> None:
    """Passes a private plan whose delta means something at a site of so many units (records, groups).

    Under unit client a site is one unit, and how many there are nobody here knows: every delta passes.

    Raises:
        PlanInvalid: delta times the number of units is one or more.
    """
    if plan.is_private and plan.privacy.unit != "client" and plan.privacy.delta * units >= 1:
        unit = plan.privacy.unit
        raise PlanInvalid(
            f"plan: privacy.delta is {plan.privacy.delta:g}, but a site holds about {units} {unit}s: a mechanism may "
            f"then publish a whole {unit} and still keep its promise; set privacy.delta below {0.1 / units:.1g}"
        )


def most_sites(plan: Plan) -> int | None:
    """How many sites' updates the plan's encryption adds without error; None: it does not encrypt."""
    return Encryption.of(plan.encryption.scheme, plan.encryption.bits).most_sites if plan.is_encrypted else None


def refuse_large_cohort(plan: Plan, sites: int) -> None:
    """Passes a cohort of so many sites, if their sum can be decrypted without error.

    Raises:
        PlanInvalid: the noise in the sum of so many ciphertexts could pass into the values.
    """
    most = most_sites(plan)
    if most is None or sites <= most:
        return
    scheme, bits, widest = plan.encryption.scheme, plan.encryption.bits, Encryption.of("bfv", _BITS_OF_MANY).most_sites
    how = f"encryption.bits = {bits}" if scheme == "bfv" else f"encryption.scheme = {scheme!r}"
    helps = scheme == "bfv" and bits != _BITS_OF_MANY and sites <= widest
    more = f"set encryption.bits to {_BITS_OF_MANY} (up to {widest:,} sites), or " if helps else ""
    raise PlanInvalid(
        f"plan: a round would add the updates of {sites:,} sites, but with {how} the sum of more than {most:,} may "
        f"decrypt wrong: {more}lower cohort.share, and cohort.quorum where it asks for more"
    )


def _robust_against_encryption(plan: Plan) -> None:
    if plan.is_encrypted and plan.aggregation.rule != "mean":
        raise PlanInvalid(
            f"plan: aggregation.rule {plan.aggregation.rule!r} compares single updates, which encryption.scheme "
            f"{plan.encryption.scheme!r} hides from the server: set aggregation.rule to 'mean', or, where every site's "
            "policy allows it, encryption.scheme to 'none'"
        )


def _quorum_against_encryption(plan: Plan) -> None:
    if plan.is_encrypted and plan.cohort.quorum < 3:
        raise PlanInvalid(
            f"plan: cohort.quorum is {plan.cohort.quorum}, but the members of an encrypted run read its sums, and "
            "from a sum of two each reads the other's update: set cohort.quorum to 3 or more, or "
            "encryption.scheme to 'none'"
        )


def _quorum_against_sum(plan: Plan) -> None:
    refuse_large_cohort(plan, plan.cohort.quorum)


def _ckks_against_server(plan: Plan) -> None:
    if plan.encryption.scheme == "ckks" and plan.release == "server":
        raise PlanInvalid(
            "plan: encryption.scheme is 'ckks' and release is 'server': decrypted CKKS sums carry an error that "
            "depends on the key, and the server, which holds the ciphertexts, could compute it from the model (Li and "
            "Micciancio 2021); set encryption.scheme to 'bfv', or release to 'sites'"
        )


def _settings_without_ciphertexts(plan: Plan) -> None:
    settings = plan.encryption
    if settings.scheme != "bfv" and settings.simulate == "sizes":
        raise PlanInvalid("plan: encryption.simulate is 'sizes', which is there for encryption.scheme 'bfv' only")
    if settings.scheme == "ckks" and (settings.range is not None or settings.rounding != "nearest"):
        raise PlanInvalid(
            "plan: encryption.scheme 'ckks' has no range and no rounding: leave encryption.range and "
            "encryption.rounding out, or set the scheme to 'bfv'"
        )


def _delta_against_units(plan: Plan) -> None:
    units = plan.data.units_per_site if plan.privacy.unit == "group" else plan.data.rows_per_site
    if units is not None:
        refuse_loose_delta(plan, units)


def _group_against_physical_batch(plan: Plan) -> None:
    most, batch = plan.privacy.records_per_group, plan.hardware.max_physical_batch
    if plan.privacy.unit == "group" and most > batch:
        raise PlanInvalid(
            f"plan: privacy.records_per_group is {most}, but hardware.max_physical_batch is {batch}: a group's "
            "gradients are summed before they are clipped, so its records must fit one physical batch; lower one or "
            "raise the other"
        )


def _client_against_weights(plan: Plan) -> None:
    if plan.privacy.unit == "client" and plan.aggregation.weights == "declared":
        raise PlanInvalid(
            "plan: privacy.unit is 'client', but aggregation.weights is 'declared': a report's weight would say how "
            "much data a client holds, which the plan hides; set aggregation.weights to 'uniform'"
        )


def _client_against_metrics(plan: Plan) -> None:
    if plan.privacy.unit == "client" and plan.metrics == "plain":
        raise PlanInvalid(
            "plan: privacy.unit is 'client', but metrics is 'plain': exact sums over a client's held-out records would "
            "tell of the very client whose data the plan hides; set metrics to 'private' or 'none'"
        )


def _metrics_without_privacy(plan: Plan) -> None:
    if plan.statistics == "private" and not plan.is_private:
        raise PlanInvalid(
            "plan: statistics is 'private', but privacy.unit is 'none': the updates give away what the noise would "
            "hide; set privacy.unit to what you protect, or let the task use public bounds"
        )
    if plan.metrics == "private" and not plan.is_private:
        raise PlanInvalid(
            "plan: metrics is 'private', but privacy.unit is 'none': the updates give away what the metrics would "
            "hide; set metrics to 'plain', or privacy.unit to what you protect"
        )


def _shares_against_updates(plan: Plan) -> None:
    privacy = plan.privacy
    both = plan.metrics == plan.statistics == "private" and privacy.metrics_noise_multiplier is None
    if both and privacy.metrics_share + privacy.statistics_share >= 1:
        raise PlanInvalid(
            f"plan: privacy.metrics_share {privacy.metrics_share:g} and privacy.statistics_share "
            f"{privacy.statistics_share:g} leave no epsilon for the updates: lower one of them"
        )


def _robust_against_weights(plan: Plan) -> None:
    if plan.aggregation.rule != "mean" and plan.aggregation.weights != "uniform":
        raise PlanInvalid(
            f"plan: aggregation.rule {plan.aggregation.rule!r} counts every site once, so aggregation.weights can't be "
            f"{plan.aggregation.weights!r}; set aggregation.weights to 'uniform', or aggregation.rule to 'mean'"
        )


def _krum_against_quorum(plan: Plan) -> None:
    needed = 2 * plan.aggregation.byzantine_sites + 3
    if plan.aggregation.rule == "krum" and plan.cohort.quorum < needed:
        raise PlanInvalid(
            f"plan: krum against {plan.aggregation.byzantine_sites} lying sites needs {needed} reports "
            f"(Blanchard et al. 2017), but cohort.quorum is {plan.cohort.quorum}: raise it to at least {needed}"
        )


def _column_named(plan: Plan) -> None:
    if plan.data.partition == "column" and not plan.data.partition_column:
        raise PlanInvalid(
            "plan: data.partition is 'column', so set data.partition_column to the field that names sites"
        )


def _rounds_per_site(plan: Plan) -> None:
    rounds = plan.privacy.rounds_per_site
    if rounds is not None and rounds > plan.rounds:
        raise PlanInvalid(
            f"plan: privacy.rounds_per_site is {rounds}, more than the {plan.rounds} planned rounds: noise would be "
            "calibrated for rounds that never come; lower it or leave it out"
        )
