"""Flower's ClientApp of a site: messages in, messages out; every failure becomes a refusal that holds no data.

`app` is what Flower loads in deployments and simulations alike.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from clients import encrypted_app
from clients.data import DataSet
from clients.encrypted_site import EncryptedSite
from clients.kept_model import model_keeper
from clients.member import Member
from clients.run_memory import SealedMemory
from clients.site import MODELS, Site
from federation.credentials import Credentials
from federation.encrypted_orders import Action
from federation.layout import Layout
from federation.messages import read_order, write_report, write_sums
from federation.orders import Refusal
from federation.reading import read_plan
from federation.seeding import initial_vector
from federation.shared_model import SharedModel
from federation.site_info import SiteInfo
from federation.task import load_task
from federation.wire import write_refusal
from privacy.certified import certificate_of
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
_BETWEEN: tuple[Action, ...] = ("enrol", "draw", "join", "take", "hand_over", "receive", "release")


def client_app(site_of: Callable[[Context], Site | EncryptedSite], log: logging.Logger = _LOG) -> ClientApp:
    """A ClientApp that answers for the site that `site_of` finds in the context, in the clear or encrypted."""
    made = ClientApp()

    def answer(action: Action) -> Callable[[Message, Context], Message]:
        return lambda message, context: _answered(message, context, action)

    made.train()(answer("train"))
    made.evaluate()(answer("evaluate"))
    made.query()(answer("statistics"))
    for action in _BETWEEN:
        made.query(action)(answer(action))

    def _answered(message: Message, context: Context, action: Action) -> Message:
        name = str(context.node_config.get("site-name", context.node_id))
        try:
            site = site_of(context)
            name = site.name
            content = (
                encrypted_app.answered(site, action, message.content)
                if isinstance(site, EncryptedSite)
                else _in_the_clear(site, action, message.content)
            )
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


def _in_the_clear(site: Site, action: Action, content: RecordDict) -> RecordDict:
    order = read_order(content, Layout.of(MODELS.of(site.task, site.plan)))
    match action:
        case "train":
            return write_report(site.train(order))
        case "evaluate":
            return write_sums(site.evaluate(order))
        case "statistics":
            return write_sums(site.release_statistics(order))
        case _:
            raise OrderRefused(f"the plan sends updates in the clear, so that there is nothing to {action}")


def site_from_context(context: Context) -> Site | EncryptedSite:
    """The site that Flower's run config (the plan) and node config (the site's own settings) describe."""
    plan_items = tuple(sorted(context.run_config.items()))
    node_items = tuple(sorted(context.node_config.items()))
    return _site(plan_items, node_items)


@lru_cache(maxsize=64)
def _site(
    plan_items: tuple[tuple[str, object], ...], node_items: tuple[tuple[str, object], ...]
) -> Site | EncryptedSite:
    forbid_core_dumps()
    plan = read_plan(dict(plan_items))  # type: ignore[arg-type]
    info = SiteInfo.from_node_config(dict(node_items), plan)  # type: ignore[arg-type]
    safe = unlocked(info)
    data = DataSet.open(safe.vault, info.data_set) if info.data_set is not None else None
    site = Site(task=load_task(plan.task), info=info, plan=plan, ledger=safe.ledger(), data=data)
    keep = model_keeper(safe)
    if not plan.is_encrypted:
        return replace(site, keep=keep)
    layout, vector = initial_vector(site.task, plan.seed)
    certificate, trust = certificate_of(safe)
    member = Member(
        credentials=Credentials(identity=safe.identity(), certificate=certificate, trust=trust),
        memory=SealedMemory(safe=safe, trust=trust, layout=layout),
        info=info,
        plan=plan,
        layout=layout,
        first=SharedModel.start(vector, plan),
    )
    return EncryptedSite(site=site, member=member, keep=keep)


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
