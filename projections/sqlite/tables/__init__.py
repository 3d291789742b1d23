"""What lies in the tables of a shard, both ways: for the writer and for the reader."""
