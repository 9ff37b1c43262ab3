"""The gRPC gateway: translates Temporal's public API to records and replies back."""
