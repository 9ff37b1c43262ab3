"""The dataflow: processors, the workflow state machine, the runtime under them and the stores."""
