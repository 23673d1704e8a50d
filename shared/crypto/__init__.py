"""Two sealings, four signatures, nothing else (docs/architecture.md, "Keys")."""
