"""History and visibility stores: interfaces, and their implementations on SQLite."""
