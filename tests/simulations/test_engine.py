"""The in-process grid is a true Flower Grid, as isolated as a network and as lazy as its replies are pulled."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp.strategy import FedAvg

from simulations.engine import InProcessGrid

Answer = Callable[[Message, Context], RecordDict]


def federation(answer: Answer, nodes: int = 3, workers: int = 1) -> InProcessGrid:
    """A grid whose every node answers training orders with `answer`."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(answer(message, context), reply_to=message)

    return InProcessGrid(app, nodes, lambda index: {"index": index}, {"rounds": 1}, workers)


def content() -> RecordDict:
    """An order of all three kinds of records."""
    return RecordDict(
        {
            "arrays": ArrayRecord([np.array([1.0, 2.0], np.float32)]),
            "config": ConfigRecord({"steps": 1, "sizes": [1, 2]}),
            "metrics": MetricRecord({"losses": [0.5]}),
        }
    )


def ordered(grid: InProcessGrid, order: RecordDict) -> list[str]:
    """The ids of one message to every node, all with the same content object."""
    return list(grid.push_messages([Message(order, node, "train") for node in grid.get_node_ids()]))


def replies(grid: InProcessGrid, order: RecordDict) -> list[Message]:
    """What every node answers to `order`."""
    return list(grid.pull_messages(ordered(grid, order)))


def index(_: Message, context: Context) -> RecordDict:
    return RecordDict({"node": ConfigRecord({"index": context.node_config["index"]})})


def indices(found: list[Message]) -> list[object]:
    return [reply.content.config_records["node"]["index"] for reply in found]


def vandal(message: Message, context: Context) -> RecordDict:
    """Echoes what it received, then changes every container it was given."""
    received = message.content
    echo = RecordDict(
        {
            "data": ConfigRecord({"bytes": received.array_records["arrays"]["0"].data}),
            "sizes": ConfigRecord({"sizes": list(received.config_records["config"]["sizes"])}),
        }
    )
    received.array_records["arrays"]["0"].data = b"broken"
    received.config_records["config"]["sizes"].append(3)
    received.config_records["config"]["steps"] = 99
    received.metric_records["metrics"]["losses"].clear()
    received["more"] = ConfigRecord()
    message.metadata.dst_node_id = 7
    return echo


def test_a_client_that_changes_its_order_changes_no_other_clients() -> None:
    first, *others = replies(federation(vandal), content())
    assert all(reply.content == first.content for reply in others)
    assert first.content.config_records["sizes"]["sizes"] == [1, 2]


def test_a_client_that_changes_its_order_does_not_change_the_servers() -> None:
    grid, order = federation(vandal), content()
    messages = [Message(order, node, "train") for node in grid.get_node_ids()]
    list(grid.pull_messages(grid.push_messages(messages)))
    assert order == content()
    assert [message.metadata.dst_node_id for message in messages] == list(grid.get_node_ids())


def test_a_client_that_changes_its_reply_afterwards_does_not_change_what_arrived() -> None:
    kept: list[RecordDict] = []

    def keeper(message: Message, context: Context) -> RecordDict:
        kept.append(content())
        return kept[-1]

    arrived = replies(federation(keeper, nodes=1), content())
    kept[0].array_records["arrays"]["0"].data = b"broken"
    kept[0].config_records["config"]["sizes"].append(3)
    del kept[0]["metrics"]
    assert arrived[0].content == content()


def test_payload_bytes_are_shared_and_not_copied() -> None:
    grid, order = federation(lambda message, _: message.content, nodes=1), content()
    arrived = replies(grid, order)
    assert arrived[0].content.array_records["arrays"]["0"].data is order.array_records["arrays"]["0"].data


def test_an_exception_becomes_the_error_that_flower_makes_of_it() -> None:
    def failing(message: Message, context: Context) -> RecordDict:
        if context.node_config["index"] == 1:
            raise ValueError("no records")
        return index(message, context)

    first, broken, last = replies(federation(failing), content())
    assert broken.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION == 2
    assert broken.error.reason == "<class 'ValueError'>:<'no records'>"
    assert indices([first, last]) == [0, 2]


def test_an_unhandled_kind_of_message_is_an_error_and_not_a_crash() -> None:
    grid = federation(index, nodes=1)
    (reply,) = grid.send_and_receive([Message(content(), node, "evaluate") for node in grid.get_node_ids()])
    assert reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION


def test_a_node_that_is_not_there_is_unavailable() -> None:
    (reply,) = federation(index).send_and_receive([Message(content(), 5, "train")])
    assert reply.error.code == ErrorCode.NODE_UNAVAILABLE


def test_each_node_keeps_its_own_state_between_rounds() -> None:
    def counting(message: Message, context: Context) -> RecordDict:
        before = context.state.config_records.get("seen", ConfigRecord({"indices": []}))
        seen = [*before["indices"], context.node_config["index"]]
        context.state["seen"] = ConfigRecord({"indices": seen})
        return RecordDict({"seen": ConfigRecord({"indices": seen})})

    grid = federation(counting)
    replies(grid, content())
    second = replies(grid, content())
    assert [reply.content.config_records["seen"]["indices"] for reply in second] == [[0, 0], [1, 1], [2, 2]]


def test_each_node_sees_its_own_settings_and_the_runs() -> None:
    seen: list[tuple[int, int, object, object]] = []

    def noting(message: Message, context: Context) -> RecordDict:
        seen.append((context.run_id, context.node_id, context.node_config["index"], context.run_config["rounds"]))
        return RecordDict()

    grid = federation(noting)
    replies(grid, content())
    assert seen == [(grid.run.run_id, node, position, 1) for position, node in enumerate(grid.get_node_ids())]


def test_nothing_runs_before_its_reply_is_pulled() -> None:
    ran: list[object] = []

    def noting(message: Message, context: Context) -> RecordDict:
        ran.append(context.node_config["index"])
        return RecordDict()

    grid = federation(noting)
    pulled = iter(grid.pull_messages(ordered(grid, content())))
    assert ran == []
    next(pulled)
    assert ran == [0]
    next(pulled)
    assert ran == [0, 1]


@pytest.mark.parametrize("workers", [1, 2])
def test_replies_come_in_the_order_of_the_orders(workers: int) -> None:
    found = replies(federation(index, nodes=20, workers=workers), content())
    assert indices(found) == list(range(20))


def test_two_workers_answer_what_one_answers() -> None:
    def adding(message: Message, context: Context) -> RecordDict:
        (values,) = message.content.array_records["arrays"].to_numpy_ndarrays()
        return RecordDict({"arrays": ArrayRecord([values + np.float32(int(str(context.node_config["index"])))])})

    alone, together = (replies(federation(adding, nodes=20, workers=workers), content()) for workers in (1, 2))
    assert [reply.content for reply in together] == [reply.content for reply in alone]


def test_a_pull_that_was_given_up_is_taken_up_by_the_next() -> None:
    grid = federation(index)
    ids = ordered(grid, content())
    abandoned = iter(grid.pull_messages(ids))
    first = next(abandoned)
    assert indices([first, *grid.pull_messages(ids)]) == [0, 1, 2]


def test_a_reply_names_the_order_it_answers() -> None:
    grid = federation(index)
    ids = ordered(grid, content())
    found = list(grid.pull_messages(ids))
    assert [reply.metadata.reply_to_message_id for reply in found] == ids
    assert len({reply.metadata.message_id for reply in found}) == len(ids)


def test_flowers_own_fedavg_runs_on_the_grid() -> None:
    def adding(message: Message, context: Context) -> RecordDict:
        (values,) = message.content.array_records["arrays"].to_numpy_ndarrays()
        added = ArrayRecord([values + np.float32(int(str(context.node_config["index"])))])
        return RecordDict({"arrays": added, "metrics": MetricRecord({"num-examples": 1})})

    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=3, min_available_nodes=3)
    result = strategy.start(federation(adding), ArrayRecord([np.zeros(2, np.float32)]), num_rounds=2)
    (values,) = result.arrays.to_numpy_ndarrays()
    assert values.tolist() == [2.0, 2.0]  # two rounds of the mean of 0, 1 and 2
