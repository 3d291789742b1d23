"""What only a store of SQLite files promises: its files, its statements, its hashes."""
