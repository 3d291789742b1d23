package peer;

import java.nio.ByteBuffer;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AdminClientConfig;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.state.KeyValueBytesStoreSupplier;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.Stores;

/**
 * Brings the projections from the start of a topic to its end, and says how far it is.
 *
 * <p>On standard output: `began` with the first event, `done SECONDS SECONDS_OF_SECOND_HALF` when all
 * are processed and the group's committed offsets say so. It ends when standard input does.
 */
public final class Main {
  /** Bytes: the jobs under way and a day's counters find room in it. The default is 10 MiB. */
  private static final long CACHE = 256 << 20;

  private final String kind;
  private final String servers;
  private final String topic;
  private final String group;
  private final Path folder;
  private final long events;

  private Main(String[] arguments) {
    kind = arguments[0];
    servers = arguments[1];
    topic = arguments[2];
    group = arguments[3];
    folder = Path.of(arguments[4]);
    events = Long.parseLong(arguments[5]);
  }

  /** Takes durable or memory, servers, topic, group, folder, events, and a file for `Dump`. */
  public static void main(String[] arguments) throws Exception {
    Main main = new Main(arguments);
    Thread parent = new Thread(Main::endWithParent, "parent");
    parent.setDaemon(true);
    parent.start();
    main.run(arguments.length > 6 ? Path.of(arguments[6]) : null);
    parent.join();
  }

  private static void endWithParent() {
    try {
      while (System.in.read() >= 0) {}
    } catch (java.io.IOException error) {
      // It is gone as well.
    }
    Runtime.getRuntime().halt(0);
  }

  private void run(Path dump) throws Exception {
    long[] began = new long[1];
    Progress progress =
        new Progress(
            events,
            () -> {
              began[0] = System.nanoTime();
              say("began");
            });
    KafkaStreams streams = new KafkaStreams(topology(progress), configuration());
    streams.setUncaughtExceptionHandler(
        error -> {
          error.printStackTrace();
          Runtime.getRuntime().halt(1);
          return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
    streams.start();
    try (Admin admin = Admin.create(Map.of(AdminClientConfig.BOOTSTRAP_SERVERS_CONFIG, servers))) {
      while (!progress.isDone() || committed(admin) < events) {
        Thread.sleep(20);
      }
    }
    long ended = System.nanoTime();
    if (dump != null) {
      Dump.write(streams, dump);
    }
    say("done " + (ended - began[0]) / 1e9 + " " + (ended - progress.half()) / 1e9);
  }

  private long committed(Admin admin) throws Exception {
    long sum = 0;
    for (OffsetAndMetadata offset :
        admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get().values()) {
      sum += offset.offset();
    }
    return sum;
  }

  private static synchronized void say(String line) {
    System.out.println(line);
    System.out.flush();
  }

  private Topology topology(Progress progress) {
    Topology topology = new Topology();
    topology.addSource(
        "log", Serdes.String().deserializer(), Serdes.ByteArray().deserializer(), topic);
    topology.addProcessor("projections", () -> new Projections(progress), "log");
    for (StoreBuilder<?> store :
        List.of(
            store(Projections.JOBS, Serdes.String(), Job.serde()),
            store(Projections.LISTING, Serdes.ByteArray(), Serdes.ByteArray()),
            store(Projections.COUNTERS, Serdes.ByteArray(), counts()),
            store(Projections.MEMBERS, Serdes.ByteArray(), Serdes.ByteArray()))) {
      topology.addStateStore(store, "projections");
    }
    return topology;
  }

  private <K, V> StoreBuilder<?> store(String name, Serde<K> keys, Serde<V> values) {
    boolean durable = kind.equals("durable");
    KeyValueBytesStoreSupplier supplier =
        durable ? Stores.persistentKeyValueStore(name) : Stores.inMemoryKeyValueStore(name);
    var builder = Stores.keyValueStoreBuilder(supplier, keys, values);
    if (!durable) {
      return builder.withLoggingDisabled();
    }
    // The record cache spares the store and its changelog what is soon written again; a key of
    // the listing is written once.
    return name.equals(Projections.LISTING) ? builder : builder.withCachingEnabled();
  }

  private static Serde<long[]> counts() {
    return Serdes.serdeFrom(
        (topic, counts) -> {
          if (counts == null) {
            return null;
          }
          ByteBuffer to = ByteBuffer.allocate(Long.BYTES * counts.length);
          to.asLongBuffer().put(counts);
          return to.array();
        },
        (topic, bytes) -> {
          if (bytes == null) {
            return null;
          }
          long[] counts = new long[bytes.length / Long.BYTES];
          ByteBuffer.wrap(bytes).asLongBuffer().get(counts);
          return counts;
        });
  }

  private Properties configuration() {
    Properties chosen = new Properties();
    chosen.put(StreamsConfig.APPLICATION_ID_CONFIG, group);
    chosen.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, servers);
    chosen.put(StreamsConfig.STATE_DIR_CONFIG, folder.toString());
    chosen.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 2);
    chosen.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, CACHE);
    // Whole fetches are worked on at once, and an idle thread looks at the clock often.
    chosen.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 10_000);
    chosen.put(StreamsConfig.POLL_MS_CONFIG, 10);
    chosen.put(StreamsConfig.mainConsumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 10_000);
    chosen.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
    chosen.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 256 * 1024);
    return chosen;
  }
}
