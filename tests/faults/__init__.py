"""What dies, hangs, lies or comes twice."""
