"""A Celery app whose tasks are jobs: published, worked off by a worker of this process, told.

A real app has a real broker, and `celery worker` for the second half.
"""

from celery import Celery
from celery.contrib.testing.worker import start_worker

from jobtrail.integrations.celery import track

app = Celery("shop", broker="memory://", backend="cache+memory://")
tracking = track(app, source="//examples/celery", owner="alice")


@app.task(name="resize")
def resize(name: str) -> dict[str, str]:
    return {"thumbnail": f"{name}.png"}


if __name__ == "__main__":
    with start_worker(app, perform_ping_check=False):
        results = [resize.delay(f"picture-{number}") for number in range(3)]
        print(*(result.get(timeout=30)["thumbnail"] for result in results))
    tracking.flush()
