"""Child workflows, on the parent's side and on the child's."""
