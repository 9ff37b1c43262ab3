"""The workflow state machine: decide on commands, evolve by facts, emit from facts. No I/O."""
