package peer;

import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicLong;

/** How many events all tasks have processed together, and since when. */
final class Progress {
  private final long wanted;
  private final Runnable atFirst;
  private volatile long half;
  private final AtomicBoolean begun = new AtomicBoolean();
  private final AtomicLong processed = new AtomicLong();

  Progress(long wanted, Runnable atFirst) {
    this.wanted = wanted;
    this.atFirst = atFirst;
  }

  void begins() {
    if (!begun.get() && begun.compareAndSet(false, true)) {
      atFirst.run();
    }
  }

  void processed() {
    if (processed.incrementAndGet() == wanted / 2) {
      half = System.nanoTime();
    }
  }

  /** Returns when half of them were processed, by `System.nanoTime()`. */
  long half() {
    return half;
  }

  boolean isDone() {
    return processed.get() >= wanted;
  }
}
