"""What connects jobtrail to other people's job systems; each needs an extra of its own."""
