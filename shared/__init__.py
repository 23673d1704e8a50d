"""What the four services agree on: contracts, subjects, topology, delivery, crypto. Knows no
service."""
