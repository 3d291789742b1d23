"""Files of others as events in the log: reading, mapping, and writing without repeating."""
