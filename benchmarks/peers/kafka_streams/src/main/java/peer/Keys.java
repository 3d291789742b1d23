package peer;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;

/** The keys of the listing and the counters: a page, or a range of days, is a range of keys. */
final class Keys {
  /** Begins the listing of all jobs, and their counters. */
  static final String EVERYBODY = "*";
  private static final long DAY = 86_400_000_000L;

  private Keys() {}

  /** Returns a job's key in a listing: newest first, then by id. */
  static byte[] listed(char kind, String whose, long createdAt, String id) {
    byte[] name = whose.getBytes(StandardCharsets.UTF_8);
    byte[] end = id.getBytes(StandardCharsets.UTF_8);
    return ByteBuffer.allocate(name.length + end.length + 10)
        .put((byte) kind).put(name).put((byte) 0)
        .putLong(~createdAt ^ Long.MIN_VALUE).put(end).array();
  }

  /** Returns the key of the counters of an audience, a day and a type. */
  static byte[] counted(String audience, long createdAt, String jobType) {
    byte[] name = audience.getBytes(StandardCharsets.UTF_8);
    byte[] type = (jobType == null ? "" : jobType).getBytes(StandardCharsets.UTF_8);
    return ByteBuffer.allocate(name.length + type.length + 5)
        .put(name).put((byte) 0).putInt((int) Math.floorDiv(createdAt, DAY)).put(type).array();
  }

  /** Returns the key that says that a principal belongs to an audience. */
  static byte[] member(String principal, String audience) {
    return (principal + '\0' + audience).getBytes(StandardCharsets.UTF_8);
  }
}
