"""Offline speech: recognizers and synthesizers, and the worker processes that run them."""
