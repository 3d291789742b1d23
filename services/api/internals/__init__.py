"""What the API uses of libraries beyond their documented interfaces."""
