"""Odradek on Kafka, Cassandra and PostgreSQL, beside the real server on the same Cassandra and PostgreSQL."""
