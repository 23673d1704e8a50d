"""The bodies of all messages: pydantic models, one module for each family. Standard library and
pydantic only."""
