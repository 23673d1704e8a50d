"""``python -m services.billing``"""

from services.billing.app import run

if __name__ == "__main__":
    run()
