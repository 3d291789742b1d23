"""Text and tables for people, made safe for their terminals."""
