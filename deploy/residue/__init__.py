"""The residue scan: shows that nothing of a certificate pair is left after a disable."""
