"""The processes that answer: the local Kafka, the API."""
