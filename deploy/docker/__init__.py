"""The platform in containers: what compose.yaml mounts."""
