"""Runs the sample order: ``python -m examples.demo [--address HOST:PORT]``.

Without an address it starts the embedded server on a free port over a temporary file.
"""

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from temporalio.client import Client, WorkflowHandle, WorkflowUpdateFailedError

from examples.demo import history
from examples.demo.order import TASK_QUEUE, Order, OrderWorkflow

EXPECTED = "receipt-{id}, approved by Josef, shipped 6 parcels to Zeltnergasse 3, Prague"
STEP_TIMEOUT_S = 30
_started = time.monotonic()


def tell(text: str) -> None:
    """Prints a step with the time since the start."""
    print(f"{time.monotonic() - _started:6.2f} s  {text}", flush=True)


@contextmanager
def embedded_server(directory: str) -> Iterator[str]:
    """Starts ``odradek dev`` over a file in ``directory``, yields its address, and stops it."""
    odradek = str(Path(sys.executable).with_name("odradek"))
    command = [odradek, "dev", "--port", "0", "--db-filename", f"{directory}/demo.db"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        for line in process.stdout:
            if line.startswith("Server:"):
                yield line.split()[1]
                break
        else:
            raise SystemExit(f"the server did not start (exit code {process.wait()})")
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=STEP_TIMEOUT_S)
        tell(f"server stopped with exit code {code}")
        if code:
            raise SystemExit(code)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def worker(address: str) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a worker process and kills it in the end, unless it is gone by then."""
    process = subprocess.Popen([sys.executable, "-m", "examples.demo.worker", address])
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


async def until(reached: Callable[[], Awaitable[bool]]) -> None:
    """Asks again and again, ten times a second, until the answer is yes."""
    async with asyncio.timeout(STEP_TIMEOUT_S):
        while not await reached():  # noqa: ASYNC110 (another process reaches it)
            await asyncio.sleep(0.1)


async def status_becomes(handle: WorkflowHandle[OrderWorkflow, str], wanted: str) -> None:
    """Asks the workflow for its status until it is ``wanted``."""

    async def reached() -> bool:
        return await handle.query(OrderWorkflow.status) == wanted

    await until(reached)
    tell(f'query: status is "{wanted}"')


async def parcels_packed(client: Client, workflow_id: str, wanted: int) -> None:
    """Follows the heartbeats of the child's activity until ``wanted`` parcels are packed."""
    handle = client.get_workflow_handle(workflow_id)

    async def reached() -> bool:
        pending = (await handle.describe()).raw_description.pending_activities
        details = pending[0].heartbeat_details.payloads if pending else []
        return bool(details) and int(details[0].data) >= wanted

    await until(reached)


async def order(address: str, processes: ExitStack) -> None:
    """Works one order and prints how it went. Raises if it did not go as it should."""
    client = await Client.connect(address)
    order_id = f"order-{int(time.time())}"
    handle = await client.start_workflow(
        OrderWorkflow.run, Order(order_id, "spools", "nowhere"), id=order_id, task_queue=TASK_QUEUE
    )
    tell(f"started workflow {order_id}; nobody works its queue yet")
    first = processes.enter_context(worker(address))
    await status_becomes(handle, "waiting for approval")

    try:
        await handle.execute_update(OrderWorkflow.change_address, "somewhere")
    except WorkflowUpdateFailedError as refusal:
        tell(f"update: refused by its validator ({refusal.cause})")
    old = await handle.execute_update(OrderWorkflow.change_address, "Zeltnergasse 3, Prague")
    tell(f'update: address changed, it was "{old}"')
    await handle.signal(OrderWorkflow.approve, "Josef")
    tell("signal: approved by Josef")
    await status_becomes(handle, "shipping")

    await parcels_packed(client, f"{order_id}-shipment", 3)
    first.send_signal(signal.SIGKILL)
    tell(f"SIGKILL to worker {first.pid}, half-way through its activity")
    processes.enter_context(worker(address))
    tell("another worker takes its place")

    result = await asyncio.wait_for(handle.result(), STEP_TIMEOUT_S)
    tell(f"result: {result}")
    for workflow_id in (order_id, f"{order_id}-shipment"):
        print(f"\nHistory of {workflow_id}")
        events = (await client.get_workflow_handle(workflow_id).fetch_history()).events
        print("\n".join(history.lines(events)))
    print()
    if result != EXPECTED.format(id=order_id):
        raise SystemExit("the result is not the expected one")


def main() -> None:
    """Runs the demo."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument("--address", help="a running server to use, such as 127.0.0.1:7233")
    address = parser.parse_args().address
    with tempfile.TemporaryDirectory(prefix="odradek-demo-") as directory, ExitStack() as processes:
        if not address:
            address = processes.enter_context(embedded_server(directory))
            tell(f"embedded server listens on {address}")
        with ExitStack() as workers:
            asyncio.run(order(address, workers))
    tell("done")


if __name__ == "__main__":
    main()
    # The SDK's threads may still be busy with the last answer, and crash an interpreter that is
    # finalized meanwhile (temporalio 1.35: about one exit in twelve right after an answer).
    sys.stdout.flush()
    os._exit(0)
