"""Problems: the one form of all error answers."""
