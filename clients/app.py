"""Flower's ClientApp of a site: messages in, messages out; every failure becomes a refusal that holds no data.

`app` is what Flower loads in deployments and simulations alike.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from clients.data import DataSet
from clients.kept_model import model_keeper
from clients.site import MODELS, Site
from federation.layout import Layout
from federation.messages import read_order, write_refusal, write_report, write_sums
from federation.orders import Order, Refusal
from federation.reading import read_plan
from federation.site_info import SiteInfo
from federation.task import load_task
from privacy.errors import (
    DataInvalid,
    FedSealError,
    KeyRefused,
    LedgerCorrupt,
    LedgerRolledBack,
    ObjectDamaged,
    ObjectMissing,
    OrderRefused,
    StorageBusy,
    StorageFailed,
)
from privacy.passphrases import from_file, nobody_to_ask
from privacy.process import forbid_core_dumps
from privacy.safe import Safe

_LOG = logging.getLogger(__name__)


def client_app(site_of: Callable[[Context], Site], log: logging.Logger = _LOG) -> ClientApp:
    """A ClientApp that answers for the site that `site_of` finds in the context."""
    made = ClientApp()

    @made.train()
    def train(message: Message, context: Context) -> Message:
        return _answered(message, context, lambda site, order: write_report(site.train(order)))

    @made.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return _answered(message, context, lambda site, order: write_sums(site.evaluate(order)))

    @made.query()
    def query(message: Message, context: Context) -> Message:
        return _answered(message, context, lambda site, order: write_sums(site.release_statistics(order)))

    def _answered(message: Message, context: Context, answer: Callable[[Site, Order], RecordDict]) -> Message:
        name = str(context.node_config.get("site-name", context.node_id))
        try:
            site = site_of(context)
            name = site.info.name
            order = read_order(message.content, Layout.of(MODELS.of(site.task, site.plan)))
            content = answer(site, order)
        except (DataInvalid, KeyRefused, ObjectDamaged, ObjectMissing, StorageFailed) as error:
            # They name the site's own files, columns and keys, which the server need not know.
            log.warning("refused site=%s error=%s reason=%s", name, type(error).__name__, error)
            reason = "the site's records can't be used; the details are in the site's own log"
            content = write_refusal(Refusal(site=name, error="DataInvalid", reason=reason))
        except (LedgerCorrupt, LedgerRolledBack, StorageBusy) as error:
            log.error("refused site=%s error=%s reason=%s", name, type(error).__name__, error)
            reason = "the site's ledger can't be relied on; the details are in the site's own log"
            content = write_refusal(Refusal(site=name, error=type(error).__name__, reason=reason))
        except FedSealError as error:
            log.info("refused site=%s error=%s reason=%s", name, type(error).__name__, error)
            content = write_refusal(Refusal(site=name, error=type(error).__name__, reason=error.told))
        except Exception:
            # Flower would send the error's text to the server, and a text, even its type, can tell of a record.
            log.exception("failed site=%s", name)
            reason = "the site failed; the details are in its own log"
            content = write_refusal(Refusal(site=name, error="SiteFailed", reason=reason))
        return Message(content, reply_to=message)

    return made


def site_from_context(context: Context) -> Site:
    """The site that Flower's run config (the plan) and node config (the site's own settings) describe."""
    plan_items = tuple(sorted(context.run_config.items()))
    node_items = tuple(sorted(context.node_config.items()))
    return _site(plan_items, node_items)


@lru_cache(maxsize=64)
def _site(plan_items: tuple[tuple[str, object], ...], node_items: tuple[tuple[str, object], ...]) -> Site:
    forbid_core_dumps()
    plan = read_plan(dict(plan_items))  # type: ignore[arg-type]
    info = SiteInfo.from_node_config(dict(node_items), plan)  # type: ignore[arg-type]
    safe = unlocked(info)
    data = DataSet.open(safe.vault, info.data_set) if info.data_set is not None else None
    return Site(
        task=load_task(plan.task), info=info, plan=plan, ledger=safe.ledger(), data=data, keep=model_keeper(safe)
    )


def unlocked(info: SiteInfo) -> Safe:
    """The site's safe.

    Raises:
        OrderRefused: the node config names none, so that nothing could be counted.
        KeyRefused: it does not unlock.
    """
    if info.safe_folder is None:
        raise OrderRefused(
            "this site keeps no ledger, so it can't count what it spends: make a safe with `fedseal site init DIR` and "
            "name it in the SuperNode's --node-config, as safe"
        )
    where = from_file(info.passphrase_file) if info.passphrase_file else nobody_to_ask
    return Safe.unlock(info.safe_folder, where)


app = client_app(site_from_context, logging.getLogger("flwr.fedseal"))  # Flower shows what is below its own logger
