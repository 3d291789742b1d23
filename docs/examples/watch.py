"""Watches what happens to a user's jobs, from now on, until the given number has ended.

Usage: watch.py URL TOKEN NUMBER
"""

import sys

from jobtrail.client import SyncClient
from jobtrail.core.states import ENDED

url, token, number = sys.argv[1:]
ended = 0
with SyncClient(url, token) as client:
    print("watching", flush=True)
    for change in client.events():
        print(change.job.id, change.state, flush=True)
        ended += change.state in ENDED
        if ended == int(number):
            break
