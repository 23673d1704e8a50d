"""Two sealings and four signatures, nothing else (docs/architecture.md, "Keys")."""
