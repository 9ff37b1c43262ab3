"""One worker process: ``python -m examples.demo.worker ADDRESS``."""

import asyncio
import logging
import sys
from datetime import timedelta

from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from examples.demo.order import TASK_QUEUE, OrderWorkflow, Shipment, charge_card, pack_parcels, say


async def main(address: str) -> None:
    """Works the queue of orders until the process ends."""
    logging.getLogger("temporalio.activity").setLevel(logging.CRITICAL)  # failures are part of the show
    client = await Client.connect(address)
    worker = Worker(
        client,
        task_queue=TASK_QUEUE,
        workflows=[OrderWorkflow, Shipment],
        activities=[charge_card, pack_parcels],
        # CPython 3.11 fails at random when the SDK's sandbox imports workflow code.
        workflow_runner=UnsandboxedWorkflowRunner(),
        # A killed worker's cached workflows go back to the queue after this long.
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=2),
    )
    say("started")
    await worker.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
