"""Problems: everything that goes wrong is answered in one form."""
