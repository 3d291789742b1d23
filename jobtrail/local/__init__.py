"""The local service: what `jobtrail up` runs, how commands find it, and its checks."""
