"""What is used of libraries beyond their documented interfaces: one module for each library."""
