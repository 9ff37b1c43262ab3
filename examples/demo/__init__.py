"""A sample order, worked on the official Python SDK; run it with ``make demo``."""
