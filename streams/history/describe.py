"""What a run looks like to clients: DescribeWorkflowExecution."""
