"""The bridge from a pg-boss database: its rows become job events, each once.

pg-boss is a job queue in PostgreSQL for Node.js. `mapping` turns a row into events, `source` reads
the rows that changed, `memory` stores the progress, `bridge` runs it.
"""
