"""Requests and answers as HTTP has them."""
