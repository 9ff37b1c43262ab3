"""The engine on Kafka: owners of partitions, their checkpoints, and what gateways need of the log."""
