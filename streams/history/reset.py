"""Resetting a run: a new run that begins with part of its history."""
