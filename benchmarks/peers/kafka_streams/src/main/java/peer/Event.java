package peer;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.core.StreamReadFeature;
import java.io.IOException;
import java.time.Instant;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.TreeSet;

/** One CloudEvent about a job, read from JSON token by token: the fastest way that Jackson has. */
final class Event {
  private static final JsonFactory JSON =
      JsonFactory.builder().disable(StreamReadFeature.AUTO_CLOSE_SOURCE).build();

  String id;
  String type;
  /** Microseconds since 1970; null where the event has no time. */
  Long time;
  Integer attempt;
  String owner;
  String jobType;
  String bulk;
  String[] viewers = {};
  Map<String, String> tags = Map.of();
  Double progress;
  /** JSON as it came; null where there is none. */
  byte[] error;
  byte[] output;

  static Event parse(byte[] json) throws IOException {
    Event event = new Event();
    try (JsonParser parser = JSON.createParser(json)) {
      parser.nextToken();
      String name;
      while ((name = parser.nextFieldName()) != null) {
        parser.nextToken();
        switch (name) {
          case "id" -> event.id = parser.getText();
          case "type" -> event.type = parser.getText();
          case "time" -> event.time = micros(parser.getText());
          case "data" -> event.data(parser, json);
          default -> parser.skipChildren();
        }
      }
    }
    return event;
  }

  private void data(JsonParser parser, byte[] json) throws IOException {
    String name;
    while ((name = parser.nextFieldName()) != null) {
      JsonToken token = parser.nextToken();
      boolean anyJson = name.equals("error") || name.equals("output");
      if (token == JsonToken.VALUE_NULL && !anyJson) {
        continue;
      }
      switch (name) {
        case "attempt" -> attempt = parser.getIntValue();
        case "owner" -> owner = parser.getText();
        case "jobType" -> jobType = parser.getText();
        case "bulkId" -> bulk = parser.getText();
        case "viewers" -> viewers = viewers(parser);
        case "tags" -> tags = tags(parser);
        case "progress" -> progress = parser.getDoubleValue();
        case "error" -> error = raw(parser, json);
        case "output" -> output = raw(parser, json);
        default -> parser.skipChildren();
      }
    }
  }

  private static String[] viewers(JsonParser parser) throws IOException {
    TreeSet<String> found = new TreeSet<>();
    while (parser.nextToken() != JsonToken.END_ARRAY) {
      found.add(parser.getText());
    }
    return found.toArray(String[]::new);
  }

  private static Map<String, String> tags(JsonParser parser) throws IOException {
    Map<String, String> found = new LinkedHashMap<>(4);
    String name;
    while ((name = parser.nextFieldName()) != null) {
      found.put(name, parser.nextTextValue());
    }
    return found;
  }

  private static byte[] raw(JsonParser parser, byte[] json) throws IOException {
    int from = (int) parser.currentTokenLocation().getByteOffset();
    parser.skipChildren();
    parser.finishToken();
    return Arrays.copyOfRange(json, from, (int) parser.currentLocation().getByteOffset());
  }

  private static long micros(String text) {
    Instant instant = Instant.parse(text);
    return instant.getEpochSecond() * 1_000_000 + instant.getNano() / 1_000;
  }
}
