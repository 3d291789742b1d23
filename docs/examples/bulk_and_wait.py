"""10,000 jobs of one bulk: created, worked off, and waited for until the last one has ended.

Usage: bulk_and_wait.py URL TOKEN
"""

import asyncio
import sys

from jobtrail import JobProducer
from jobtrail.client import Client

JOBS = [f"mail-{number}" for number in range(10_000)]


async def main(url: str, token: str) -> None:
    async with JobProducer("//examples/bulk") as producer, Client(url, token) as client:
        make = producer.events
        client.position = await producer.send_all(
            make.created(job, job_type="mail", owner="alice", bulk_id="newsletter") for job in JOBS
        )
        print("created", len(await client.bulk("newsletter")))
        waiting = asyncio.create_task(client.wait(JOBS[-1000:], within=60))
        for event in (make.active, make.completed):
            client.position = await producer.send_all(event(job) for job in JOBS)
        print("ended", sum(status.state == "completed" for status in (await waiting).values()))
        for count in await client.summary(job_types=["mail"]):
            print(f"{count.completed} of {count.total} completed")


asyncio.run(main(*sys.argv[1:]))
