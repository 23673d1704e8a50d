"""The broker: connection, CloudEvents, publisher, pull, consumer, dead letters, request/reply."""
