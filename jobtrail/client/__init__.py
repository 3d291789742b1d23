"""Clients of the service: `Client` for asyncio, `SyncClient` for scripts and notebooks.

```python
async with Client("http://127.0.0.1:8040", token) as client:
    async for job in client.search(states=["failed"]):
        print(job.id, job.error)
    done = await client.wait(["nightly-1"], within=60)
```
"""

from jobtrail.client.asynchronous import Client
from jobtrail.client.errors import ApiError, ServiceUnavailable
from jobtrail.client.synchronous import SyncClient
from jobtrail.contract.results import Change, HistoryEntry, Job, Status, TypeCount

__all__ = [
    "ApiError",
    "Change",
    "Client",
    "HistoryEntry",
    "Job",
    "ServiceUnavailable",
    "Status",
    "SyncClient",
    "TypeCount",
]
