"""Avro schemas of every record and table row, one file each."""
