"""The content of a shard's tables, for the writer and for the reader."""
