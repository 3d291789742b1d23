package peer;

import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;

/** Applies events to jobs, by the rules of the service's own fold. */
final class Fold {
  private static final int MAX_TAGS = 32;
  private static final byte APPLIED = 0;
  private static final byte DUPLICATE = 1;
  private static final byte LATE = 2;
  private static final byte NOT_ALLOWED = 3;

  private Fold() {}

  /** Changes a job by an event, whatever the verdict; a job that is not known yet is new. */
  static void apply(Job job, Event event, long offset, long timestamp) {
    long time = event.time != null ? event.time : timestamp * 1_000;
    long key = hash(event.id);
    State target = State.ofType(event.type);
    byte verdict = APPLIED;
    if (job.state == null) {
      job.state = target == null ? State.CREATED : target;
      job.createdAt = time;
      change(job, event, target, time, event.attempt == null ? 0 : event.attempt);
    } else {
      int attempt = attempt(job, event, target);
      verdict = judge(job, event, key, target, attempt);
      if (verdict == APPLIED) {
        change(job, event, target, time, attempt);
      } else if (job.owner == null && verdict != DUPLICATE && target == State.CREATED) {
        verdict = LATE;
        describe(job, event, time);
        job.tags = merged(event.tags, job.tags);
      }
    }
    int end = job.trail.length;
    job.trail = Arrays.copyOf(job.trail, end + Job.TRAIL_ENTRY);
    ByteBuffer.wrap(job.trail, end, Job.TRAIL_ENTRY)
        .putLong(key).putLong(offset).putLong(time).put((byte) job.state.ordinal()).put(verdict);
  }

  private static int attempt(Job job, Event event, State target) {
    if (event.attempt != null) {
      return event.attempt;
    }
    return job.state == State.RETRY && target == State.ACTIVE ? job.attempt + 1 : job.attempt;
  }

  private static byte judge(Job job, Event event, long key, State target, int attempt) {
    ByteBuffer trail = ByteBuffer.wrap(job.trail);
    for (int at = 0; at < job.trail.length; at += Job.TRAIL_ENTRY) {
      if (trail.getLong(at) == key) {
        return DUPLICATE;
      }
    }
    boolean describes = job.owner == null && target == State.CREATED;
    if (attempt < job.attempt || (describes && attempt == job.attempt)) {
      return LATE;
    }
    if (target == null) {
      return job.state.ended() ? NOT_ALLOWED : APPLIED;
    }
    if (job.state.allows(target, attempt > job.attempt)) {
      return APPLIED;
    }
    return describes ? LATE : NOT_ALLOWED;
  }

  private static void change(Job job, Event event, State target, long time, int attempt) {
    if (attempt > job.attempt) {
      job.attempt = attempt;
      job.progress = null;
    }
    if (target != null) {
      if (job.endedAt != null && !target.ended()) {
        job.endedAt = null;
        job.output = null;
      }
      job.state = target;
      if (target.ended()) {
        job.endedAt = time;
      } else if (target == State.ACTIVE && job.startedAt == null) {
        job.startedAt = time;
      }
    }
    job.updatedAt = time;
    if (!event.tags.isEmpty()) {
      job.tags = merged(job.tags, event.tags);
    }
    if (target == State.COMPLETED || target == State.FAILED) {
      job.output = event.output;
      job.error = target == State.FAILED ? event.error : null;
    } else if (target == State.RETRY) {
      job.error = event.error;
    } else if (target == State.CREATED) {
      describe(job, event, time);
    } else if (target == null && event.progress != null) {
      job.progress = event.progress;
    }
  }

  private static void describe(Job job, Event event, long time) {
    if (job.owner == null) {
      job.createdAt = time;
    }
    job.jobType = event.jobType;
    job.owner = event.owner;
    job.bulk = event.bulk;
    job.viewers = event.viewers;
  }

  private static Map<String, String> merged(Map<String, String> under, Map<String, String> over) {
    Map<String, String> merged = new LinkedHashMap<>(under);
    for (Map.Entry<String, String> tag : over.entrySet()) {
      if (merged.size() < MAX_TAGS || merged.containsKey(tag.getKey())) {
        merged.put(tag.getKey(), tag.getValue());
      }
    }
    return merged;
  }

  /** FNV-1a, and the last step of Murmur3 to spread it. */
  private static long hash(String text) {
    long hash = 0xcbf29ce484222325L;
    for (int at = 0; at < text.length(); at++) {
      hash = (hash ^ text.charAt(at)) * 0x100000001b3L;
    }
    hash = (hash ^ hash >>> 33) * 0xff51afd7ed558ccdL;
    return hash ^ hash >>> 33;
  }
}
