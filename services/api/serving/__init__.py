"""From a connection to an endpoint: authentication, the table of endpoints, and error answers."""
