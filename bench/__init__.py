"""One file per claim of speed. ``python -m bench`` runs all and writes the README's table."""
