"""Run ``python -m services.edge_sync``."""

from services.edge_sync.app import run

if __name__ == "__main__":
    run()
