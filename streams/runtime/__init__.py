"""The fold and everything it stands on: records, tables, due times, checkpoints and the logs."""
