package peer;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.time.Duration;
import java.util.Arrays;
import java.util.Objects;
import org.apache.kafka.streams.processor.PunctuationType;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.processor.api.RecordMetadata;
import org.apache.kafka.streams.state.KeyValueStore;

/**
 * Keeps the projections of one partition: its jobs, how they are listed, and how many there are.
 *
 * <p>The log is keyed by job, so all about a job is in one partition; who asks for a user's jobs
 * merges the partitions, and nothing has to be sent through a second topic.
 */
final class Projections implements Processor<String, byte[], Void, Void> {
  static final String JOBS = "jobs";
  static final String LISTING = "listing";
  static final String COUNTERS = "counters";
  static final String MEMBERS = "members";
  private static final byte[] NOTHING = {0};

  private final Progress progress;
  private ProcessorContext<Void, Void> context;
  private KeyValueStore<String, Job> jobs;
  private KeyValueStore<byte[], byte[]> listing;
  private KeyValueStore<byte[], long[]> counters;
  private KeyValueStore<byte[], byte[]> members;

  Projections(Progress progress) {
    this.progress = progress;
  }

  @Override
  public void init(ProcessorContext<Void, Void> given) {
    context = given;
    jobs = given.getStateStore(JOBS);
    listing = given.getStateStore(LISTING);
    counters = given.getStateStore(COUNTERS);
    members = given.getStateStore(MEMBERS);
    given.schedule(
        Duration.ofMillis(20),
        PunctuationType.WALL_CLOCK_TIME,
        now -> {
          if (progress.isDone()) {
            given.commit();
          }
        });
  }

  @Override
  public void process(Record<String, byte[]> record) {
    progress.begins();
    Event event;
    try {
      event = Event.parse(record.value());
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    }
    long offset = context.recordMetadata().map(RecordMetadata::offset).orElse(-1L);
    Job job = jobs.get(record.key());
    boolean known = job != null;
    if (!known) {
      job = new Job();
    }
    State state = job.state;
    long createdAt = job.createdAt;
    String audience = known ? job.audience() : null;
    String jobType = job.jobType;
    String bulk = job.bulk;
    Fold.apply(job, event, offset, record.timestamp());
    jobs.put(record.key(), job);

    String after = job.audience();
    boolean moved = !after.equals(audience) || createdAt != job.createdAt;
    if (moved || !Objects.equals(bulk, job.bulk)) {
      if (known) {
        list(audience, bulk, createdAt, record.key(), null);
      }
      list(after, job.bulk, job.createdAt, record.key(), NOTHING);
      admit(job, after);
    }
    if (moved || state != job.state || !Objects.equals(jobType, job.jobType)) {
      count(known ? audience : null, createdAt, jobType, state, after, job);
      count(
          known ? Keys.EVERYBODY : null, createdAt, jobType, state, Keys.EVERYBODY, job);
    }
    progress.processed();
  }

  private void list(String audience, String bulk, long createdAt, String id, byte[] value) {
    listing.put(Keys.listed('a', audience, createdAt, id), value);
    listing.put(Keys.listed('e', Keys.EVERYBODY, createdAt, id), value);
    if (bulk != null) {
      listing.put(Keys.listed('b', bulk, createdAt, id), value);
    }
  }

  private void admit(Job job, String audience) {
    if (job.owner != null) {
      members.putIfAbsent(Keys.member("user:" + job.owner, audience), NOTHING);
      for (String viewer : job.viewers) {
        members.putIfAbsent(Keys.member(viewer, audience), NOTHING);
      }
    }
  }

  private void count(
      String before, long createdAt, String jobType, State state, String after, Job job) {
    byte[] to = Keys.counted(after, job.createdAt, job.jobType);
    long[] counts = counters.get(to);
    if (counts == null) {
      counts = new long[State.ALL.length];
    }
    counts[job.state.ordinal()]++;
    if (before != null) {
      byte[] from = Keys.counted(before, createdAt, jobType);
      if (Arrays.equals(from, to)) {
        counts[state.ordinal()]--;
      } else {
        long[] others = counters.get(from);
        others[state.ordinal()]--;
        counters.put(from, others);
      }
    }
    counters.put(to, counts);
  }
}
