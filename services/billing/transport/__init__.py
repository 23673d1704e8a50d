"""Every way into billing. Nothing is decided here."""
