"""The local Kafka: a real single-node broker that needs nothing on the machine but Python."""
