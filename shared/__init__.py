"""What the four services agree on: contracts, catalogue, topology, delivery, crypto. Imports no
service."""
