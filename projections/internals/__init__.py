"""What the projectors use of libraries beyond their documented interfaces."""
