"""Scenarios run against the real server and ours, and what the real server answered."""
