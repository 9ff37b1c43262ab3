"""The workflow state machine: decide on commands, evolve by facts, emit from facts. No I/O."""

from streams import api_enums

api_enums.settle()
