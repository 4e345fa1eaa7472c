"""Which key wakes which handler, and the process list of a node that follows from it."""
