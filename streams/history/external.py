"""Signals and cancel requests from one workflow to another."""
