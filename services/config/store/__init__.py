"""All SQL of config: domains with their pairs, libraries, history, queries, revisions."""
