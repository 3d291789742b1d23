"""Records of known forms, read in columns without parsing each."""
