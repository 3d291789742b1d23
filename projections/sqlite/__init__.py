"""The projection store of one machine: SQLite files, one writer each, any number of readers."""
