"""The use cases of billing, a file each. Transactions are opened here only."""
