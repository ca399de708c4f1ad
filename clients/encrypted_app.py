"""What an encrypted site answers to each order of the server."""

from __future__ import annotations

from flwr.app import RecordDict

from clients.encrypted_site import EncryptedSite
from federation.encrypted_messages import read_order
from federation.encrypted_orders import (
    Action,
    Draw,
    EncryptedOrder,
    Enrol,
    HandOver,
    Join,
    Receive,
    Release,
    Take,
    Work,
)
from federation.encrypted_replies import (
    write_confirmation,
    write_enrolment,
    write_handover,
    write_model,
    write_report,
    write_secrets,
)
from federation.messages import write_sums


def answered(site: EncryptedSite, action: Action, content: RecordDict) -> RecordDict:
    """The site's reply to an order that a certified server signed.

    Raises:
        FedSealError: the site refuses.
    """
    order = read_order(content, action, site.member.layout)
    site.member.refuse_stranger(order)
    match order.body:
        case Enrol():
            return write_enrolment(site.member.enrol(order))
        case Draw() as body:
            return write_secrets(site.member.draw(order, body))
        case Join() as body:
            return write_confirmation(site.join(order, body))
        case Work() as body:
            return _worked(site, order, body)
        case Take() as body:
            return write_confirmation(site.take(order, body))
        case HandOver() as body:
            return write_handover(site.hand_over(order, body))
        case Receive() as body:
            return write_confirmation(site.receive(order, body))
        case Release() as body:
            return write_model(site.release(order, body))


def _worked(site: EncryptedSite, order: EncryptedOrder, body: Work) -> RecordDict:
    if order.action == "train":
        return write_report(site.train(order, body))
    if order.action == "statistics":
        return write_report(site.release_statistics(order, body))
    if site.member.plan.metrics == "plain":
        return write_sums(site.evaluate_plainly(order, body))
    return write_report(site.evaluate(order, body))
