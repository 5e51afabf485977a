"""Settings of an app as keyword arguments, right and wrong."""

from __future__ import annotations

import ssl

from transport import TP, App, Monitor, RoundRobin, SettingsArgs
from transport.monitoring.tracing import Tracing

app = App(
    "orders",
    broker=["kafka://127.0.0.1:9092", "kafka://127.0.0.1:9093"],
    commit_interval=1,
    auto_offset_reset="latest",
    partitions={TP("orders", 0): None, TP("orders", 1): 5},
    scheduler=RoundRobin,
    monitor=Monitor(),
    tracing=Tracing(),
    transactions=None,
    acks="all",
    compression_type="zstd",
    ssl_context=ssl.create_default_context(),
    client_options={"client_rack": "r1"},
)

# A function that passes settings on has the same check.
shared: SettingsArgs = {"grace": 10.0, "linger": 0.0}
other = App("other", **shared)


class Quick(App):
    pass


quick = Quick("quick", grace=1.0)

App("orders", comit_interval=1.0)  # error: call-arg, reportCallIssue
App("orders", commit_interval="1")  # error: arg-type, reportArgumentType
App("orders", auto_offset_reset="newest")  # error: arg-type, reportArgumentType
App("orders", acks=2)  # error: arg-type, reportArgumentType
App("orders", transactions=True)  # error: arg-type, reportArgumentType
App("orders", monitor=print)  # error: arg-type, reportArgumentType
App("orders", tracing=True)  # error: arg-type, reportArgumentType
App("orders", buffer_size=0.5)  # error: arg-type, reportArgumentType
App("orders", group_id="orders")  # error: call-arg, reportCallIssue
misspelled: SettingsArgs = {"grase": 10.0}  # error: typeddict-unknown-key, reportAssignmentType
Quick("quick", grace=None)  # error: arg-type, reportArgumentType
