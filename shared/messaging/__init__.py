"""The broker: connecting, CloudEvents, publishing with ids, pulling, what to do when something
fails."""
