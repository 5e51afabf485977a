"""A Kafka message transport for trio programs.

app = App("orders", broker="kafka://127.0.0.1:9092")
orders = app.topic("orders")

async with app:
    await orders.send(key=b"k", value=b"v")
    async for message in orders:
        print(message.tp, message.offset, message.value)
"""

from transport.app import App
from transport.codecs import JSON, Codec, DecodeError, NotLoaded
from transport.committing.transactions import TransactionManager
from transport.configuration import Configuration
from transport.consuming.conductor import Conductor
from transport.consuming.consumer import Consumer
from transport.consuming.fetcher import Fetcher
from transport.consuming.stuck import Stuck, StuckCase
from transport.delivering.channel import Batches, Messages
from transport.delivering.partitions import Partitions, PartitionStream
from transport.drivers.memory import MemoryBroker
from transport.drivers.settings import ClientSettings
from transport.errors import (
    AppClosed,
    AuthorizationFailed,
    BrokerUnavailable,
    BufferFull,
    ClientClosed,
    CommitFailed,
    CommitRefused,
    CommitUnknown,
    CommitWithdrawn,
    DeliveryFailed,
    DeliveryTimeout,
    Fenced,
    HandlerTimeout,
    MessageTooLarge,
    NotAssigned,
    NotInTransaction,
    OffsetOutOfRange,
    RebalanceInProgress,
    RegistryUnavailable,
    TransactionAborted,
    TransactionFailed,
    TransportError,
    UnknownTopic,
    UnreadableBatch,
)
from transport.fetched import Fetched, FetchedRecords
from transport.handling.handler import Handler
from transport.handling.retry import Retry
from transport.inspecting.health import Health
from transport.inspecting.partition_state import PartitionState
from transport.inspecting.status import HandlerStatus, PartitionStatus, Status
from transport.message import Batch, Message
from transport.monitoring.monitor import Monitor, Snapshot, Timing
from transport.monitoring.sensor import Sensor
from transport.monitoring.sensors import Sensors
from transport.parts import Transport
from transport.producing.buffer import ProducerBuffer
from transport.producing.delivery import Delivery, ManyDeliveries
from transport.producing.pending import FutureMessage, PendingMessage
from transport.producing.producer import Producer
from transport.scheduler import RoundRobin, SchedulingStrategy
from transport.settings import Settings, SettingsArgs
from transport.topic import MessageArgs, Topic
from transport.types import TP, GroupMetadata, OffsetAndTimestamp, Record, RecordMetadata

# The package and the documentation get the version from here.
__version__ = "0.1.0"

__all__ = [
    "JSON",
    "TP",
    "App",
    "AppClosed",
    "AuthorizationFailed",
    "Batch",
    "Batches",
    "BrokerUnavailable",
    "BufferFull",
    "ClientClosed",
    "ClientSettings",
    "Codec",
    "CommitFailed",
    "CommitRefused",
    "CommitUnknown",
    "CommitWithdrawn",
    "Conductor",
    "Configuration",
    "Consumer",
    "DecodeError",
    "Delivery",
    "DeliveryFailed",
    "DeliveryTimeout",
    "Fenced",
    "Fetched",
    "FetchedRecords",
    "Fetcher",
    "FutureMessage",
    "GroupMetadata",
    "Handler",
    "HandlerStatus",
    "HandlerTimeout",
    "Health",
    "ManyDeliveries",
    "MemoryBroker",
    "Message",
    "MessageArgs",
    "MessageTooLarge",
    "Messages",
    "Monitor",
    "NotAssigned",
    "NotInTransaction",
    "NotLoaded",
    "OffsetAndTimestamp",
    "OffsetOutOfRange",
    "PartitionState",
    "PartitionStatus",
    "PartitionStream",
    "Partitions",
    "PendingMessage",
    "Producer",
    "ProducerBuffer",
    "RebalanceInProgress",
    "Record",
    "RecordMetadata",
    "RegistryUnavailable",
    "Retry",
    "RoundRobin",
    "SchedulingStrategy",
    "Sensor",
    "Sensors",
    "Settings",
    "SettingsArgs",
    "Snapshot",
    "Status",
    "Stuck",
    "StuckCase",
    "Timing",
    "Topic",
    "TransactionAborted",
    "TransactionFailed",
    "TransactionManager",
    "Transport",
    "TransportError",
    "UnknownTopic",
    "UnreadableBatch",
]
