"""The projector: folds the log, and hands what changes to a store."""
