package peer;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;

/** What is known of one job. Instants are microseconds since 1970; null is what is not known. */
final class Job {
  /** Hash of the event's id, offset, time, state, verdict. */
  static final int TRAIL_ENTRY = 3 * Long.BYTES + 2;

  State state;
  long createdAt;
  long updatedAt;
  Long startedAt;
  Long endedAt;
  int attempt;
  String owner;
  String jobType;
  String bulk;
  String[] viewers = {};
  Map<String, String> tags = Map.of();
  Double progress;
  byte[] error;
  byte[] output;
  /** One entry for each event, oldest first. */
  byte[] trail = {};

  static Serde<Job> serde() {
    return Serdes.serdeFrom(
        (topic, job) -> job == null ? null : job.toBytes(),
        (topic, bytes) -> bytes == null ? null : fromBytes(bytes));
  }

  /** Who may see it, as the keys of the listing and the counters begin. */
  String audience() {
    if (owner == null) {
      return "";
    }
    return viewers.length == 0 ? owner : owner + '\1' + String.join("\1", viewers);
  }

  private byte[] toBytes() {
    byte[][] texts = new byte[3 + viewers.length + 2 * tags.size()][];
    int at = 0;
    texts[at++] = utf8(owner);
    texts[at++] = utf8(jobType);
    texts[at++] = utf8(bulk);
    for (String viewer : viewers) {
      texts[at++] = utf8(viewer);
    }
    for (Map.Entry<String, String> tag : tags.entrySet()) {
      texts[at++] = utf8(tag.getKey());
      texts[at++] = utf8(tag.getValue());
    }
    int size = 64 + length(error) + length(output) + trail.length;
    for (byte[] text : texts) {
      size += length(text);
    }
    ByteBuffer to = ByteBuffer.allocate(size);
    to.put((byte) state.ordinal()).putLong(createdAt).putLong(updatedAt);
    to.putLong(startedAt == null ? Long.MIN_VALUE : startedAt);
    to.putLong(endedAt == null ? Long.MIN_VALUE : endedAt);
    to.putInt(attempt).putDouble(progress == null ? Double.NaN : progress);
    to.putShort((short) viewers.length).put((byte) tags.size());
    for (byte[] text : texts) {
      put(to, text);
    }
    put(to, error);
    put(to, output);
    put(to, trail);
    return to.array();
  }

  private static Job fromBytes(byte[] bytes) {
    ByteBuffer from = ByteBuffer.wrap(bytes);
    Job job = new Job();
    job.state = State.ALL[from.get()];
    job.createdAt = from.getLong();
    job.updatedAt = from.getLong();
    job.startedAt = instant(from);
    job.endedAt = instant(from);
    job.attempt = from.getInt();
    double progress = from.getDouble();
    job.progress = Double.isNaN(progress) ? null : progress;
    job.viewers = new String[from.getShort()];
    int tags = from.get();
    job.owner = text(from);
    job.jobType = text(from);
    job.bulk = text(from);
    for (int viewer = 0; viewer < job.viewers.length; viewer++) {
      job.viewers[viewer] = text(from);
    }
    if (tags > 0) {
      job.tags = new LinkedHashMap<>(2 * tags);
      for (int tag = 0; tag < tags; tag++) {
        job.tags.put(text(from), text(from));
      }
    }
    job.error = bytes(from);
    job.output = bytes(from);
    job.trail = bytes(from);
    return job;
  }

  private static byte[] utf8(String text) {
    return text == null ? null : text.getBytes(StandardCharsets.UTF_8);
  }

  /** Returns how much room a field takes: three bytes of length, and itself. */
  private static int length(byte[] field) {
    return 3 + (field == null ? 0 : field.length);
  }

  private static void put(ByteBuffer to, byte[] field) {
    int length = field == null ? 0xFFFFFF : field.length;
    to.put((byte) (length >> 16)).putShort((short) length);
    if (field != null) {
      to.put(field);
    }
  }

  private static int takeLength(ByteBuffer from) {
    return (from.get() & 0xFF) << 16 | (from.getShort() & 0xFFFF);
  }

  private static byte[] bytes(ByteBuffer from) {
    int length = takeLength(from);
    if (length == 0xFFFFFF) {
      return null;
    }
    byte[] field = new byte[length];
    from.get(field);
    return field;
  }

  private static String text(ByteBuffer from) {
    int length = takeLength(from);
    if (length == 0xFFFFFF) {
      return null;
    }
    String text = new String(from.array(), from.position(), length, StandardCharsets.UTF_8);
    from.position(from.position() + length);
    return text;
  }

  private static Long instant(ByteBuffer from) {
    long instant = from.getLong();
    return instant == Long.MIN_VALUE ? null : instant;
  }
}
