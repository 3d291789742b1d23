"""Mutation testing of what decides a job's state: `make mutate`, see docs/reliability.md."""
