"""The fault kit: whatever happens to the processes, the links and the files, nothing may be lost.

- `stage.staged(folder, Shape(seed=1))`: a whole service with load and clients of its own;
  `stage.kill(keeper)`, `await stage.pause(keeper, 5)`, `await stage.settle()`, then
  `report = await stage.check()` and `assert report.ok, report.words`.
- `checker.check(servers, topic, store_folder, checker.Acks(path))`: any store against any log, by
  itself; the file of acknowledgements has lines of `partition offset event-id`. `checker.Checker`
  folds along while all goes on, and compares as often as one likes.
- `load.Load(servers, topic, acks_path, seed=1, rate=300)`: jobs that live, and that file.
- `keeping.Keeper(name, process)`: a process of `tests.processes` that is started again whenever it
  ends; `kill()` SIGKILL, `pause()` and `resume()` SIGSTOP and SIGCONT.
- `crashing.crashing_projector(settings, point, number)`: a projector that dies before a write,
  after it, or before it is acknowledged.
- `proxy.Proxy("api-kafka", port, broker=True)`: stands before a server; settings that name its
  `address` are led through it. `await proxy.apply(proxy.Fault("half-open"))`, `await proxy.heal()`.
- `files`: truncated, flipped, zeroed and swapped files.
- `model.Model`, `reader.read`, `store.shards`: a fold of their own, the raw log, the store by SQL.

Only public behaviour is used: HTTP, Kafka, and the store's tables by the names of their columns.
`make soak ARGS="--minutes 60 --seed 1"` is the long form.
"""
