package peer;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonGenerator;
import java.io.BufferedOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HexFormat;
import java.util.Map;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StoreQueryParameters;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.QueryableStoreTypes;
import org.apache.kafka.streams.state.ReadOnlyKeyValueStore;

/** Writes what the stores hold into a file, a line of JSON for each entry, to be compared. */
final class Dump {
  private interface Values<V> {
    void write(JsonGenerator to, V value) throws IOException;
  }

  private final KafkaStreams streams;
  private final OutputStream file;

  private Dump(KafkaStreams streams, OutputStream file) {
    this.streams = streams;
    this.file = file;
  }

  static void write(KafkaStreams streams, Path path) throws IOException {
    try (OutputStream file = new BufferedOutputStream(Files.newOutputStream(path))) {
      Dump dump = new Dump(streams, file);
      dump.<String, Job>all(Projections.JOBS, Dump::job);
      dump.<byte[], byte[]>all(Projections.LISTING, (to, value) -> {});
      dump.<byte[], byte[]>all(Projections.MEMBERS, (to, value) -> {});
      dump.<byte[], long[]>all(
          Projections.COUNTERS,
          (to, counts) -> {
            to.writeFieldName("counts");
            to.writeArray(counts, 0, counts.length);
          });
    }
  }

  private <K, V> void all(String store, Values<V> values) throws IOException {
    ReadOnlyKeyValueStore<K, V> found =
        streams.store(
            StoreQueryParameters.fromNameAndType(store, QueryableStoreTypes.keyValueStore()));
    try (KeyValueIterator<K, V> entries = found.all()) {
      while (entries.hasNext()) {
        var entry = entries.next();
        JsonGenerator to = new JsonFactory().createGenerator(file);
        to.disable(JsonGenerator.Feature.AUTO_CLOSE_TARGET);
        to.writeStartObject();
        to.writeStringField("store", store);
        to.writeStringField("key", entry.key instanceof byte[] key ? hex(key) : "" + entry.key);
        values.write(to, entry.value);
        to.writeEndObject();
        to.close();
        file.write('\n');
      }
    }
  }

  private static void job(JsonGenerator to, Job job) throws IOException {
    to.writeStringField("state", job.state.name().toLowerCase());
    to.writeNumberField("createdAt", job.createdAt);
    to.writeNumberField("updatedAt", job.updatedAt);
    to.writeObjectField("startedAt", job.startedAt);
    to.writeObjectField("endedAt", job.endedAt);
    to.writeNumberField("attempt", job.attempt);
    to.writeStringField("owner", job.owner);
    to.writeStringField("jobType", job.jobType);
    to.writeStringField("bulkId", job.bulk);
    to.writeFieldName("viewers");
    to.writeArray(job.viewers, 0, job.viewers.length);
    to.writeObjectFieldStart("tags");
    for (Map.Entry<String, String> tag : job.tags.entrySet()) {
      to.writeStringField(tag.getKey(), tag.getValue());
    }
    to.writeEndObject();
    to.writeObjectField("progress", job.progress);
    to.writeStringField("error", text(job.error));
    to.writeStringField("output", text(job.output));
    to.writeNumberField("events", job.trail.length / Job.TRAIL_ENTRY);
  }

  private static String text(byte[] json) {
    return json == null ? null : new String(json, StandardCharsets.UTF_8);
  }

  private static String hex(byte[] key) {
    return HexFormat.of().formatHex(key);
  }
}
