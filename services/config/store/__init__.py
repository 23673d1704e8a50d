"""All SQL of config: domains with their pairs, what was settled, what is read, revisions."""
