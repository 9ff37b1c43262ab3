"""The schemas of the stores, version by version."""
