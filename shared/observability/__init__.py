"""Logs without secrets, metrics and health."""
