"""The demo: the whole path on this machine, shown as a story. Each step checks what it says."""
