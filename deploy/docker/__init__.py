"""The platform in containers: the files that compose.yaml mounts."""
