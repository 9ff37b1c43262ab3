"""The order workflow, its child and their activities: plain code on the official Python SDK."""

import asyncio
import os
from dataclasses import dataclass
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError

TASK_QUEUE = "orders"
PARCELS = 6


@dataclass
class Order:
    """What a customer wants, and where to."""

    order_id: str
    item: str
    address: str


def say(text: str) -> None:
    """Tells what this worker process does."""
    print(f"    worker {os.getpid()}: {text}", flush=True)


@activity.defn
async def charge_card(order: Order) -> str:
    """Charges the card, at the third attempt."""
    attempt = activity.info().attempt
    if attempt < 3:
        say(f"charge_card, attempt {attempt}: the bank does not answer")
        raise ApplicationError("the bank does not answer")
    say(f"charge_card, attempt {attempt}: charged")
    return f"receipt-{order.order_id}"


@activity.defn
async def pack_parcels(item: str) -> str:
    """Packs parcel after parcel and heartbeats each: a new attempt goes on where the last one died."""
    details = activity.info().heartbeat_details
    packed = int(details[0]) if details else 0
    say(f"pack_parcels, attempt {activity.info().attempt}: {packed} of {PARCELS} are packed already")
    for number in range(packed + 1, PARCELS + 1):
        await asyncio.sleep(0.5)
        activity.heartbeat(number)
        say(f"pack_parcels: {number} of {PARCELS} packed ({item})")
    return f"{PARCELS} parcels"


@workflow.defn
class Shipment:
    """The child workflow: packs, then ships."""

    @workflow.run
    async def run(self, order: Order) -> str:
        """Returns what was shipped where."""
        parcels = await workflow.execute_activity(
            pack_parcels,
            order.item,
            start_to_close_timeout=timedelta(seconds=30),
            heartbeat_timeout=timedelta(seconds=2),
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=200)),
        )
        return f"{parcels} to {order.address}"


@workflow.defn
class OrderWorkflow:
    """An order from payment to shipment."""

    def __init__(self) -> None:
        self._status = "new"
        self._address = ""
        self._approved_by = ""

    @workflow.run
    async def run(self, order: Order) -> str:
        """Returns the whole story of the order in a line."""
        self._address = order.address
        self._status = "paying"
        receipt = await workflow.execute_activity(
            charge_card,
            order,
            start_to_close_timeout=timedelta(seconds=10),
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=400), backoff_coefficient=2.0),
        )
        self._status = "waiting for approval"
        await workflow.wait_condition(lambda: self._approved_by != "")
        self._status = "cooling off"
        await workflow.sleep(2)
        self._status = "shipping"
        order.address = self._address
        shipped = await workflow.execute_child_workflow(
            Shipment.run, order, id=f"{workflow.info().workflow_id}-shipment"
        )
        self._status = "done"
        return f"{receipt}, approved by {self._approved_by}, shipped {shipped}"

    @workflow.signal
    def approve(self, name: str) -> None:
        """Lets the order go on."""
        self._approved_by = name

    @workflow.query
    def status(self) -> str:
        """Returns where the order stands."""
        return self._status

    @workflow.update
    def change_address(self, address: str) -> str:
        """Takes a new address and returns the old one."""
        old, self._address = self._address, address
        return old

    @change_address.validator
    def _refuse_without_city(self, address: str) -> None:
        if "," not in address:
            raise ApplicationError("an address needs a street and a city")
