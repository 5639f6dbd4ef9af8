"""The table of messages: each row comes back as it was sent, and what fits none is one sentence."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_crawl_otel.link import messages
from helix_crawl_otel.link.messages import FROM_SUPERVISOR, FROM_WORKER, BadMessage, Message, pack, unpack
from helix_crawl_otel.policy.model import Action, ActionKind, MemoryReading, Outcome, ShardStatus, Verdict

SETTINGS = messages.WorkerSettings("hashing", "cpu", 4, None, 0, ["clock:rate=10"], 1, "cuda:0")
ASSIGNMENT = messages.Assignment("a", "a.db", 3, source="src", limits={"g": 2}, quarantine={"h": "why"}, is_wary=True)
ACTION = Action(
    7, ActionKind.RECYCLE, "a", "cuda:0", "because", {"rate": 1.5, "streak": 8, "of": "card", "unknown": None}
)
STATUS = ShardStatus(Verdict.CRAWLING, 1.0, None, 0.1, 8, 2, True, 0.99)

SAID: tuple[Message, ...] = (
    messages.Hello(messages.VERSION, 4711, "3.11.9", "0.1"),
    messages.StartWorker("cpu", "demote"),
    messages.Memory("cuda:0", MemoryReading(1, 2, 3, None, 4, 5), "custom", up=True),
    messages.ReportError("hook", "LookupError: mine"),
    messages.LastWords("the device fails", is_device=True),
    messages.OpenShard(1, "straße 文", "cuda:0", [ActionKind.RECYCLE], can_leave=True),
    messages.MoveShard("a", "cpu"),
    messages.CloseShard("a", "done"),
    messages.StartBatch(1, "a", "cuda:0", 64, 4000.5, 0.25, "g1", 3100.0),
    messages.StartBatch(2, "a", "cuda:0", 64.0, None, None, None),
    messages.FinishBatch(1, 1, 4.0),
    messages.AbandonBatch(2),
    messages.RecordBatch(2, "a", "cuda:0", 64, 4.0, 7),
    messages.IgnoreBatch("a", "work", "nan"),
    messages.Boundary("a", "cuda:0", 0.1, 64, 1000),
    messages.Boundary("a", "cuda:0", 0.1, 64, 1000, 4096.5),
    messages.Boundary("a", "cuda:0", None, None, None),
    messages.Acknowledge(7, Outcome.APPLIED, "12 MiB freed"),
    messages.AskStatus(3, "a"),
    messages.LoadStart("hashing", "cpu"),
    messages.LoadEnd("hashing", "cpu", 0.5),
    messages.LoadEnd("hashing", "cpu", 0.5, "too few"),
    messages.IngestProgress("a", 1, 2),
    messages.IngestEnd(
        "a", 3, 2, 1, 1, [("b.png", "picture", "it is one")], [("c.txt", "cp1252")], [("file", "unreadable")], 1
    ),
    messages.Encoding("a", "cuda:0", 100),
    messages.Encoding("a", "cuda:0", 100, 7, 4096.5),
    messages.NextBatch("a", "g1", 4),
    messages.QuarantineGene("a", "g1", "a/one.txt", "Once upon", "it dies"),
    messages.ShardDone("a"),
    messages.ShardFailed("a", "corrupt", is_corrupt=True),
    messages.PassOnShard("a", "out of memory", lacks_memory=True, is_loading=False),
    messages.CannotStart("no such model"),
)

ANSWERED: tuple[Message, ...] = (
    messages.Welcome(messages.VERSION, "a", 5.0, 25.0, messages.BuildTask(SETTINGS, ASSIGNMENT)),
    messages.Welcome(messages.VERSION, None, 5.0, 1.0, None),
    messages.ShardOpened(1, demote=False),
    messages.StatusTold(3, STATUS),
    messages.Judged(1),
    messages.GiveAction(ACTION),
    messages.VoidAction(7),
    messages.Pause(),
    messages.GiveShard(ASSIGNMENT),
    messages.Leave(),
)


def test_no_row_is_left_out_and_none_is_called_as_another() -> None:
    """Neither here nor in the table."""
    assert {type(message) for message in SAID} == set(FROM_WORKER)
    assert {type(message) for message in ANSWERED} == set(FROM_SUPERVISOR)
    names = [row.NAME for row in (*FROM_WORKER, *FROM_SUPERVISOR)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "message", [pytest.param(message, id=f"{n}-{message.NAME}") for n, message in enumerate((*SAID, *ANSWERED))]
)
def test_a_message_comes_back_as_it_was_sent(message: Message) -> None:
    """Through JSON, equal and of the same types: 64 genes are no 64.0."""
    table = FROM_WORKER if type(message) in FROM_WORKER else FROM_SUPERVISOR
    came = unpack(table, json.loads(json.dumps(pack(message), allow_nan=False)))
    assert came == message
    assert json.dumps(pack(came)) == json.dumps(pack(message))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"type": "weather", "is": "fine"}, "a message is called 'weather'; accepted: hello, start_worker, "),
        ({"type": "x" * 5000}, "a message is called 'xxx"),
        ({"type": "judged", "end": 1}, "a message is called 'judged'"),  # it is the other one's
        (
            {"type": "close_shard", "shard": "a", "state": "fine"},
            "state is 'fine'; accepted: done, paused, ",
        ),
        ({"type": "ignore_batch", "shard": "a", "problem": "size", "given": "1"}, "accepted: genes, seconds, work"),
        ({"type": "shard_done"}, "ShardDone is {}; accepted: an object with shard"),
        ({"type": "shard_done", "shard": 5}, "ShardDone.shard is 5; accepted: str"),
        ({"type": "finish_batch", "end": 1, "batch": True, "seconds": 1.0}, "FinishBatch.batch is True; accepted: int"),
        ({"type": "finish_batch", "end": 1, "batch": 1, "seconds": float("nan")}, "accepted: a finite number"),
        ({"type": "finish_batch", "end": 1, "batch": 1, "seconds": 10**400}, "accepted: a finite number"),
        ({**pack(SAID[8]), "genes": "64"}, "StartBatch.genes is '64'; accepted: "),
        ({**pack(SAID[8]), "genes": [1] * 9999}, "StartBatch.genes is [1, 1, 1"),
        ({**pack(SAID[5]), "can_take": ["FLY"]}, "OpenShard.can_take[0] is 'FLY'; accepted: one of ['DETECT', "),
        (
            {
                "type": "memory",
                "device": "d",
                "source": "s",
                "up": True,
                "reading": {"used_bytes": -1, "limit_bytes": 1},
            },
            "accepted: an object with",
        ),
        ({**pack(SAID[2]), "reading": {**pack(SAID[2])["reading"], "used_bytes": -1}}, "accepted: 0 or more bytes"),
    ],
)
def test_what_fits_no_row_is_refused_in_one_sentence(content: dict[str, Any], why: str) -> None:
    """With what came and what is accepted, however much came."""
    with pytest.raises(BadMessage) as refused:
        unpack(FROM_WORKER, content)
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 800


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from((*SAID, *ANSWERED)), st.data())
def test_whatever_stands_in_a_field_is_taken_or_refused(message: Message, data: st.DataObject) -> None:
    """No other error comes of it."""
    table = FROM_WORKER if type(message) in FROM_WORKER else FROM_SUPERVISOR
    content = pack(message)
    for name in list(content)[1:]:
        if data.draw(st.booleans()):
            content[name] = data.draw(JSON)
    with suppress(BadMessage):
        assert type(unpack(table, content)) is type(message)
