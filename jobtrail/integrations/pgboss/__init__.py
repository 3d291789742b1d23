"""The bridge from a pg-boss database: its rows become job events, each once.

pg-boss is a job queue in PostgreSQL for Node.js. `mapping` says which events a row proves, `source`
reads the rows that changed, `memory` keeps how far that went, `bridge` runs it.
"""
