"""What billing does: a file for each use case, and the only place with transactions."""
