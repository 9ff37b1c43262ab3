"""Composition: settings, command line, and the processes that the engine and the gateway run in."""
