"""Real Kafka, Cassandra and PostgreSQL on this machine, from packages: for tests, benchmarks and trying things out."""
