"""The demo: the whole path on this machine, told as a story; each step checks what it says."""
