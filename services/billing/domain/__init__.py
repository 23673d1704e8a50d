"""The rules of billing: pure functions and values, without I/O and without a clock."""
