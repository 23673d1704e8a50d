"""The demo: the whole path on this machine, told as a story. Each step checks what it says."""
