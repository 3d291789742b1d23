"""Kafka: the clients, the records and batches, and what is asked of the log."""
