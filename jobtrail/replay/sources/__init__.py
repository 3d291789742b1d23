"""What replay reads from: the log in Kafka, an archive, or both as one."""
