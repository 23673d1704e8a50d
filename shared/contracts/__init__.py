"""WHAT is said on the wire: pydantic models, one module a family. Standard library and pydantic
only."""
