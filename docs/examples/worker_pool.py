"""A pool of threads that work off a queue and tell what becomes of each job."""

import queue
import sys
import threading

from jobtrail import SyncJobProducer


def work(name: str, todo: "queue.Queue[int]", producer: SyncJobProducer) -> None:
    while True:
        try:
            number = todo.get_nowait()
        except queue.Empty:
            return
        try:
            with producer.job("report", owner="alice", worker=name) as job:
                job.progress(0.5, "half of it")
                job.output = {"quotient": 100 // number}
        except ZeroDivisionError as error:
            # The job is failed by now; the pool goes on.
            print(f"{job.id}: {error}", file=sys.stderr)


todo: "queue.Queue[int]" = queue.Queue()
for number in range(8):
    todo.put(number)
with SyncJobProducer("//examples/pool") as producer:
    pool = [threading.Thread(target=work, args=(f"w{n}", todo, producer)) for n in range(3)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
