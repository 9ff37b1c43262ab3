"""Metrics in the form that Prometheus scrapes, under the real server's names."""

import asyncio
import urllib.error
import urllib.request
from collections.abc import AsyncIterator

import pytest
from prometheus_client.parser import text_string_to_metric_families
from temporalio.api.enums.v1 import WorkflowExecutionStatus

from gateway.metrics import MAX_CHILDREN, OVERFLOW, Registry
from gateway.metrics_endpoint import MetricsEndpoint
from gateway.service_metrics import ServiceMetrics

REQUEST = {"service_name": "frontend", "operation": "StartWorkflowExecution", "namespace": "default"}


def samples(registry: Registry) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = registry.render()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            # The parser adds this to counters that lack it.
            name = sample.name if sample.name in text else sample.name.removesuffix("_total")
            found[name, frozenset(sample.labels.items())] = sample.value
    return found


def value(registry: Registry, name: str, **labels: str) -> float:
    return samples(registry)[name, frozenset(labels.items())]


def test_a_histogram_counts_by_upper_bound() -> None:
    registry = Registry()
    histogram = registry.histogram("latency", "Seconds.", bounds=(0.1, 1.0)).child()
    for seconds in (0.05, 0.1, 0.5, 7.0):
        histogram.observe(seconds)
    assert value(registry, "latency_bucket", le="0.1") == 2
    assert value(registry, "latency_bucket", le="1") == 3
    assert value(registry, "latency_bucket", le="+Inf") == 4
    assert value(registry, "latency_count") == 4
    assert value(registry, "latency_sum") == pytest.approx(7.65)


def test_label_values_are_escaped() -> None:
    registry = Registry()
    registry.counter("odd", "A \\ and\na line.", ("queue",)).child('a"b\\c\nd').value += 1
    assert value(registry, "odd", queue='a"b\\c\nd') == 1


def test_label_values_without_end_share_one_child() -> None:
    registry = Registry()
    family = registry.counter("requests", "Requests.", ("namespace",))
    for number in range(MAX_CHILDREN + 10):
        family.child(f"n{number}").value += 1
    assert len(samples(registry)) == MAX_CHILDREN + 1
    assert value(registry, "requests", namespace=OVERFLOW) == 10


def test_a_name_is_taken_once() -> None:
    registry = Registry()
    registry.counter("requests", "Requests.")
    with pytest.raises(ValueError, match="requests"):
        registry.gauge("requests", "Requests.")


def test_requests_are_counted_under_the_real_servers_names() -> None:
    registry = Registry()
    metrics = ServiceMetrics(registry, "0.1.0")
    operation = metrics.operation("StartWorkflowExecution", "default")
    started = operation.begin()
    assert value(registry, "service_pending_requests", **REQUEST) == 1
    operation.fail("InvalidArgument", expected=True)
    operation.end(started)
    operation.end(operation.begin())
    assert value(registry, "service_requests", **REQUEST) == 2
    assert value(registry, "service_pending_requests", **REQUEST) == 0
    assert value(registry, "service_latency_count", **REQUEST) == 2
    typed = {**REQUEST, "error_type": "serviceerror_InvalidArgument"}
    assert value(registry, "service_error_with_type", **typed) == 1
    assert "service_errors{" not in registry.render()


def test_a_fault_of_the_server_is_an_error() -> None:
    registry = Registry()
    operation = ServiceMetrics(registry, "0.1.0").operation("StartWorkflowExecution", "default")
    operation.fail("Unavailable", expected=False)
    assert value(registry, "service_errors", **REQUEST) == 1


def test_limits_are_counted_by_cause() -> None:
    registry = Registry()
    operation = ServiceMetrics(registry, "0.1.0").operation("StartWorkflowExecution", "default")
    operation.exhausted("ConcurrentLimit", "Namespace")
    labels = {
        **REQUEST,
        "resource_exhausted_cause": "ConcurrentLimit",
        "resource_exhausted_scope": "Namespace",
    }
    assert value(registry, "service_errors_resource_exhausted", **labels) == 1


@pytest.mark.parametrize(
    ("status", "name"),
    [
        ("COMPLETED", "workflow_success"),
        ("FAILED", "workflow_failed"),
        ("CANCELED", "workflow_cancel"),
        ("TERMINATED", "workflow_terminate"),
        ("TIMED_OUT", "workflow_timeout"),
        ("CONTINUED_AS_NEW", "workflow_continued_as_new"),
    ],
)
def test_closes_are_counted_by_status(status: str, name: str) -> None:
    registry = Registry()
    number = WorkflowExecutionStatus.Value(f"WORKFLOW_EXECUTION_STATUS_{status}")
    ServiceMetrics(registry, "0.1.0").workflow_closed(number, "default", "orders", "Order", 1.5, 3000, 11)
    run = {
        "service_name": "history",
        "operation": "CompletionStats",
        "namespace": "default",
        "taskqueue": "orders",
        "workflowType": "Order",
    }
    assert value(registry, name, **run) == 1
    assert value(registry, "workflow_duration_sum", **run) == 1.5


def test_the_process_is_measured() -> None:
    registry = Registry()
    ServiceMetrics(registry, "0.1.0")
    assert value(registry, "process_resident_memory_bytes") > 1_000_000
    assert value(registry, "process_cpu_seconds_total") > 0
    assert value(registry, "build_information", service_name="frontend", build_version="0.1.0") == 1


@pytest.fixture
async def endpoint() -> AsyncIterator[MetricsEndpoint]:
    registry = Registry()
    registry.counter("requests", "Requests.").child().value = 5
    endpoint = MetricsEndpoint(registry)
    await endpoint.start("127.0.0.1", 0)
    yield endpoint
    await endpoint.stop()


async def test_metrics_are_served(endpoint: MetricsEndpoint) -> None:
    def scrape() -> tuple[str, str]:
        with urllib.request.urlopen(f"http://127.0.0.1:{endpoint.port}/metrics?x=1") as response:
            return response.headers["Content-Type"], response.read().decode()

    content_type, text = await asyncio.to_thread(scrape)
    assert content_type.startswith("text/plain; version=0.0.4")
    assert "\nrequests 5\n" in text


async def test_nothing_else_is_served(endpoint: MetricsEndpoint) -> None:
    def scrape(path: str, data: bytes | None) -> int:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{endpoint.port}{path}", data)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        return 200

    assert await asyncio.to_thread(scrape, "/", None) == 404
    assert await asyncio.to_thread(scrape, "/metrics", b"x") == 405


async def test_what_is_not_http_is_cut_off(endpoint: MetricsEndpoint) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", endpoint.port)
    writer.write(b"x" * 100_000)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    writer.close()
