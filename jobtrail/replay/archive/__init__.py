"""Archives: the log's history in files that outlive the retention of the cluster."""
