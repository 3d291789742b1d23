"""Records as events: decoded in columns, or followed one by one."""
