"""What is counted. Labels come from small fixed sets; a user is never a label."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, generate_latest, start_http_server

REGISTRY: Final = CollectorRegistry()

_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_STALLS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)

EVENTS = Counter("memoryd_events", "Published events.", ["result"], registry=REGISTRY)
UNMAPPED = Counter("memoryd_events_unmapped", "Events of a type that becomes no memory.", registry=REGISTRY)
RECORDS = Counter("memoryd_records", "Records made durable.", registry=REGISTRY)
COMMITS = Histogram("memoryd_commit_seconds", "One durable commit.", buckets=_SECONDS, registry=REGISTRY)
APPENDS = Histogram("memoryd_append_seconds", "One group commit of the event log.", buckets=_SECONDS, registry=REGISTRY)
ACTIVATIONS = Histogram("memoryd_activation_seconds", "Opening one user.", buckets=_SECONDS, registry=REGISTRY)
RECALLS = Histogram(
    "memoryd_recall_duration_seconds", "One recall.", ["tier", "outcome"], buckets=_SECONDS, registry=REGISTRY
)
EMBEDS = Histogram("memoryd_embed_seconds", "One run of the encoder.", buckets=_SECONDS, registry=REGISTRY)
EMBEDDED = Counter("memoryd_texts_embedded", "Texts that went through the encoder.", registry=REGISTRY)
REMEMBERED = Counter("memoryd_texts_remembered", "Texts whose vector was still known.", registry=REGISTRY)
REQUESTS = Counter("memoryd_requests", "Requests by kind and outcome.", ["kind", "outcome"], registry=REGISTRY)
CONNECTIONS = Gauge("memoryd_connections", "Open client connections.", registry=REGISTRY)
SLOW_CONSUMERS = Counter("memoryd_slow_consumers", "Subscribers cut off for falling behind.", registry=REGISTRY)
PARKED = Counter("memoryd_parked", "Events put aside after repeated failures.", registry=REGISTRY)
RESTARTS = Counter("memoryd_restarts", "Actors started again after a crash.", registry=REGISTRY)
RESIDENTS = Gauge("memoryd_resident_users", "Users whose memory is open.", registry=REGISTRY)
RESIDENT_BYTES = Gauge("memoryd_resident_bytes", "Bytes held by open memories.", registry=REGISTRY)
LEARNED = Counter("memoryd_learning_runs", "Runs that were learned from.", registry=REGISTRY)
FITS = Counter("memoryd_learning_fits", "Fits of weights, by what came of them.", ["outcome"], registry=REGISTRY)
LAST_FIT = Enum(
    "memoryd_learning_last_fit",
    "What came of the last fit of anybody's weights.",
    states=["none", "accepted", "refused", "too few"],
    registry=REGISTRY,
)
GAIN = Gauge("memoryd_learning_gain_nats", "What the guard said of the last fit that it judged.", registry=REGISTRY)
GENERATIONS = Gauge("memoryd_learning_generations", "Generations of the weights of open memories.", registry=REGISTRY)
LAG = Gauge("memoryd_ingest_lag_events", "Stored events not yet committed.", registry=REGISTRY)
MAILBOX_DEPTH = Gauge("memoryd_mailbox_depth", "Messages waiting.", ["actor"], registry=REGISTRY)
MAILBOX_AGE = Gauge(
    "memoryd_mailbox_oldest_seconds", "Age of the oldest waiting message.", ["actor"], registry=REGISTRY
)
STALLS = Histogram("memoryd_loop_stall_seconds", "Lateness of the event loop.", buckets=_STALLS, registry=REGISTRY)


def text() -> str:
    """Return all metrics in Prometheus' text format."""
    return generate_latest(REGISTRY).decode()


def listen(port: int) -> None:
    """Serve the metrics over HTTP on the loopback address."""
    start_http_server(port, addr="127.0.0.1", registry=REGISTRY)
