"""The processes that fold the log into projections, and the stores."""
