"""``python -m services.config``"""

from services.config.app import run

if __name__ == "__main__":
    run()
